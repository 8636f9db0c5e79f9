"""Times attention alone, forward and backward, with each kernel that this machine has.

    python -m muskie_jax.perf.attention
    python -m muskie_jax.perf.attention --shapes=32x1028x12x64 --kernels=cudnn,flash

Prints the milliseconds of one call at each shape: sequences x tokens x heads x channels of a head. A
program makes 20 calls, each with the gradients of the call before it as inputs, so that XLA omits none.
"""

import argparse
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from muskie_jax.errors import UserError, fail
from muskie_jax.models.attention import KERNELS, Attention
from muskie_jax.perf.roofline import best_time
from muskie_jax.writers import table_head, table_row

CALLS = 20
COMPARED = ("cudnn", "flash")
SHAPES = (
    "512x68x6x64", "256x136x6x64", "32x200x12x64", "512x200x6x64", "64x272x6x64", "32x320x12x64",
    "128x400x6x64", "32x448x12x64", "64x544x6x64", "32x580x12x64", "64x800x6x64", "32x1028x12x64",
    "4x1600x12x64", "4x4640x12x64", "4x8224x12x64", "4x8224x16x80",
)  # fmt: skip


def milliseconds(attend: Attention, shape: Sequence[int]) -> float:
    """Returns the milliseconds of attention, forward and backward, in bfloat16.

    Args:
      attend: attention with the kernel to time.
      shape: sequences, tokens, heads, and channels of a head.
    """
    sequences, *rest = shape
    keys = jax.random.split(jax.random.key(0), 4)
    *inputs, gradient = (jax.random.normal(key, (sequences, 1, *rest), jnp.bfloat16) for key in keys)

    @jax.jit
    def run(inputs: list[Array], gradient: Array) -> list[Array]:
        def call(_, inputs):
            pull = jax.vjp(lambda *qkv: attend(*qkv, across_views=False), *inputs)[1]
            return list(pull(gradient))

        return jax.lax.fori_loop(0, CALLS, call, inputs)

    return 1e3 * best_time(lambda: run(inputs, gradient), 1, 5) / CALLS


def parse_shape(text: str) -> list[int]:
    """Returns the numbers of a shape such as "32x1028x12x64".

    Raises:
      UserError: if the text is not four positive integers.
    """
    parts = text.split("x")
    if len(parts) != 4 or not all(part.isdigit() and int(part) for part in parts):
        raise UserError(
            f"--shapes has {text!r}, but a shape is SEQUENCESxTOKENSxHEADSxCHANNELS: 32x1028x12x64"
        )
    return [int(part) for part in parts]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m muskie_jax.perf.attention",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shapes", default=",".join(SHAPES), help="shapes, separated by commas")
    parser.add_argument("--kernels", default=",".join(COMPARED), help=f"some of {', '.join(KERNELS)}")
    options = parser.parse_args(arguments)
    try:
        kernels = {name: Attention(name) for name in options.kernels.split(",")}
        shapes = {text: parse_shape(text) for text in options.shapes.split(",")}
    except (UserError, ValueError) as error:
        fail(str(error))
    columns = (("shape", 15), *((f"{name}, ms", 10) for name in kernels))
    print(table_head(columns))
    for text, shape in shapes.items():
        print(
            table_row(
                [text, *(f"{milliseconds(attend, shape):.3f}" for attend in kernels.values())], columns
            )
        )


if __name__ == "__main__":
    main(sys.argv[1:])
