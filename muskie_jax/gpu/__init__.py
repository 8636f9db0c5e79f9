"""What GPUs need beyond JAX: a guard for cuDNN's first runs, and deterministic kernels."""
