"""Muskie, a multi-view vision backbone, in JAX: pre-training, evaluation and use."""

__version__ = "0.1.0"
