"""Correspondence: how well a network finds points of one view in the others, on views of known geometry."""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from muskie_jax.correspondence.predictors import attention_predictor, feature_predictor, symmetric_maps
from muskie_jax.correspondence.refinement import feature_maps, is_cycle_consistent, refined_predictor
from muskie_jax.correspondence.scores import Scores, Truth, compute_errors, compute_truth
from muskie_jax.correspondence.tracks import draw_points
from muskie_jax.data.posed.views import PosedSet, PosedViews
from muskie_jax.errors import UserError
from muskie_jax.evaluators.loading import load_in_order
from muskie_jax.evaluators.results import Figure, ResultRow, Setting
from muskie_jax.evaluators.subjects import STILL, Subject, Traces
from muskie_jax.models.muskie import to_float
from muskie_jax.viz.features import pca_colours
from muskie_jax.viz.tracks import track_picture
from muskie_jax.viz.view_sheet import view_sheet

ALL = "all"
ATTENTION, FEATURE, REFINED = "attention", "feature", "+refined"
ANGLES = (0, 10, 20, 30, 45, 60, 90, 180)  # degrees: ends of the bins of rotation between two views
KEPT_GROUPS = 128  # in memory, since every subject is asked about the same; at 8 x 512 x 512 some 2 GB


class Predictor(NamedTuple):
    """What a prediction is called: the labels of its rows."""

    predictor: str
    layer: str | int
    protocol: str


# Where points are, float (N, V, 2), and bool (N, V), which of these are cycle consistent.
Predictions = dict[Predictor, tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Question:
    """A group, the points that are asked for, and the answers under each protocol."""

    label: str
    views: PosedViews
    points: np.ndarray
    truths: Mapping[str, Truth]


class CorrespondenceEvaluator:
    """Points of the first view of every group are looked for in the others.

    Attention is read where a network has attention across views, features of every layer by their
    nearest neighbour; both also refined, with protocol "targets" (see `muskie_jax.correspondence`).

    Args:
      sets: what is evaluated on, by number of views.
      sizes: (height, width) of views, each.
      points: drawn per group, at most; they depend on the group alone.
      layers: those to measure, from 1; empty: all.
      protocols: see `scores`.
      pictures: groups of each set that are drawn.
    """

    name = "correspondence"
    apart = ("layers", "protocols", "pictures")

    def __init__(
        self,
        sets: Mapping[int, Sequence[PosedSet]],
        sizes: Sequence[tuple[int, int]],
        points: int = 100,
        layers: Sequence[int] = (),
        protocols: Sequence[str] = ("targets", "published"),
        pictures: int = 1,
    ):
        self.sets = {(views, each.name): each for views, some in sets.items() for each in some}
        self.sizes, self.points, self.layers = sizes, points, tuple(layers)
        self.protocols, self.pictures = tuple(protocols), pictures
        most = max((len(each.groups) for each in self.sets.values()), default=1)
        devices = jax.local_devices()
        self.mesh = Mesh(np.array(devices[: max(1, min(len(devices), most))]), ("data",))
        self._question = functools.lru_cache(KEPT_GROUPS)(self._ask)

    def settings(self) -> list[Setting]:
        common = {"points": self.points, "layers": list(self.layers), "protocols": list(self.protocols)}
        common["pictures"] = self.pictures
        return [
            {"dataset": name, "views": views, "height": height, "width": width, "groups": len(each.groups)}
            | common
            for (views, name), each in self.sets.items()
            for height, width in self.sizes
        ]

    def accepts(self, kind: str) -> bool:
        del kind
        return True

    def evaluate(self, subject: Subject, setting: Setting) -> Iterator[ResultRow | Figure]:
        """Yields a row for each predictor, layer and protocol, and for parts of the pairs of points and
        views: by the rotation between the views, and those that are cycle consistent."""
        place = (setting["dataset"], setting["views"], setting["height"], setting["width"])
        about = dict(zip(("dataset", "views", "height", "width"), place))
        tallies: dict[Predictor, dict[tuple[str, str], Scores]] = {}
        drawn = []
        for question, predictions, features in self._answers(subject, *place):
            for predictor, pixels, metres in judge(predictions, question):
                parts = tallies.setdefault(predictor, {})
                truth, (_, trusted) = question.truths[predictor.protocol], predictions[predictor]
                for part, chosen in _parts(truth, trusted, predictor.protocol):
                    parts.setdefault(part, Scores()).add(pixels[chosen], metres[chosen])
            if len(drawn) < self.pictures:
                drawn.append((question, predictions, [np.asarray(x) for x in features]))
        values = {
            predictor: {part: scores.values() for part, scores in parts.items() if scores.pairs}
            for predictor, parts in tallies.items()
        }
        if not values:
            raise UserError(f"config.evaluate.layers={self.layers}: {subject.name} has none of them")
        for predictor, parts in values.items():
            for (angle, points), figures in parts.items():
                labels = about | predictor._asdict() | {"angle": angle, "points": points}
                yield ResultRow(labels, figures)
        for question, predictions, features in drawn:
            yield from _figures(subject, about, question, predictions, features, values)

    def _answers(
        self, subject: Subject, name: str, views: int, height: int, width: int
    ) -> Iterator[tuple[Question, Predictions, list[Array]]]:
        """Every group, what the subject says of it, and its features (V, h, w, F) by layer."""
        count, batch = len(self.sets[views, name].groups), self.mesh.size
        blank = dataclasses.replace(subject, name="", params=None, step=None, source="")
        size, layers, protocols = (height, width), self.layers, self.protocols
        params = jax.device_put(subject.params, jax.NamedSharding(self.mesh, P()))
        ask = functools.partial(self._question, name, views, size)
        questions_in_order = load_in_order(ask, range(count), self.sets[views, name].parallel, ahead=batch)
        while questions := list(itertools.islice(questions_in_order, batch)):
            padded = questions + questions[:1] * (batch - len(questions))
            images = np.stack([question.views.images for question in padded])
            points = np.stack([_pad(question.points, self.points) for question in padded])
            said, features, finite = predict(
                params, images, points, subject=blank, size=size, layers=layers, protocols=protocols,
                mesh=self.mesh,
            )  # fmt: skip
            said, finite = jax.device_get((said, finite))
            for number, question in enumerate(questions):
                if not finite[number]:
                    raise UserError(f"{subject.name}: its features are not finite on {question.label}")
                known = len(question.points)
                mine = {
                    predictor: (tracks[number, :known].astype(np.float64), trusted[number, :known])
                    for predictor, (tracks, trusted) in zip(predictors(said), said.values())
                }
                yield question, mine, [x[number] for x in features]

    def _ask(self, name: str, views: int, size: tuple[int, int], number: int) -> Question:
        each = self.sets[views, name]
        label, loaded = each.groups[number].label, each.load(number, size)
        seed = hashlib.sha256(f"{name}/{label}".encode()).digest()[:8]
        rng = np.random.default_rng(int.from_bytes(seed, "little"))
        points = draw_points(rng, loaded.valid[0], self.points)
        if not len(points):
            raise UserError(f"config.posed.{name}: no depth is known in the first view of {label}")
        truths = {protocol: compute_truth(points, loaded, protocol) for protocol in self.protocols}
        return Question(label, loaded, points, truths)


def judge(
    predictions: Predictions, question: Question
) -> Iterator[tuple[Predictor, np.ndarray, np.ndarray]]:
    """The errors of all predictions, pixels and metres (N, V): see `compute_errors`."""
    for protocol, truth in question.truths.items():
        named = [predictor for predictor in predictions if predictor.protocol == protocol]
        if not named:
            continue
        tracks = np.stack([predictions[predictor][0] for predictor in named])
        yield from zip(named, *compute_errors(tracks, truth, question.views, protocol))


def predictors(said: Mapping[str, Any]) -> list[Predictor]:
    """The names of what `predict` gives."""
    named = [key.split("/") for key in said]
    return [
        Predictor(kind, layer if layer == ALL else int(layer), protocol) for kind, layer, protocol in named
    ]


@functools.partial(jax.jit, static_argnames=("subject", "size", "layers", "protocols", "mesh"))
def predict(
    params: Any,
    images: Array,
    points: Array,
    *,
    subject: Subject,
    size: tuple[int, int],
    layers: tuple[int, ...],
    protocols: tuple[str, ...],
    mesh: Mesh,
) -> tuple[dict[str, tuple[Array, Array]], list[Array], Array]:
    """What a subject says, by all its predictors.

    Args:
      params: of the subject.
      images: uint8 (B, V, H, W, 3); a group for every device of the mesh.
      points: int (B, N, 2), columns and rows in the first view.
      subject: without its parameters, so that subjects of the same network share programs.

    Returns:
      By "predictor/layer/protocol", positions float32 (B, N, V, 2), and bool (B, N, V), which of them are
      cycle consistent; features (B, V, h, w, F) of each layer that is measured; and bool (B,), whether
      all that the network leaves is finite.
    """

    def one_group(params, images, points):
        traces = subject.traces(params, to_float(images))
        traces = Traces(*(tuple(x[0] for x in part) for part in traces))
        said = read_traces(traces, points[0].astype(jnp.float32), size, len(images[0]), layers, protocols)
        kept = [x for number, x in enumerate(traces.features, 1) if not layers or number in layers]
        # A nearest neighbour is found among numbers that mean nothing, too.
        finite = jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(traces)], bool).all()
        return jax.tree.map(lambda x: x[None], (said, kept, finite))

    if mesh.size == 1:
        return one_group(params, images, points)
    # Every device has a group of its own; kernels do not say over which axes their results vary.
    return jax.shard_map(
        one_group, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P("data"), check_vma=False
    )(params, images, points)


def read_traces(
    traces: Traces,
    points: Array,
    size: tuple[int, int],
    views: int,
    layers: tuple[int, ...],
    protocols: tuple[str, ...],
) -> dict[str, tuple[Array, Array]]:
    """All predictions for one group of V views; traces without their axis of groups. See `predict`."""
    grid = traces.features[0].shape[1:3] if traces.features else (1, 1)

    def read(plain, maps: Array) -> dict[tuple[str, str], tuple[Array, Array]]:
        """Answers by suffix of the predictor's name, and protocol."""
        tracks = {("", protocol): plain(protocol) for protocol in protocols}
        if "targets" in protocols:
            tracks[REFINED, "targets"] = refined_predictor(maps, points, size, grid)
        # In the first view a point is where it is.
        tracks = {name: each.at[:, 0].set(points) for name, each in tracks.items()}
        return {
            name: (each, is_cycle_consistent(maps, points, each, size, grid))
            for name, each in tracks.items()
        }

    def read_attention(maps: Array):
        return read(functools.partial(attention_predictor, maps, points, size, grid), maps)

    def read_features(features: Array):
        return read(functools.partial(feature_predictor, features, points, size), feature_maps(features))

    said: dict[str, tuple[Array, Array]] = {}

    def add(predictor: str, names: Sequence[str | int], of_layers: Sequence[Array], read_layer) -> None:
        # A loop over the layers: its program is compiled once, not once for each.
        answers = jax.lax.map(read_layer, jnp.stack(of_layers))
        for number, layer in enumerate(names):
            for (suffix, protocol), answer in answers.items():
                said[f"{predictor}{suffix}/{layer}/{protocol}"] = tuple(x[number] for x in answer)

    measured = [number for number in range(1, len(traces.features) + 1) if not layers or number in layers]
    if traces.to_others and measured:
        by_layer = [symmetric_maps(*pair) for pair in zip(traces.to_others, traces.to_first)]
        some = [by_layer[number - 1] for number in measured]
        add(ATTENTION, [ALL, *measured], [sum(by_layer) / len(by_layer), *some], read_attention)
    if measured:
        add(FEATURE, measured, [traces.features[number - 1] for number in measured], read_features)
    if not traces.features:
        still = jnp.broadcast_to(points[:, None], (len(points), views, 2))
        said |= {f"{STILL}/{ALL}/{name}": (still, jnp.ones(still.shape[:2], bool)) for name in protocols}
    return said


def _pad(points: np.ndarray, count: int) -> np.ndarray:
    """Points (n, 2) repeated to (count, 2)."""
    return np.resize(points, (count, 2))


def _parts(
    truth: Truth, trusted: np.ndarray, protocol: str
) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """Parts of the pairs (N, V) that count, by what their rows say of `angle` and `points`."""
    yield (ALL, ALL), truth.counted
    if protocol == "published":
        return
    yield (ALL, "cycle"), truth.counted & trusted
    for low, high in itertools.pairwise(ANGLES):
        within = (truth.angle >= low) & ((truth.angle < high) | (high == ANGLES[-1]))
        yield (f"{low}-{high}", ALL), truth.counted & within


def _figures(
    subject: Subject,
    about: dict[str, Any],
    question: Question,
    predictions: Predictions,
    features: Sequence[np.ndarray],
    values: Mapping[Predictor, Mapping[tuple[str, str], Mapping[str, float]]],
) -> Iterator[Figure]:
    """Tracks of the plain predictor that tables show, and features of the layer that matches best."""
    protocol = "targets" if any(p.protocol == "targets" for p in predictions) else "published"
    own = [p for p in predictions if p.protocol == protocol and not p.predictor.endswith(REFINED)]
    # Groups without a visible point leave a predictor without figures.
    off = lambda p: values[p].get((ALL, ALL), {}).get("px_ate", np.inf)
    by_feature = min((p for p in own if p.predictor == FEATURE), key=off, default=None)
    shown = next((p for p in own if p.predictor == ATTENTION and p.layer == ALL), by_feature or own[0])
    truth, (tracks, _) = question.truths[protocol], predictions[shown]
    labels = about | {"group": question.label}
    where = f"{about['dataset']}, {question.label}"
    picture = track_picture(question.views.images, question.points, truth.tracks, tracks, truth.counted)
    layer = "" if shown.layer == ALL else f" of layer {shown.layer}"
    found = f"where its {shown.predictor}{layer} finds them"
    if shown.predictor == STILL:
        found = "where they would be if nothing moved"
    caption = f"{subject.name}: points of the first view and {found} ({where})"
    yield Figure("tracks", labels | shown._asdict(), caption, picture)
    if by_feature is None:
        return
    measured = sorted(p.layer for p in own if p.predictor == FEATURE)
    maps = features[measured.index(by_feature.layer)]
    views, *grid, width = maps.shape
    colours = pca_colours(maps.reshape(views, -1, width), tuple(grid), 1)
    images = question.views.images
    rows, columns = (np.arange(side) * count // side for side, count in zip(images.shape[1:3], grid))
    sheet = view_sheet({"views": images[None], "features": colours[None][:, :, rows][:, :, :, columns]})
    caption = f"{subject.name}: features of layer {by_feature.layer}, one palette for all views ({where})"
    yield Figure("features", labels | {"layer": by_feature.layer}, caption, sheet)
