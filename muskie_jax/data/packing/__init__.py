"""Packs: scenes stored as TFDS-compatible ArrayRecord shards, written by `pack` and read for training."""
