"""Weights elsewhere: PyTorch's names, files, the Hugging Face hub, StableHLO and ONNX.

Nothing is imported here, so that `torch_model` can be used where JAX is not installed.
"""
