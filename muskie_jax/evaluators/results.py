"""What an evaluation produces: rows of metrics, and figures, labelled with what they show."""

import pathlib
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import UInt8

from muskie_jax.evaluators.eval_models import EvalModel

Setting = Mapping[str, Any]  # settings of one unit of work, JSON-serialisable
Labels = dict[str, str | int | float | None]


class ResultRow(NamedTuple):
    """Metrics of one slice of the data.

    Attributes:
      labels: what the metrics are about, such as `dataset`, `views` and `layer`.
      values: metrics by name, such as `px_ate`.
      by_group: one number per group of views, in order, for some of the metrics and for their weights: the
        counts `pairs`, `cm_pairs` and `patches`. A metric is the weighted mean over groups; it is None in a
        group of weight 0. Empty in results of earlier versions.
    """

    labels: Labels
    values: dict[str, float]
    by_group: Mapping[str, Sequence[float | None]] = types.MappingProxyType({})


class Figure(NamedTuple):
    """A picture for the report.

    Attributes:
      kind: a key of `muskie_jax.report.page.FIGURES`, such as "tracks".
      labels: what it shows, with the same keys as the labels of a row.
      caption: one sentence.
      pixels: sRGB values.
      page: a self-contained HTML page that shows more of the same, or "".
    """

    kind: str
    labels: Labels
    caption: str
    pixels: UInt8[np.ndarray, "height width 3"]
    page: str = ""


class SweepEvaluator(Protocol):
    """Measures models under one or more settings.

    One instance serves the whole sweep, so each program compiles once per network and shape.

    Attributes:
      name: name of the evaluator, as in `config.evaluate.evaluators`.
      reporting_keys: keys of a setting that only select which results to report. Results that differ only
        in these keys are comparable, because the data and the task were the same.
    """

    name: str
    reporting_keys: tuple[str, ...]

    def settings(self) -> list[Setting]:
        """Returns one setting per unit of work of a model; finished units are not repeated."""
        ...

    def accepts(self, kind: str) -> bool:
        """Returns whether models of this kind can be evaluated."""
        ...

    def image_folders(self, setting: Setting) -> Sequence[pathlib.Path]:
        """Returns the folder of each evaluated group's images, absolute; () for rendered views."""
        ...

    def evaluate(self, model: EvalModel, setting: Setting) -> Iterator[ResultRow | Figure]:
        """Yields rows and figures; yields nothing if the setting does not apply to the model.

        Raises:
          UserError: if the data cannot be used.
        """
        ...
