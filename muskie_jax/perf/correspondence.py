"""What finding and judging the points of one group costs, beside the network's forward pass.

    python -m muskie_jax.perf.correspondence --variant=base --views=8 --size=512 --points=100

Prints, in milliseconds: the network with its attention maps; the predictors of one layer (attention and
features, plain and refined, with their check that they come back) and of all layers; the truth and the
scores of all of these, which are computed on the host.
"""

import functools
import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from muskie_jax.correspondence import PROTOCOLS
from muskie_jax.correspondence.scores import Scores, compute_truth
from muskie_jax.data.posed import PosedViews
from muskie_jax.evaluators.correspondence import QueryGroup, pair_errors
from muskie_jax.evaluators.eval_models import Activations, MuskieNetwork
from muskie_jax.evaluators.predictions import Predictions, predict_from_activations
from muskie_jax.models.muskie import VARIANTS, build_model, to_float
from muskie_jax.perf.roofline import best_time

VARIANT = flags.DEFINE_enum("variant", "base", list(VARIANTS), "Of the network.")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the network's products.")
VIEWS = flags.DEFINE_integer("views", 8, "Views of the group.", lower_bound=2)
SIZE = flags.DEFINE_integer("size", 512, "Side of the square views, pixels.", lower_bound=32)
POINTS = flags.DEFINE_integer("points", 100, "Points that are followed.", lower_bound=1)
REPEATS = flags.DEFINE_integer("repeats", 10, "Runs, of which the fastest counts.", lower_bound=1)
FORWARD = flags.DEFINE_bool("forward", True, "Run the network; otherwise what it leaves is made up.")


def milliseconds(run: Callable[[], object]) -> float:
    """The fastest of several calls, until their results are on the host."""
    return 1e3 * best_time(lambda: jax.device_get(run()), calls=1, repeats=REPEATS.value)


def made_up_traces(rng: np.random.Generator) -> Activations:
    """Features and attention of the right shapes."""
    size, cells = VARIANTS[VARIANT.value], (SIZE.value // 16) ** 2
    side, views = SIZE.value // 16, VIEWS.value
    draw = lambda *shape: jnp.asarray(rng.random(shape, np.float32))
    layers = range(size.depth)
    return Activations(
        tuple(draw(views, side, side, size.width) for _ in layers),
        tuple(draw(cells, views, cells) / cells for _ in layers),
        tuple(draw(views, cells, cells) / cells for _ in layers),
    )


def made_up_views(rng: np.random.Generator) -> PosedViews:
    """Cameras side by side before an uneven wall."""
    views, size = VIEWS.value, SIZE.value
    depth = rng.uniform(2, 2.04, (views, size, size)).astype(np.float32)
    intrinsics = np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]], np.float64)
    poses = np.repeat(np.eye(4)[None], views, 0)
    poses[:, 0, 3] = np.linspace(0, 0.3, views)
    images = rng.integers(256, size=(views, size, size, 3), dtype=np.uint8)
    return PosedViews(images, depth, depth > 0, np.repeat(intrinsics[None], views, 0), poses)


def main(argv: list[str]) -> None:
    del argv
    rng = np.random.default_rng(0)
    views, size = made_up_views(rng), (SIZE.value, SIZE.value)
    pixels = rng.integers(SIZE.value, size=(POINTS.value, 2))
    points, cost = jnp.asarray(pixels, jnp.float32), {}

    if FORWARD.value:
        model = build_model(VARIANT.value, dtype=DTYPE.value)
        params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1, 16, 16, 3)))["params"]
        muskie = MuskieNetwork(model)
        images = to_float(jnp.asarray(views.images[None]))
        network = jax.jit(
            lambda params, images: jax.tree.map(lambda x: x[0], muskie.activations(params, images))
        )
        run = lambda: network(params, images)
        cost["network"] = 1e3 * best_time(run, calls=1, repeats=REPEATS.value)
        traces = network(params, images)
    else:
        traces = made_up_traces(rng)

    middle = (len(traces.features) + 1) // 2
    for name, layers in (("one layer", (middle,)), ("all layers", ())):
        read = functools.partial(
            predict_from_activations, size=size, views=VIEWS.value, layers=layers, protocols=PROTOCOLS
        )
        read = jax.jit(read)
        cost[f"predictors, {name}"] = milliseconds(lambda read=read: read(traces, points))
        said = read(traces, points)
        said = jax.device_get(said)
        cost[f"truth and scores, {name}"] = milliseconds(lambda said=said: scores_of(said, pixels, views))
    device = jax.devices()[0].device_kind
    size = f"{SIZE.value}x{SIZE.value}"
    print(f"{POINTS.value} points, {VIEWS.value} views of {size}, {VARIANT.value}, {device}")
    for name, each in cost.items():
        print(f"  {name:28s} {each:9.2f} ms")
    print(json.dumps({"device": device, **{name: round(each, 3) for name, each in cost.items()}}))


def scores_of(said: Predictions, points: np.ndarray, views: PosedViews) -> list[dict[str, float]]:
    """The figures of every prediction."""
    truths = {protocol: compute_truth(points, views, protocol) for protocol in PROTOCOLS}
    figures = []
    for errors in pair_errors(said, QueryGroup("made up", views, points, truths)):
        counted, scores = truths[errors.predictor.protocol].counted, Scores()
        scores.add(errors.pixels[counted], errors.metres[counted])
        figures.append(scores.values())
    return figures


if __name__ == "__main__":
    app.run(main)
