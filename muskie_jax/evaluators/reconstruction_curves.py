"""Does a network use other views? Error of one masked view, by how many others it is given, and whose.

A target is reconstructed with views of its own scene, and again, with the same mask, with as many of a
distractor's scene, if there is another (see `contexts`). What the first error is below the second is what
the network has found in the other views. The target alone, `views` 1, is where both curves start.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from muskie_jax.checks import nearest_size, require
from muskie_jax.errors import UserError
from muskie_jax.evaluators.contexts import (
    ViewSet,
    arrange,
    choose_targets,
    draw_masks,
    seen_by_context,
    view_order,
)
from muskie_jax.evaluators.loading import load_in_order
from muskie_jax.evaluators.reconstruction import visible_mean_error
from muskie_jax.evaluators.results import Figure, ResultRow, Setting
from muskie_jax.evaluators.settings import ReconstructionSettings
from muskie_jax.evaluators.subjects import MUSKIE, Subject
from muskie_jax.masking import hidden_count
from muskie_jax.metrics import Mean
from muskie_jax.models.attention import Attention
from muskie_jax.models.muskie import Muskie, patchify, to_float, unpatchify
from muskie_jax.sharding import group_shards, local_rows, put_batch
from muskie_jax.viz.reconstruction import reconstruction_sheet

OVERLAP_EDGES = (0.0, 0.3, 0.6, 1.0)  # of the bins of overlap
ALL = "all"  # targets of any overlap, or of one that is not known
OWN, DISTRACTOR, ALONE = "own", "distractor", "none"  # whose views a target is given


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurveSettings(ReconstructionSettings):
    """Settings of reconstruction curves.

    Attributes:
      sizes: (height, width) of views, pixels.
      pictures: targets in a picture, at most the groups of a batch.
      views_per_device: views on a device at a time, unless one group has more.

    Raises:
      UserError: for an invalid value.
    """

    sizes: tuple[tuple[int, int], ...]
    pictures: int
    views_per_device: int = 32

    def __post_init__(self):
        super().__post_init__()
        require(self.views_per_device >= 1, f"views_per_device={self.views_per_device}: write 1 or more")


class _Scenes(NamedTuple):
    """The targets of a set, loaded: each with its context, of at most V - 1 views.

    Attributes:
      labels: of the targets' groups.
      own: of each target, uint8 (V, H, W, 3), the target first.
      distractors: likewise of its distractor.
      seen: float (targets, V - 1), see `seen_by_context`.
    """

    labels: list[str]
    own: list[np.ndarray]
    distractors: list[np.ndarray]
    seen: np.ndarray


class ReconstructionCurves:
    """A `SweepEvaluator`: masked error of targets with their own scenes' views, and with distractors'.

    A row is about one `dataset`, `height`, `width`, number of `views`, `num_reference` (whole views besides
    the target), `mask` (mode and ratio), `context` ("own", "distractor", or "none" for none) and
    `overlap`: "all" targets, or those of whom a share of their pixels in a range, such as "0.3-0.6",
    is seen by the whole view of their own scene that sees most of them, where depth and cameras tell. Its
    values are

    - `mse`: mean squared error over hidden patches of the targets, of pixels in [-1, 1];
    - `baseline_mse`: the same of filling them with the mean of the target's visible pixels;
    - `patches`: how many they are.

    Groups, masks and distractors are the same for every network, whatever the devices. Predictions are
    taken as pixels, which they are not of networks that were trained with `normalize_targets`.

    Args:
      sets: whose groups are evaluated: posed sets, or held-out scenes without geometry.
      settings: see `CurveSettings`.
      mesh: the devices that groups are split over; its axis `view` must be 1.

    Raises:
      UserError: if two sets have one name, or for what `choose_targets` cannot use.
    """

    name = "reconstruction"
    apart = ("mask", "ratio", "views", "references", "pictures")

    def __init__(self, sets: Sequence[ViewSet], settings: CurveSettings, mesh: Mesh):
        if mesh.shape["view"] != 1:
            raise ValueError("a mesh that splits views cannot hold a target alone")
        self._settings, self._mesh = settings, mesh
        self._sets = {one.name: one for one in sets}
        if len(self._sets) < len(sets):
            raise UserError(f"{' '.join(one.name for one in sets)}: give each set another name")
        views = [count for count in settings.views if settings.references_of(count)]
        self._targets = choose_targets(sets, views, settings.groups)
        measure = functools.partial(_measure, pictures=settings.pictures)
        replicated = NamedSharding(mesh, P())
        self._measure = jax.jit(measure, static_argnames=("model",), out_shardings=replicated)
        # One set at one size: units come in this order, and a set of large views fills gigabytes.
        self._scenes = functools.lru_cache(maxsize=1)(self._load)

    def settings(self) -> list[Setting]:
        """One for each set, size, mask and number of views."""
        return [
            {
                "dataset": name,
                "height": height,
                "width": width,
                "mask": mode,
                "ratio": ratio,
                "views": views,
                "references": list(self._settings.references_of(views)),
                "groups": len(targets.groups),
                "pictures": self._settings.pictures,
                "distractors": [f"{other} {number}" for other, number in targets.distractors],
            }
            for name, targets in self._targets.items()
            for height, width in self._settings.sizes
            for mode, ratio in self._settings.modes
            for views in targets.views
        ]

    def accepts(self, kind: str) -> bool:
        """Muskie."""
        return kind == MUSKIE

    def evaluate(self, subject: Subject, setting: Setting) -> Iterator[ResultRow | Figure]:
        """See `ReconstructionCurves`. For the largest number of views there is a figure, too.

        Nothing is said of weights without the reconstruction head, and of a network with learned view
        embeddings and more views than it has of them. Views are of the nearest size that can be cut into
        the network's patches.

        Raises:
          UserError: if a mask hides nothing, or data cannot be read.
        """
        views, mode, ratio = setting["views"], setting["mask"], setting["ratio"]
        patch = subject.network.patch
        size = nearest_size((setting["height"], setting["width"]), patch)
        if "head" not in subject.params:
            return
        if subject.network.view_embed == "learned" and views > subject.network.max_views:
            return
        grid = _grid(size, patch, mode, ratio)
        labels = {name: setting[name] for name in ("dataset", "height", "width", "views")}
        labels["mask"] = f"{mode} {ratio:g}"
        scenes = self._scenes(setting["dataset"], size)
        masks = np.stack([draw_masks(label, views, grid, mode, ratio) for label in scenes.labels])
        patches = masks[:, 0].sum(-1)
        run = functools.partial(self._run, subject, scenes, masks)
        contexts = (ALONE,) if views == 1 else (OWN, DISTRACTOR) if scenes.distractors else (OWN,)
        pictures = {}
        for references in self._settings.references_of(views):
            for context in contexts:
                (squared, baseline), pictures[context] = run(references, context)
                for overlap, chosen in overlap_bins(scenes.seen, references).items():
                    mean = lambda sums, chosen=chosen: Mean(sums[chosen].sum(), patches[chosen].sum())
                    values = {
                        "mse": float(mean(squared).compute()),
                        "baseline_mse": float(mean(baseline).compute()),
                        "patches": float(patches[chosen].sum()),
                    }
                    yield ResultRow(
                        labels | {"num_reference": references, "context": context, "overlap": overlap},
                        values,
                    )
        if self._settings.pictures and 1 < views == self._targets[setting["dataset"]].views[-1]:
            yield _figure([pictures[each] for each in contexts], patch, references, labels)

    def _load(self, dataset: str, size: tuple[int, int]) -> _Scenes:
        targets = self._targets[dataset]
        most, own = targets.views[-1], [(dataset, number) for number in targets.groups]

        def load(key: tuple[str, int]) -> tuple[np.ndarray, np.ndarray]:
            name, number = key
            order = view_order(self._sets[name].groups[number])[:most]
            views = self._sets[name].load(number, size)
            return views.images[order], seen_by_context(views, order)

        needed = list(dict.fromkeys([*own, *targets.distractors]))
        parallel = all(self._sets[name].parallel for name, _ in needed)
        images, seen = (dict(zip(needed, parts)) for parts in zip(*load_in_order(load, needed, parallel)))
        return _Scenes(
            labels=[self._sets[dataset].groups[number].label for _, number in own],
            own=[images[key] for key in own],
            distractors=[images[key] for key in targets.distractors],
            seen=np.stack([seen[key] for key in own]),
        )

    def _run(
        self, subject: Subject, scenes: _Scenes, masks: np.ndarray, references: int, context: str
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Sums over the hidden patches of each target, float64 (2, targets): its squared error, and that
        of the baseline; and what a picture of the first targets shows, see `_measure`."""
        model = subject.network
        model = model.clone(attention=Attention(model.attention.implementation, self._mesh))
        params = jax.device_put(subject.params, NamedSharding(self._mesh, P()))
        count, views = masks.shape[:2]
        shards = group_shards(self._mesh)
        batch = min(self._settings.views_per_device // views or 1, math.ceil(count / shards)) * shards
        rows = local_rows(batch, self._mesh)
        given = scenes.distractors if context == DISTRACTOR else scenes.own

        def group(number: int) -> tuple[np.ndarray, np.ndarray]:
            images = arrange(scenes.own[number][0], given[number][1:views], references)
            whole = np.arange(1, views) <= references
            hidden = arrange(masks[number, 0], masks[number, 1:] & ~whole[:, None], references)
            return images, hidden

        measured = []
        for start in range(0, count, batch):
            # The last target stands in for those that are not there; `count` cuts it off again.
            numbers = (min(start + row, count - 1) for row in rows)
            images, hidden = (np.stack(parts) for parts in zip(*map(group, numbers)))
            placed = put_batch({"images": images, "mask": hidden}, rows, batch, self._mesh)
            measured.append(self._measure(params, placed, np.int32(references), model=model))
        sums, pictures = zip(*jax.device_get(measured))
        return np.concatenate(sums, axis=1)[:, :count].astype(np.float64), pictures[0]


def _measure(
    params: Any, batch: dict[str, Array], target: Array, *, model: Muskie, pictures: int
) -> tuple[Array, tuple[Array, ...]]:
    """Reconstructs a batch.

    Args:
      batch: `images` uint8 (B, V, H, W, 3), `mask` bool (B, V, L).
      target: the number of the view that counts.

    Returns:
      float32 (2, B), sums over the target's hidden patches of the squared error and of the baseline's;
      and of the first groups images, mask, prediction and confidence, see `reconstruction_sheet`.
    """
    images, mask = to_float(batch["images"]), batch["mask"]
    output = model.apply({"params": params}, images, mask)
    alone = lambda x: jax.lax.dynamic_slice_in_dim(x, target, 1, axis=1)  # (B, V, ...) -> (B, 1, ...)
    errors = jnp.square(alone(output.pred) - patchify(alone(images), model.patch)).mean(-1)
    baseline = visible_mean_error(alone(images), alone(mask), model.patch)
    sums = jnp.stack([(errors * alone(mask)).sum((1, 2)), baseline.sum((1, 2))])
    grid = (images.shape[2] // model.patch, images.shape[3] // model.patch)
    pixels = lambda patches: unpatchify(patches[:pictures], grid, model.patch)
    return sums, (images[:pictures], mask[:pictures], pixels(output.pred), pixels(output.conf))


def overlap_bins(seen: np.ndarray, references: int) -> dict[str, np.ndarray]:
    """The targets of each range of overlap, bool (targets,), by name; ranges without any are left out.

    Args:
      seen: float (targets, V - 1), the share of each target that each view of its context sees; nan
        where it is not known.
      references: the first so many views are whole, and the one of them that sees most counts.
    """
    bins = {ALL: np.ones(len(seen), bool)}
    if references:
        best = seen[:, :references].max(axis=1)
        for low, high in itertools.pairwise(OVERLAP_EDGES):
            last = high == OVERLAP_EDGES[-1]
            chosen = (best >= low) & ((best <= high) if last else (best < high))
            if chosen.any():
                bins[f"{low}-{high}"] = chosen
    return bins


def _grid(size: tuple[int, int], patch: int, mode: str, ratio: float) -> tuple[int, int]:
    """The patches of a view, (hp, wp), of which a mask must hide one at least."""
    grid = size[0] // patch, size[1] // patch
    if hidden_count(grid, ratio) == 0:
        raise UserError(
            f"config.evaluate.reconstruction.modes: {mode} with ratio {ratio} hides nothing of "
            f"{size[0]}x{size[1]}: write at least {1 / (grid[0] * grid[1]):.3g}"
        )
    return grid


def _figure(
    pictures: Sequence[tuple[np.ndarray, ...]], patch: int, references: int, labels: dict[str, Any]
) -> Figure:
    """Each target with its own scene's views and, below, with its distractor's if there is one."""
    rows = [np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:]) for parts in zip(*pictures)]
    below = " and, below, with those of another" if len(pictures) > 1 else ""
    caption = (
        f"{labels['dataset']}, mask {labels['mask']}: view {references + 1} from the left is reconstructed "
        f"with the others of its own scene{below}."
    )
    labels = labels | {"num_reference": references}
    return Figure("reconstruction", labels, caption, reconstruction_sheet(*rows, patch))
