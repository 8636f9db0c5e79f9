"""Import and export of weights: PyTorch names, files, the Hugging Face hub, StableHLO and ONNX.

This file imports nothing, so that `torch_model` works where JAX is not installed.
"""
