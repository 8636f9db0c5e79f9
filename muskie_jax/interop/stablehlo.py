"""Muskie as a serialized program: JAX runs it on CPUs, GPUs and TPUs without muskie_jax.

The program (`jax.export`) is compiled for the device where it is loaded. Weights lie beside it and are
arguments, since a file with weights inside could not be larger than two gigabytes.
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
    """The network as a function of its parameters, images and a mask, for any number of groups.

    Args:
      weights: of the network.
      views, size: of every group, and (height, width) of every image.
      output: "features": a tuple of the tokens after every block, (groups, views, L, d); or
        "reconstruction": a tuple (pred, conf), (groups, views, L, p*p*3) each.
      dtype: of matrix products; those in float32 are computed without rounding, on TPUs and GPUs too.
    """
    # The kernels of cuDNN and Pallas belong to one platform each.
    model = model_of(weights.network, dtype, attention="xla")

    def program(params: dict[str, Any], images: Any, mask: Any) -> tuple[Any, ...]:
        params = unflatten_dict(params, sep="/")
        if output == "features":
            return model.apply({"params": params}, images, mask, method="features")
        result = model.apply({"params": params}, images, mask)
        return result.pred, result.conf

    (groups,) = export.symbolic_shape("groups")
    patches = (size[0] // model.patch) * (size[1] // model.patch)
    shapes = (
        {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in _flat(weights).items()},
        jax.ShapeDtypeStruct((groups, views, *size, 3), np.float32),
        jax.ShapeDtypeStruct((groups, views, patches), np.bool_),
    )
    with (
        jax.default_matmul_precision("highest" if dtype == "float32" else "default"),
        _without_locations(),
    ):
        return export.export(jax.jit(program), platforms=PLATFORMS)(*shapes)


@contextlib.contextmanager
def _without_locations() -> Iterator[None]:
    """Programs do not tell which lines of which files they come from: paths are their owner's."""
    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def _flat(weights: Weights) -> dict[str, np.ndarray]:
    """Parameters by path, as text."""
    return flatten_dict(weights.params, sep="/")


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

    For arguments see `export_program`.

    Raises:
      UserError: if the folder is taken, and not `force`.
    """
    program = export_program(weights, views, size, output, dtype).serialize()
    with atomic_write(folder, force, PROGRAM_ENTRIES) as part:
        part.mkdir()
        (part / program_loader.PROGRAM).write_bytes(program)
        save_safetensors(part / program_loader.WEIGHTS, _flat(weights))
        shutil.copyfile(program_loader.__file__, part / LOADER)
