"""Tests whether a network uses other views: the error of one masked view, given different context views.

A target is reconstructed with other views of the same scene. If there is a distractor (see `contexts`), the
target is reconstructed again, under the same mask, with the same number of views of the distractor's scene.
The difference of the two errors is what the network gains from views of the scene. Both curves start at the
target without context, `views` = 1.
"""

import dataclasses
import functools
import itertools
import math
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float, UInt8

from muskie_jax.checks import nearest_size, require
from muskie_jax.errors import UserError
from muskie_jax.evaluators.contexts import (
    GroupKey,
    ViewSet,
    arrange,
    choose_targets,
    draw_masks,
    seed_of,
    seen_by_context,
    view_order,
)
from muskie_jax.evaluators.eval_models import MUSKIE, EvalModel, MuskieNetwork
from muskie_jax.evaluators.loading import load_in_order
from muskie_jax.evaluators.reconstruction import SheetParts, sheet_parts, visible_mean_error
from muskie_jax.evaluators.results import Figure, Labels, ResultRow, Setting
from muskie_jax.evaluators.settings import ReconstructionSettings
from muskie_jax.masking import hidden_count
from muskie_jax.metrics import Mean
from muskie_jax.models.attention import Attention
from muskie_jax.models.muskie import Muskie, MuskieOutput, patchify, to_float
from muskie_jax.sharding import group_shards, local_rows, put_batch
from muskie_jax.viz.reconstruction import reconstruction_sheet
from muskie_jax.writers import log_main

OVERLAP_EDGES = (0.0, 0.3, 0.6, 1.0)  # edges of the overlap bins
ALL = "all"  # targets of any overlap, known or unknown
OWN, DISTRACTOR, NO_CONTEXT = "own", "distractor", "none"  # group that the context views come from


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurveSettings(ReconstructionSettings):
    """Settings of the reconstruction curves.

    Attributes:
      sizes: (height, width) of views, pixels.
      pictures: maximum number of targets in a figure; never more than one batch has.
      views_per_device: maximum number of views per device and batch; at least one group.

    Raises:
      UserError: if a value is invalid.
    """

    sizes: tuple[tuple[int, int], ...]
    pictures: int
    views_per_device: int = 32

    def __post_init__(self):
        super().__post_init__()
        require(self.views_per_device >= 1, f"views_per_device={self.views_per_device} must be at least 1")


class _Scenes(NamedTuple):
    """The loaded targets of a set, each with its context.

    Attributes:
      seeds: texts that the targets' masks are drawn from.
      own: views of each target's group, the target first.
      distractors: views of each target's distractor; empty if there are none.
      seen: see `seen_by_context`.
    """

    seeds: list[str]
    own: list[UInt8[np.ndarray, "V H W 3"]]
    distractors: list[UInt8[np.ndarray, "V H W 3"]]
    seen: Float[np.ndarray, "targets V-1"]


class _TargetErrors(NamedTuple):
    """Sums over the hidden patches of each target.

    Attributes:
      squared: sum of the patches' mean squared errors.
      baseline: the same sum if patches are filled with the target's visible mean.
      sheet: arrays of the first targets, for a figure.
    """

    squared: Float[np.ndarray, " targets"]
    baseline: Float[np.ndarray, " targets"]
    sheet: SheetParts


class ReconstructionCurves:
    """Measures the masked error of targets, given views of the same scene or of a distractor's scene.

    The labels of a row are `dataset`, `height`, `width`, `views`, `num_reference` (number of unmasked
    reference views), `mask` (mode and ratio), `context` ("own", "distractor" or "none") and `overlap`.

    `overlap` is "all" or a range such as "0.3-0.6". It is the fraction of the target's pixels that the best
    reference view of the same scene sees. Ranges need depth and cameras. The values of a row are

    - `mse`: mean squared error of pixels in [-1, 1], over hidden patches of the targets;
    - `baseline_mse`: the same error if they are filled with the mean of the target's visible pixels;
    - `patches`: number of hidden patches.

    Groups, masks and distractors are the same for every network and any number of devices. Predictions are
    assumed to be pixels, so networks that were trained with `normalize_targets` cannot be compared.

    Args:
      sets: posed sets, or held-out scenes without geometry.
      settings: see `CurveSettings`.
      mesh: groups are split over its devices; its axis `view` must be 1.

    Raises:
      UserError: if two sets have the same name, or `choose_targets` raises it.
    """

    name = "reconstruction"
    reporting_keys: tuple[str, ...] = ("mask", "ratio", "views", "references", "pictures")

    def __init__(self, sets: Sequence[ViewSet], settings: CurveSettings, mesh: Mesh):
        if mesh.shape["view"] != 1:
            raise ValueError("a mesh that splits views cannot process groups of one view")
        self._settings, self._mesh = settings, mesh
        self._sets = {each.name: each for each in sets}
        if len(self._sets) < len(sets):
            names = ", ".join(each.name for each in sets)
            raise UserError(
                f"config.posed and config.sources have the sets {names}: give each its own name"
            )
        views = [count for count in settings.views if settings.references_of(count)]
        self._targets = choose_targets(sets, views, settings.groups)
        measure = functools.partial(_measure, pictures=settings.pictures)
        replicated = NamedSharding(mesh, P())
        self._measure = jax.jit(measure, static_argnames=("network",), out_shardings=replicated)
        # Keeps one set at one size: units are ordered by set and size, and large views take gigabytes.
        self._scenes = functools.lru_cache(maxsize=1)(self._load)
        self._warnings: set[str] = set()  # logged so far; a set is loaded again for each size and model

    def settings(self) -> list[Setting]:
        """Returns one setting per set, size, mask and view count."""
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
        return kind == MUSKIE

    def image_folders(self, setting: Setting) -> Sequence[pathlib.Path]:
        name = setting["dataset"]
        folders = getattr(self._sets[name], "image_folders", ())
        return [folders[number] for number in self._targets[name].groups] if folders else ()

    def evaluate(self, model: EvalModel, setting: Setting) -> Iterator[ResultRow | Figure]:
        """Yields the rows of one setting, and a figure for the largest view count.

        Yields nothing if the weights have no reconstruction head, or if the network has learned view
        embeddings for fewer views. Views are resized to the nearest multiple of the network's patch size.

        Raises:
          UserError: if a mask hides no patch, or data cannot be read.
        """
        views, mode, ratio = setting["views"], setting["mask"], setting["ratio"]
        network = cast(MuskieNetwork, model.network).module
        if "head" not in model.params:
            return
        if network.view_embed == "learned" and views > network.max_views:
            return
        size = nearest_size((setting["height"], setting["width"]), network.patch)
        grid = _grid(size, network.patch, mode, ratio)
        labels: Labels = {name: setting[name] for name in ("dataset", "height", "width", "views")}
        labels["mask"] = f"{mode} {ratio:g}"
        scenes = self._scenes(setting["dataset"], size)
        masks = np.stack([draw_masks(seed, views, grid, mode, ratio) for seed in scenes.seeds])
        patches = masks[:, 0].sum(-1)
        contexts = _contexts(views, bool(scenes.distractors))
        sheets: dict[str, SheetParts] = {}
        all_references = self._settings.references_of(views)
        for references in all_references:
            for context in contexts:
                errors = self._errors(network, model.params, scenes, masks, references, context)
                sheets[context] = errors.sheet
                for overlap, chosen in overlap_bins(scenes.seen, references).items():
                    row = {"num_reference": references, "context": context, "overlap": overlap}
                    yield ResultRow(labels | row, *_values(errors, patches, chosen))
        if self._settings.pictures and 1 < views == self._targets[setting["dataset"]].views[-1]:
            shown = [sheets[context] for context in contexts]
            yield _figure(shown, network.patch, all_references[-1], labels)

    def _load(self, dataset: str, size: tuple[int, int]) -> _Scenes:
        targets = self._targets[dataset]
        most, own = targets.views[-1], [(dataset, number) for number in targets.groups]

        def load(key: GroupKey) -> tuple[np.ndarray, np.ndarray]:
            name, number = key
            order = view_order(self._sets[name].groups[number])[:most]
            views = self._sets[name].load(number, size)
            return views.images[order], seen_by_context(views, order)

        needed = list(dict.fromkeys([*own, *targets.distractors]))
        parallel = all(self._sets[name].parallel for name, _ in needed)
        loaded = dict(zip(needed, load_in_order(load, needed, parallel)))
        self._warn_of_unreadable(dict.fromkeys(name for name, _ in needed))
        return _Scenes(
            seeds=[seed_of(self._sets[dataset].groups[number]) for _, number in own],
            own=[loaded[key][0] for key in own],
            distractors=[loaded[key][0] for key in targets.distractors],
            seen=np.stack([loaded[key][1] for key in own]),
        )

    def _warn_of_unreadable(self, names: Iterable[str]) -> None:
        """Logs how many images of sets were unreadable. A line is logged once."""
        for line in (getattr(self._sets[name], "unreadable", "") for name in names):
            if line and line not in self._warnings:
                self._warnings.add(line)
                log_main(f"WARNING: {line}")

    def _errors(
        self,
        network: Muskie,
        params: Any,
        scenes: _Scenes,
        masks: np.ndarray,
        references: int,
        context: str,
    ) -> _TargetErrors:
        """Reconstructs all targets, in batches, with `references` unmasked context views."""
        network = network.clone(attention=Attention(network.attention.implementation, self._mesh))
        params = jax.device_put(params, NamedSharding(self._mesh, P()))
        count, views = masks.shape[:2]
        shards = group_shards(self._mesh)
        batch = min(self._settings.views_per_device // views or 1, math.ceil(count / shards)) * shards
        rows = local_rows(batch, self._mesh)
        context_views = scenes.distractors if context == DISTRACTOR else scenes.own

        def group(number: int) -> tuple[np.ndarray, np.ndarray]:
            images = arrange(scenes.own[number][0], context_views[number][1:views], references)
            is_reference = np.arange(1, views) <= references
            mask = arrange(masks[number, 0], masks[number, 1:] & ~is_reference[:, None], references)
            return images, mask

        outputs = []
        for start in range(0, count, batch):
            # Copies of the last target pad the last batch; `[:count]` removes them below.
            numbers = (min(start + row, count - 1) for row in rows)
            images, mask = (np.stack(parts) for parts in zip(*map(group, numbers)))
            on_devices = put_batch({"images": images, "mask": mask}, rows, batch, self._mesh)
            outputs.append(self._measure(params, on_devices, np.int32(references), network=network))
        sums, sheets = zip(*jax.device_get(outputs))
        squared, baseline = np.concatenate(sums, axis=1)[:, :count].astype(np.float64)
        return _TargetErrors(squared, baseline, sheets[0])


def _measure(
    params: Any, batch: dict[str, Array], target: Array, *, network: Muskie, pictures: int
) -> tuple[Float[Array, "2 B"], SheetParts]:
    """Runs the network on a batch and measures the error of the target views.

    Args:
      params: parameters of the network.
      batch: `images` uint8 (B, V, H, W, 3), `mask` bool (B, V, L).
      target: index of the target view, the same in all groups.
      network: the network.
      pictures: maximum number of groups in the figure.

    Returns:
      Sums of the squared error and of the baseline's error over each target's hidden patches, and arrays of
      the first groups for a figure.
    """
    images, mask, patch = to_float(batch["images"]), batch["mask"], network.patch
    output = cast(MuskieOutput, network.apply({"params": params}, images, mask))
    of_target = lambda x: jax.lax.dynamic_slice_in_dim(x, target, 1, axis=1)  # (B, V, ...) -> (B, 1, ...)
    errors = jnp.square(of_target(output.pred) - patchify(of_target(images), patch)).mean(-1)
    baseline = visible_mean_error(of_target(images), of_target(mask), patch)
    sums = jnp.stack([(errors * of_target(mask)).sum((1, 2)), baseline.sum((1, 2))])
    grid = (images.shape[2] // patch, images.shape[3] // patch)
    return sums, sheet_parts(images, mask, output.pred, output.conf, grid, patch, pictures)


def _contexts(views: int, has_distractors: bool) -> tuple[str, ...]:
    if views == 1:
        return (NO_CONTEXT,)
    return (OWN, DISTRACTOR) if has_distractors else (OWN,)


def _values(
    errors: _TargetErrors, patches: np.ndarray, chosen: np.ndarray
) -> tuple[dict[str, float], dict[str, list[float | None]]]:
    """Averages errors over the hidden patches of the chosen targets, and of each target on its own."""
    sums_by_name = {"mse": errors.squared, "baseline_mse": errors.baseline}
    count = patches[chosen].sum()
    values = {name: float(Mean(sums[chosen].sum(), count).compute()) for name, sums in sums_by_name.items()}
    by_group: dict[str, list[float | None]] = {
        name: [float(total / n) if used else None for total, n, used in zip(sums, patches, chosen)]
        for name, sums in sums_by_name.items()
    }
    by_group["patches"] = np.where(chosen, patches, 0).tolist()
    return values | {"patches": float(count)}, by_group


def overlap_bins(
    seen: Float[np.ndarray, "targets V-1"], references: int
) -> dict[str, Bool[np.ndarray, " targets"]]:
    """Returns the targets within each range of overlap; leaves out ranges without targets.

    Args:
      seen: fraction of each target's pixels that each context view sees; NaN if unknown.
      references: number of reference views, which come first in the context. The overlap of a target is the
        largest fraction that one of them sees.
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
    """Returns the grid of a view's patches, (rows, columns); raises UserError if a mask hides no patch."""
    grid = size[0] // patch, size[1] // patch
    if hidden_count(grid, ratio) == 0:
        raise UserError(
            f"config.evaluate.reconstruction.modes: ({mode!r}, {ratio}) masks no patch of a "
            f"{size[0]}x{size[1]} view: use a ratio of at least {1 / (grid[0] * grid[1]):.3g}"
        )
    return grid


def _figure(sheets: Sequence[SheetParts], patch: int, references: int, labels: Labels) -> Figure:
    """Draws each target with views of the same scene and, below, with views of its distractor, if any."""
    interleaved = [np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:]) for parts in zip(*sheets)]
    images, mask, pred, conf = interleaved
    below = " and, below, with views of another scene" if len(sheets) > 1 else ""
    caption = (
        f"{labels['dataset']}, mask {labels['mask']}: view {references + 1} from the left is reconstructed "
        f"with the other views of the same scene{below}."
    )
    picture = reconstruction_sheet(images, mask, pred, conf, patch)
    return Figure("reconstruction", labels | {"num_reference": references}, caption, picture)
