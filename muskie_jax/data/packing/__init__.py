"""Packing scenes into ArrayRecord shards that TFDS knows, and reading them."""
