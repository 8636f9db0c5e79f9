"""Work directories, weights and exports in object storage: gs:// and s3://."""
