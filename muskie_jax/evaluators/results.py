"""What an evaluation produces: rows of metrics, and figures, labelled with what they show."""

from collections.abc import Iterator, Mapping
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
    """

    labels: Labels
    values: dict[str, float]


class Figure(NamedTuple):
    """A picture for the report.

    Attributes:
      kind: "tracks", "features" or "reconstruction".
      labels: what it shows, with the same keys as the labels of a row.
      caption: one sentence.
      pixels: sRGB values.
    """

    kind: str
    labels: Labels
    caption: str
    pixels: UInt8[np.ndarray, "height width 3"]


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

    def evaluate(self, model: EvalModel, setting: Setting) -> Iterator[ResultRow | Figure]:
        """Yields rows and figures; yields nothing if the setting does not apply to the model.

        Raises:
          UserError: if the data cannot be used.
        """
        ...
