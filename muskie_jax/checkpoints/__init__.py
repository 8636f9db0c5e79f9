"""Checkpoints on disk: their contents, which steps are saved, when to save, and what Orbax reports."""
