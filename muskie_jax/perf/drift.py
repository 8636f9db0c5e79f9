"""Measures how far bfloat16 takes a network's tokens from those of float32, block by block.

    python -m muskie_jax.perf.drift --variant=base --views=4 --size=224

Prints, for each block, the norm of the tokens' error, as a fraction of the norm of the tokens. The images
are synthetic rooms, three quarters of whose patches are masked. The weights are initial values; pass
--weights for those of a checkpoint or file.
"""

import argparse
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from muskie_jax.data.synthetic.render import render_groups
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.errors import UserError, fail
from muskie_jax.interop.load import load_backbone
from muskie_jax.models.initial_params import init_params
from muskie_jax.models.muskie import Muskie, build_model, to_float
from muskie_jax.writers import table_head, table_row

# Name -> dtypes of matrix products and of the residual stream.
SETTINGS = {
    "float32 stream": ("bfloat16", "float32"),
    "bfloat16 stream": ("bfloat16", "bfloat16"),
}


def drift(model: Muskie, params: dict, images: Array, mask: Array) -> dict[str, list[float]]:
    """Returns the relative errors of the tokens after each block, for each of SETTINGS."""

    def tokens(dtype: str, residual_dtype: str) -> list[np.ndarray]:
        network = model.clone(dtype=jnp.dtype(dtype), residual_dtype=jnp.dtype(residual_dtype))
        features = jax.jit(lambda *arguments: network.apply(*arguments, method="features"))
        with jax.default_matmul_precision("highest"):
            return [np.asarray(each, np.float64) for each in features({"params": params}, images, mask)]

    exact = tokens("float32", "float32")
    error = lambda block, expected: float(np.linalg.norm(block - expected) / np.linalg.norm(expected))
    return {name: list(map(error, tokens(*dtypes), exact)) for name, dtypes in SETTINGS.items()}


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m muskie_jax.perf.drift",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--variant", default="base", help="variant of the network, without --weights")
    parser.add_argument("--weights", help="work directory, checkpoint or weights file")
    parser.add_argument("--groups", type=int, default=2, help="groups of a batch")
    parser.add_argument("--views", type=int, default=4, help="views of a group")
    parser.add_argument("--size", type=int, default=224, help="side of the square views, pixels")
    options = parser.parse_args(arguments)
    try:
        _print_drift(options)
    except (UserError, ValueError) as error:
        fail(str(error))


def _print_drift(options: argparse.Namespace) -> None:
    if options.weights:
        model, params = load_backbone(options.weights)
    else:
        model = build_model(options.variant)
        params = init_params(model)
    seeds = np.random.default_rng(0).integers(2**32, size=(options.groups, 2), dtype=np.uint32)
    size = {"height": options.size, "width": options.size, "num_views": options.views}
    render = jax.jit(lambda seeds: to_float(render_groups(seeds, **size, config=WorldConfig()).images))
    images = render(jnp.asarray(seeds))
    patches = (options.size // model.patch) ** 2
    mask = jax.random.bernoulli(jax.random.key(1), 0.75, (options.groups, options.views, patches))
    errors = drift(model, params, images, mask)
    columns = (("block", 5), *((name, 15) for name in errors))
    print(table_head(columns))
    for number, row in enumerate(zip(*errors.values()), 1):
        print(table_row([str(number), *(f"{value:.2e}" for value in row)], columns))


if __name__ == "__main__":
    main(sys.argv[1:])
