"""The demo: a web page on which a person tries a network on photographs."""
