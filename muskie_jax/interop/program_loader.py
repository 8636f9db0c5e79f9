"""Runs an exported Muskie. It needs jax, flatbuffers, numpy and safetensors, but not muskie_jax.

    from load_muskie import load

    muskie = load()  # the program in this file's folder
    results = muskie(images)  # (groups, views, height, width, 3) in [-1, 1]; a mask is optional

The view count, height and width are fixed at export. The number of groups is free.
"""

import pathlib
from collections.abc import Callable

import jax
import numpy as np
import safetensors.numpy
from jax import export
from jax.core import Tracer

PROGRAM = "muskie.stablehlo"
WEIGHTS = "weights.safetensors"
LARGEST_VALUE = 10.0  # larger ones are pixels from 0 to 255 that were not scaled to [-1, 1]


def load(folder: str | pathlib.Path | None = None) -> Callable[..., tuple[jax.Array, ...]]:
    """Loads the program in a folder; the default is the folder of this file.

    Returns:
      A function of images, float (groups, views, height, width, 3) in [-1, 1], and of an optional mask,
      bool (groups, views, patches), True = masked. It returns the exported output: the tokens after every
      block, or the predicted pixels and their confidence.
    """
    folder = pathlib.Path(folder or pathlib.Path(__file__).parent)
    program = export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
    params = jax.device_put(safetensors.numpy.load_file(folder / WEIGHTS))
    call = jax.jit(program.call)
    _, images_shape, mask_shape = jax.tree.unflatten(program.in_tree, program.in_avals)[0]

    def muskie(images: np.ndarray, mask: np.ndarray | None = None) -> tuple[jax.Array, ...]:
        expected = images_shape.shape[1:]
        if images.shape[1:] != expected or not jax.numpy.issubdtype(images.dtype, jax.numpy.floating):
            sizes = ", ".join(map(str, expected))
            raise ValueError(
                f"images must be float, of shape (groups, {sizes}), got {images.dtype} {images.shape}"
            )
        # Inside jax.jit, values are unknown.
        if not isinstance(images, Tracer) and np.abs(images).max(initial=0) > LARGEST_VALUE:
            raise ValueError("images must be in [-1, 1]: convert 0..255 pixels with x / 127.5 - 1")
        if mask is None:
            mask = np.zeros((len(images), *mask_shape.shape[1:]), bool)
        return call(params, images.astype(np.float32), mask.astype(bool))

    return muskie
