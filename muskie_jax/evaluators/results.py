"""What an evaluator of a sweep gives: rows of figures, and pictures, with what they are about."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from muskie_jax.evaluators.subjects import Subject

Setting = Mapping[str, Any]  # what an evaluator is told for one unit of work; can be written as JSON


class ResultRow(NamedTuple):
    """Some figures.

    Attributes:
      labels: what they are about, such as `dataset`, `views`, `layer`; text and numbers.
      values: by name, such as `px_ate`.
    """

    labels: dict[str, str | int | float | None]
    values: dict[str, float]


class Figure(NamedTuple):
    """A picture.

    Attributes:
      kind: "tracks", "features" or "reconstruction".
      labels: what it is about, as those of a row.
      caption: what is to be seen, a sentence.
      pixels: uint8 (height, width, 3).
    """

    kind: str
    labels: dict[str, str | int | float | None]
    caption: str
    pixels: np.ndarray


class SweepEvaluator(Protocol):
    """What measures any number of subjects under some settings.

    Programs are compiled once per network and shape: an evaluator lives as long as its sweep.

    Attributes:
      name: of the evaluator.
      apart: parts of a setting that choose among answers: figures that differ in these can be compared,
        since the question was the same.
    """

    name: str
    apart: tuple[str, ...]

    def settings(self) -> list[Setting]:
        """One for each unit of work per subject; units are what a killed sweep does not do again."""
        ...

    def accepts(self, kind: str) -> bool:
        """Whether this can be measured of subjects of a kind at all."""
        ...

    def evaluate(self, subject: Subject, setting: Setting) -> Iterator[ResultRow | Figure]:
        """Measures; gives nothing if there is nothing to measure.

        Raises:
          UserError: for data that cannot be used.
        """
        ...
