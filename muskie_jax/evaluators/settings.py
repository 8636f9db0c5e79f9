"""Settings of the evaluators: `config.evaluation` during training, `config.evaluate` for the job."""

import dataclasses
import re

from ml_collections import ConfigDict

from muskie_jax.checks import LARGEST_SIDE, at_least, check_size, is_pair, one_of, require
from muskie_jax.correspondence import PROTOCOLS, RECALL_PROTOCOLS
from muskie_jax.errors import UserError
from muskie_jax.masking import MODES
from muskie_jax.models.muskie import DTYPES

DEFAULT_EVALUATORS = ("correspondence", "reconstruction")
# Those with cameras or depth, which need config.posed.
POSED_EVALUATORS = ("correspondence", "geometry", "recall", "pose_probe")
EVALUATORS = (*DEFAULT_EVALUATORS, "geometry", "recall", "pose_probe")
CHECKPOINTS = re.compile(r"last|all|every ([1-9]\d*)")


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """Reconstruction of held-out scenes during and after training: `config.evaluation`.

    Attributes:
      every: steps between evaluations; 0 evaluates only at the end.
      first: whether to evaluate before the first update too, for example to judge a fine-tuning by the
        weights that it started from.
      groups: number of groups.
      size: (height, width) of views, pixels.
      views: views per group.
      pictures: number of groups in the picture of reconstructions.
    """

    every: int = 5_000
    first: bool = False
    groups: int = 64
    size: tuple[int, int] = (224, 224)
    views: int = 8
    pictures: int = 2


def check_evaluation(evaluation: ConfigDict, patch: int) -> None:
    """Raises UserError for an invalid value of `config.evaluation`; `patch` is in pixels."""
    size = evaluation.size
    require(is_pair(size), f"config.evaluation.size={size!r} must be (height, width)")
    check_size(size, patch, "config.evaluation.size")
    at_least(1, evaluation, "config.evaluation", "views", "groups")
    at_least(0, evaluation, "config.evaluation", "every", "pictures")


@dataclasses.dataclass(frozen=True)
class ReconstructionSettings:
    """Groups and masks of the reconstruction curves: `config.evaluate.reconstruction`.

    Attributes:
      views: group sizes to evaluate, target included.
      references: counts of unmasked views in addition to the target; values too large for the group are
        skipped.
      modes: pairs (mode, ratio) of masks, see `muskie_jax.masking`.
      groups: maximum targets per dataset.

    Raises:
      UserError: if a value is invalid.
    """

    views: tuple[int, ...] = (1, 2, 4, 8)
    references: tuple[int, ...] = (0, 1, 2, 4)
    modes: tuple[tuple[str, float], ...] = (("random", 0.9), ("rectangle", 0.75))
    groups: int = 64

    def __post_init__(self):
        path = "config.evaluate.reconstruction"
        for name in ("views", "references", "modes"):
            require(len(getattr(self, name)) > 0, f"{path}.{name} is empty: it needs at least one entry")
        require(self.groups >= 1, f"{path}.groups={self.groups} must be at least 1")
        require(min(self.views) >= 1, f"{path}.views={self.views} must be 1 or more")
        require(min(self.references) >= 0, f"{path}.references={self.references} must be 0 or more")
        for mode, ratio in self.modes:
            one_of(mode, MODES, f"{path}.modes")
            require(0 < ratio <= 1, f"{path}.modes: ratio {ratio} of {mode} must be above 0, at most 1")
        if not any(map(self.references_of, self.views)):
            raise UserError(
                f"{path}.references={self.references} do not fit any of {path}.views={self.views}: "
                f"use numbers below {max(self.views)}"
            )

    def references_of(self, views: int) -> tuple[int, ...]:
        """Returns the reference counts that a group of `views` views can have; (0,) for a single view."""
        return (0,) if views == 1 else tuple(count for count in self.references if count < views)


@dataclasses.dataclass(frozen=True)
class GeometrySettings:
    """Comparison of predicted cameras and points with true ones: `config.evaluate.geometry`.

    Attributes:
      points: maximum number of points of a group that are compared; 0: one per pixel with depth, as
        published, which takes minutes per group of large views.
      icp: whether to measure points also after iterated closest points, as published.
    """

    points: int = 100_000
    icp: bool = False


@dataclasses.dataclass(frozen=True)
class RecallSettings:
    """Recall of correspondence from frozen features: `config.evaluate.recall`.

    Attributes:
      protocol: "navi" or "scannet", Probe3D's evaluation on this dataset; see docs/evaluation.md.
    """

    protocol: str = "navi"


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """The job `evaluate`: `config.evaluate`.

    Attributes:
      models: models to evaluate, such as ("runs/base", "untrained", "still"); see docs/evaluation.md.
      checkpoints: which checkpoints of a work directory: "last", "all", or "every 3" for every third one
        and the last.
      evaluators: a subset of EVALUATORS; see docs/evaluation.md.
      sizes: (height, width) of views, pixels; every size is evaluated.
      views: group sizes for correspondence; every size is evaluated.
      points: number of points in a group's first view that correspondence finds in its other views.
      enlarge: factor by which correspondence enlarges views before a network sees them. Patches then cover
        less of a view, and points are found more precisely, at more cost. Errors are in pixels of `sizes`.
      orientations: number of angles, evenly over a full turn, at which a network sees the first view. 4 or
        8 find points between cameras that are rolled against each other. The time grows by this factor.
        Only refined predictors choose among angles.
      layers: layers, from 1, whose features and attention correspondence measures; empty means all.
        Features without layers (`patches`, `sift`) are measured in any case.
      protocols: protocols of correspondence: "targets" is exact; "published" is the paper's, with its
        quirks.
      dtype: type of matrix products.
      pictures: number of groups to draw per dataset.
      shard: part of the work that this run does: "2/4" is the second of four parts; empty means all.
      reconstruction: settings of the reconstruction curves.
      geometry: settings of the evaluator "geometry".
      recall: settings of the evaluator "recall".
    """

    models: tuple[str, ...] = ()
    checkpoints: str = "last"
    evaluators: tuple[str, ...] = DEFAULT_EVALUATORS
    sizes: tuple[tuple[int, int], ...] = ((512, 512),)
    views: tuple[int, ...] = (8,)
    points: int = 100
    enlarge: int = 1
    orientations: int = 1
    layers: tuple[int, ...] = ()
    protocols: tuple[str, ...] = PROTOCOLS
    dtype: str = "float32"
    pictures: int = 1
    shard: str = ""
    reconstruction: ReconstructionSettings = ReconstructionSettings()
    geometry: GeometrySettings = GeometrySettings()
    recall: RecallSettings = RecallSettings()


def check_evaluate(evaluate: ConfigDict, has_posed: bool) -> None:
    """Checks `config.evaluate`, for the job of that name.

    Args:
      evaluate: `config.evaluate`.
      has_posed: whether `config.posed` has datasets.

    Raises:
      UserError: if a value is invalid, or correspondence has no dataset.
    """
    path = "config.evaluate"
    require(
        evaluate.models,
        f"{path}.models is empty: use for example ('runs/quickstart', 'untrained', 'still')",
    )
    for key in ("models", "evaluators", "sizes", "views", "protocols"):
        value = evaluate[key]
        valid = isinstance(value, (tuple, list)) and value
        require(valid, f"{path}.{key}={value!r} must be a tuple of at least one entry")
    for entry in evaluate.models:
        valid = isinstance(entry, str) and entry
        require(valid, f"{path}.models has {entry!r}, which must be text, such as 'runs/base'")
    for evaluator in evaluate.evaluators:
        one_of(evaluator, EVALUATORS, f"{path}.evaluators")
    for protocol in evaluate.protocols:
        one_of(protocol, PROTOCOLS, f"{path}.protocols")
    one_of(evaluate.dtype, DTYPES, f"{path}.dtype")
    require(
        CHECKPOINTS.fullmatch(evaluate.checkpoints),
        f"{path}.checkpoints={evaluate.checkpoints!r} must be 'last', 'all', or for example 'every 3'",
    )
    for size in evaluate.sizes:
        valid = is_pair(size) and min(size) > 0
        require(valid, f"{path}.sizes has {size!r}, which must be (height, width)")
        largest = max(size)
        require(largest <= LARGEST_SIDE, f"{path}.sizes has {largest}: use at most {LARGEST_SIDE} pixels")
    for key, least in (("views", 2), ("layers", 1)):
        for value in evaluate[key]:
            valid = isinstance(value, int) and value >= least
            require(valid, f"{path}.{key} has {value!r}, which must be {least} or more")
    at_least(1, evaluate, path, "points", "enlarge", "orientations")
    at_least(0, evaluate, path, "pictures")
    parse_shard(evaluate.shard)
    ReconstructionSettings(**evaluate.reconstruction)
    at_least(0, evaluate.geometry, f"{path}.geometry", "points")
    one_of(evaluate.recall.protocol, RECALL_PROTOCOLS, f"{path}.recall.protocol")
    needing_cameras = [name for name in evaluate.evaluators if name in POSED_EVALUATORS]
    if needing_cameras and not has_posed:
        raise UserError(
            f"config.posed is empty, and {needing_cameras[0]} needs views with cameras: see "
            "docs/evaluation.md"
        )


def parse_shard(text: str) -> tuple[int, int]:
    """Returns the index, from 0, and the number of parts of a shard such as "2/4"; (0, 1) for "".

    Raises:
      UserError: if the text has another form.
    """
    if not text:
        return 0, 1
    match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
    if not match or int(match[1]) > int(match[2]):
        raise UserError(
            f"config.evaluate.shard={text!r} is not a part such as '2/4', the second of four parts"
        )
    return int(match[1]) - 1, int(match[2])
