"""What several tests share: small runs, networks, folders of data, and commands."""
