"""What Muon computes per update, from shapes alone: `python -m muskie_jax.perf.muon`.

Prints one line per size of the network, for updates of 512 views of 128x128 pixels in groups of 8.
"""

import jax
from jax import Array

from muskie_jax.buckets import Bucket
from muskie_jax.models.initial_params import init_params
from muskie_jax.models.muskie import Muskie, build_model
from muskie_jax.optim import optimizer_names
from muskie_jax.perf.flops import training_flops
from muskie_jax.writers import table_head, table_row

ITERATIONS, PRODUCTS = 5, 3  # of Newton-Schulz, and matrix products of each
BUCKET, VIEWS = Bucket(128, 128, 8), 512
COLUMNS = (
    ("network", 8),
    ("kernels", 8),
    ("products", 9),
    ("stacked", 8),
    ("Muon, TFLOP", 12),
    ("model, TFLOP", 13),
    ("ratio", 7),
)


def muon_kernels(model: Muskie) -> list[tuple[int, ...]]:
    """Returns the shapes of the kernels that Muon updates."""
    params = jax.eval_shape(lambda: init_params(model, 0))
    leaves: list[Array] = jax.tree.leaves(params)
    names = jax.tree.leaves(optimizer_names(params))
    return [leaf.shape for leaf, name in zip(leaves, names) if name == "muon"]


def orthogonalisation_flops(rows: int, columns: int) -> float:
    """Returns the FLOPs of orthogonalising a matrix; a multiply-add counts as 2.

    With m rows and n columns, m <= n, an iteration computes A = X Xᵀ, A A and (b A + c A A) X.
    """
    m, n = sorted((rows, columns))
    return ITERATIONS * 2.0 * (m * m * n + m * m * m + m * m * n)


def main() -> None:
    """Prints the table."""
    print(table_head(COLUMNS))
    for variant in ("tiny", "small", "base", "large"):
        model = build_model(variant)
        shapes = muon_kernels(model)
        muon = sum(orthogonalisation_flops(*shape) for shape in shapes)
        training = VIEWS // BUCKET.views * training_flops(model, BUCKET)
        products = [ITERATIONS * PRODUCTS * count for count in (len(shapes), len(set(shapes)))]
        cells = [variant, len(shapes), *products, f"{muon / 1e12:.3f}", f"{training / 1e12:.2f}"]
        print(table_row([*map(str, cells), f"{muon / training:.1%}"], COLUMNS))


if __name__ == "__main__":
    main()
