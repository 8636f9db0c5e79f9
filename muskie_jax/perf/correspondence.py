"""Times the matching and scoring of one group's points, and the network's forward pass.

    python -m muskie_jax.perf.correspondence --variant=base --views=8 --size=512 --points=100

Prints the milliseconds of:

- the network, with its attention maps;
- the predictors of one layer and of all layers: attention and features, unrefined and refined, with
  their cycle-consistency check;
- the true positions of the points and the scores of these predictions, computed on the host.
"""

import functools
import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jaxtyping import Int

from muskie_jax.correspondence import PROTOCOLS
from muskie_jax.correspondence.scores import Scores, compute_truth
from muskie_jax.data.posed.views import PosedViews
from muskie_jax.evaluators.correspondence import QueryGroup, pair_errors
from muskie_jax.evaluators.eval_models import Activations, MuskieNetwork
from muskie_jax.evaluators.predictions import Predictions, predict_from_activations
from muskie_jax.models.initial_params import init_params
from muskie_jax.models.muskie import VARIANTS, build_model, to_float
from muskie_jax.perf.roofline import best_time

VARIANT = flags.DEFINE_enum("variant", "base", list(VARIANTS), "Variant of the network.")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of the network's products.")
VIEWS = flags.DEFINE_integer("views", 8, "Views of the group.", lower_bound=2)
SIZE = flags.DEFINE_integer("size", 512, "Side of the square views, pixels.", lower_bound=32)
POINTS = flags.DEFINE_integer("points", 100, "Points to find in the other views.", lower_bound=1)
REPEATS = flags.DEFINE_integer("repeats", 10, "Timings; the fastest counts.", lower_bound=1)
FORWARD = flags.DEFINE_bool("forward", True, "Run the network; --noforward matches random activations.")


def milliseconds(run: Callable[[], object]) -> float:
    """Returns the milliseconds of the fastest of --repeats calls, which copy their results to the host."""
    return 1e3 * best_time(lambda: jax.device_get(run()), calls=1, repeats=REPEATS.value)


def random_activations(rng: np.random.Generator) -> Activations:
    """Returns random activations of one group, without the group axis."""
    architecture, side, views = VARIANTS[VARIANT.value], SIZE.value // 16, VIEWS.value
    patches = side**2
    draw = lambda *shape: jnp.asarray(rng.random(shape, np.float32))
    layers = range(architecture.depth)
    return Activations(
        tuple(draw(views, side, side, architecture.width) for _ in layers),
        tuple(draw(patches, views, patches) / patches for _ in layers),
        tuple(draw(views, patches, patches) / patches for _ in layers),
    )


def synthetic_views(rng: np.random.Generator) -> PosedViews:
    """Returns views from a row of cameras in front of an uneven wall."""
    views, size = VIEWS.value, SIZE.value
    depth = rng.uniform(2, 2.04, (views, size, size)).astype(np.float32)
    intrinsics = np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]], np.float64)
    world_to_camera = np.repeat(np.eye(4)[None], views, 0)
    world_to_camera[:, 0, 3] = np.linspace(0, 0.3, views)
    images = rng.integers(256, size=(views, size, size, 3), dtype=np.uint8)
    return PosedViews(images, depth, depth > 0, np.repeat(intrinsics[None], views, 0), world_to_camera)


def time_network(views: PosedViews) -> tuple[float, Activations]:
    """Returns the milliseconds of a forward pass, and its activations without the group axis.

    The time is the fastest of --repeats calls, without copying results to the host.
    """
    model = build_model(VARIANT.value, dtype=DTYPE.value)
    params = init_params(model)
    muskie = MuskieNetwork(model)
    images = to_float(jnp.asarray(views.images[None]))
    network = jax.jit(
        lambda params, images: jax.tree.map(lambda x: x[0], muskie.activations(params, images))
    )
    run = lambda: network(params, images)
    seconds = best_time(run, calls=1, repeats=REPEATS.value)
    return 1e3 * seconds, run()


def main(argv: list[str]) -> None:
    del argv
    rng = np.random.default_rng(0)
    views, size = synthetic_views(rng), (SIZE.value, SIZE.value)
    pixels = rng.integers(SIZE.value, size=(POINTS.value, 2))
    points, cost = jnp.asarray(pixels, jnp.float32), {}

    if FORWARD.value:
        cost["network"], activations = time_network(views)
    else:
        activations = random_activations(rng)

    middle = (len(activations.features) + 1) // 2
    for name, layers in (("one layer", (middle,)), ("all layers", ())):
        match = jax.jit(
            functools.partial(
                predict_from_activations, size=size, views=VIEWS.value, layers=layers, protocols=PROTOCOLS
            )
        )
        predict = functools.partial(match, activations, points)
        cost[f"predictors, {name}"] = milliseconds(predict)
        score = functools.partial(compute_scores, jax.device_get(predict()), pixels, views)
        cost[f"truth and scores, {name}"] = milliseconds(score)

    device, side = jax.devices()[0].device_kind, SIZE.value
    print(f"{POINTS.value} points, {VIEWS.value} views of {side}x{side}, {VARIANT.value}, {device}")
    for name, ms in cost.items():
        print(f"  {name:28s} {ms:9.2f} ms")
    print(json.dumps({"device": device, **{name: round(ms, 3) for name, ms in cost.items()}}))


def compute_scores(
    predictions: Predictions, points: Int[np.ndarray, "N 2"], views: PosedViews
) -> list[dict[str, float]]:
    """Returns the scores of every predictor."""
    truths = {protocol: compute_truth(points, views, protocol) for protocol in PROTOCOLS}
    figures = []
    for errors in pair_errors(predictions, QueryGroup("synthetic", views, points, truths)):
        counted, scores = truths[errors.predictor.protocol].counted, Scores()
        scores.add(errors.pixels[counted], errors.metres[counted])
        figures.append(scores.values())
    return figures


if __name__ == "__main__":
    app.run(main)
