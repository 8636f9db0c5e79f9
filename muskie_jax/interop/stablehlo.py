"""Exports Muskie as a serialized program that JAX runs on CPUs, GPUs and TPUs without muskie_jax.

JAX compiles the program (`jax.export`) for the device that loads it. The weights are arguments, in a
separate file, because a program that contained them could not exceed two gigabytes.
"""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export

from muskie_jax.files import atomic_write
from muskie_jax.interop import program_loader
from muskie_jax.interop.load import model_of
from muskie_jax.interop.weights import Weights, save_safetensors

PLATFORMS = ("cpu", "cuda", "tpu")
LOADER = "load_muskie.py"
PROGRAM_ENTRIES = (program_loader.PROGRAM, program_loader.WEIGHTS, LOADER)


def export_program(
    weights: Weights, views: int, size: tuple[int, int], output: str, dtype: str = "float32"
) -> export.Exported:
    """Exports a function of parameters, images and a mask, for any number of groups.

    Args:
      weights: weights of the network.
      views: number of views per group.
      size: (height, width) of every image, pixels.
      output: "features" for a tuple of the tokens after every block, each of shape (groups, views, L, d);
        or "reconstruction" for the tuple (pred, conf), each of shape (groups, views, L, p*p*3).
      dtype: type of matrix products. With "float32", inputs keep full float32 precision on GPUs and TPUs.
    """
    # The cuDNN and Pallas kernels each support one platform, so the program uses plain XLA attention.
    model = model_of(weights.network, dtype, attention="xla")

    def program(params: dict[str, Any], images: Any, mask: Any) -> tuple[Any, ...]:
        params = unflatten_dict(params, sep="/")
        if output == "features":
            return model.apply({"params": params}, images, mask, method="features")
        result: Any = model.apply({"params": params}, images, mask)
        return result.pred, result.conf

    (groups,) = export.symbolic_shape("groups")
    patches = (size[0] // model.patch) * (size[1] // model.patch)
    shapes = (
        {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in _params_by_path(weights).items()},
        jax.ShapeDtypeStruct((groups, views, *size, 3), np.float32),
        jax.ShapeDtypeStruct((groups, views, patches), np.bool_),
    )
    with (
        jax.default_matmul_precision("highest" if dtype == "float32" else "default"),
        _without_source_locations(),
    ):
        return export.export(jax.jit(program), platforms=PLATFORMS)(*shapes)


@contextlib.contextmanager
def _without_source_locations() -> Iterator[None]:
    """Keeps source file names, which would disclose paths of this machine, out of programs."""
    # JAX defines this attribute at run time, so its stubs lack it.
    before = jax.config.jax_traceback_in_locations_limit  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def _params_by_path(weights: Weights) -> dict[str, Any]:
    """Returns the parameters by path, joined with "/"."""
    return {path: array for path, array in flatten_dict(weights.params, sep="/").items()}


def write_stablehlo(
    folder: pathlib.Path,
    weights: Weights,
    views: int,
    size: tuple[int, int],
    output: str,
    *,
    dtype: str = "float32",
    force: bool = False,
) -> None:
    """Writes a folder with the program, its weights, and `load_muskie.py`, which runs it.

    `export_program` describes the arguments.

    Raises:
      UserError: if the folder exists and `force` is false.
    """
    program = export_program(weights, views, size, output, dtype).serialize()
    with atomic_write(folder, force, PROGRAM_ENTRIES) as part:
        part.mkdir()
        (part / program_loader.PROGRAM).write_bytes(program)
        save_safetensors(part / program_loader.WEIGHTS, _params_by_path(weights))
        shutil.copyfile(program_loader.__file__, part / LOADER)
