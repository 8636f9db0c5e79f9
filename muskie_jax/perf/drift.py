"""Measures how far bfloat16 takes a network's tokens from those of float32, block by block.

    python -m muskie_jax.perf.drift --variant=base --views=4 --size=224

Prints, for each block, the norm of the tokens' error, as a fraction of the norm of the tokens. The images
are synthetic rooms, three quarters of whose patches are masked. The weights are initial values; pass
--weights for those of a checkpoint or file.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax import Array

from muskie_jax.data.synthetic.render import render_groups
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.interop.load import load_pretrained
from muskie_jax.models.muskie import Muskie, build_model, to_float
from muskie_jax.writers import table_head, table_row

VARIANT = flags.DEFINE_string("variant", "base", "Variant of the network, if there are no --weights.")
WEIGHTS = flags.DEFINE_string("weights", None, "Work directory, checkpoint or weights file.")
GROUPS = flags.DEFINE_integer("groups", 2, "Groups of a batch.")
VIEWS = flags.DEFINE_integer("views", 4, "Views of a group.")
SIZE = flags.DEFINE_integer("size", 224, "Side of the square views, pixels.")
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


def main(argv: list[str]) -> None:
    del argv
    if WEIGHTS.value:
        model, params = load_pretrained(WEIGHTS.value)
    else:
        model = build_model(VARIANT.value)
        image = jnp.zeros((1, 1, model.patch, model.patch, 3))
        params = jax.jit(model.init)(jax.random.key(0), image)["params"]
    seeds = np.random.default_rng(0).integers(2**32, size=(GROUPS.value, 2), dtype=np.uint32)
    views = render_groups(
        jnp.asarray(seeds), height=SIZE.value, width=SIZE.value, num_views=VIEWS.value, config=WorldConfig()
    )
    patches = (SIZE.value // model.patch) ** 2
    mask = jax.random.bernoulli(jax.random.key(1), 0.75, (GROUPS.value, VIEWS.value, patches))
    errors = drift(model, params, to_float(views.images), mask)
    columns = (("block", 5), *((name, 15) for name in errors))
    print(table_head(columns))
    for number, row in enumerate(zip(*errors.values()), 1):
        print(table_row([str(number), *(f"{value:.2e}" for value in row)], columns))


if __name__ == "__main__":
    app.run(main)
