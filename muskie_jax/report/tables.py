"""Tables as numbers: rows, columns, intervals and best cells."""

import dataclasses
from collections.abc import Hashable, Iterable

from muskie_jax.report.intervals import MIN_GROUPS, Estimate, Resampled, interval, may_be_equal
from muskie_jax.report.results_file import ModelInfo
from muskie_jax.report.selection import MISSING, TRIVIAL, badge, family

Titles = dict[ModelInfo, str]
BOLD = (
    "Bold marks the best value, if it is better than every trivial baseline and can be distinguished from "
    "the next best."
)
INTERVALS = "Brackets: 95% interval, by bootstrap over groups."


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
      name: header.
      digits: number of digits after the decimal point.
      better: "lower", "higher", or "" if no value is best.
      margin: the best value must exceed both the runner-up and 0 by more than this; for gains.
      relative_margin: the best value must differ from the runner-up by more than this fraction of it.
    """

    name: str
    digits: int = 2
    better: str = "lower"
    margin: float = 0.0
    relative_margin: float = 0.0


@dataclasses.dataclass(frozen=True)
class Row:
    """A table row.

    Attributes:
      labels: the model, and then labels such as the predictor.
      values: one value per column; None is missing.
      badge: qualifier of the model, such as "untrained".
      family: family of the model, which selects its line style; None for published numbers.
      group: only rows with equal groups compete for the best value.
      trivial: whether the model is a trivial baseline. Its values are never best.
      losing: columns whose value is never best, because the error behind it is not below a trivial
        baseline's.
      resampled: the values under each draw of groups, for intervals; () or None if unknown.
    """

    labels: tuple[str, ...]
    values: tuple[float | None, ...]
    badge: str = ""
    family: Hashable = None
    group: Hashable = None
    trivial: bool = False
    losing: tuple[int, ...] = ()
    resampled: tuple[Resampled | None, ...] = dataclasses.field(default=(), compare=False)


Cell = tuple[Row, int]  # a row and the number of a column


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      title: what it shows.
      label_names: headers of the row labels.
      columns: columns of numbers.
      rows: our measurements.
      published: the paper's numbers, which don't compete for the best value.
      note: how to read it.
      best_per_row: whether values compete within a row rather than within a column.
    """

    title: str
    label_names: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    published: tuple[Row, ...] = ()
    note: str = ""
    best_per_row: bool = False

    def text(self, row: Row, column: int) -> str:
        """Formats a cell's value."""
        value = row.values[column]
        return MISSING if value is None else self._format(value, column)

    def interval_text(self, row: Row, column: int) -> str:
        """Formats a cell's 95% interval, such as "[18.10, 22.30]"; "" if it is unknown."""
        resampled = _resampled((row, column))
        ends = None if resampled is None else interval(resampled)
        return "" if ends is None else f"[{', '.join(self._format(end, column) for end in ends)}]"

    def _format(self, value: float, column: int) -> str:
        return f"{value:.{self.columns[column].digits}f}"

    @property
    def has_intervals(self) -> bool:
        return any(
            self.interval_text(row, column) for row in self.rows for column in range(len(self.columns))
        )

    def is_best(self, row: Row, column: int) -> bool:
        """Returns whether a cell is best among at least two, compared as they are printed.

        It is not best if a trivial baseline is as good, or if the best two cannot be distinguished.
        """
        style = self.columns[column]
        if row.values[column] is None or not style.better or row in self.published:
            return False
        if row.trivial or column in row.losing:
            return False
        ranked = self._ranked(row, column)
        printed = [float(self.text(*cell)) for cell in ranked]
        if len(ranked) < 2 or float(self.text(row, column)) != printed[0] or _may_be_equal(*ranked[:2]):
            return False
        baselines = [(other, column) for other in self.rows if other.trivial and other.group == row.group]
        if not all(self._beats((row, column), cell) for cell in baselines if _value(cell) is not None):
            return False
        best, runner_up = printed[:2]
        if style.margin:
            return best - max(runner_up, 0) > style.margin
        return not style.relative_margin or abs(best - runner_up) > style.relative_margin * abs(runner_up)

    def _ranked(self, row: Row, column: int) -> list[Cell]:
        """Returns the cells that compete with a cell, itself included, from the best to the worst."""
        if self.best_per_row:
            cells = [(row, other) for other in range(len(self.columns))]
        else:
            cells = [(other, column) for other in self.rows if other.group == row.group]
        known = [(value, cell) for cell in cells if (value := _value(cell)) is not None]
        highest_first = self.columns[column].better == "higher"
        return [cell for _, cell in sorted(known, key=lambda pair: pair[0], reverse=highest_first)]

    def _beats(self, cell: Cell, baseline: Cell) -> bool:
        value, other = float(self.text(*cell)), float(self.text(*baseline))
        is_better = value > other if self.columns[cell[1]].better == "higher" else value < other
        return is_better and not _may_be_equal(cell, baseline)

    def full_note(self) -> str:
        """Returns the note, with an explanation of intervals and the pairs that cannot be distinguished."""
        notes = [self.note] if self.note else []
        if self.has_intervals:
            notes.append(INTERVALS)
        pairs = [
            f"{pair} ({', '.join(columns)}{group})" for (pair, group), columns in self._undecided().items()
        ]
        if pairs and not self.has_intervals:
            notes.append(
                f"With fewer than {MIN_GROUPS} groups, models cannot be distinguished, and nothing is bold."
            )
        elif pairs:
            notes.append(
                "Not distinguishable (the 95% interval of their paired difference includes 0, or fewer "
                f"than {MIN_GROUPS} groups have a value): {'; '.join(pairs)}."
            )
        return " ".join(notes)

    def _undecided(self) -> dict[tuple[str, str], list[str]]:
        """Returns where the best two values may be equal.

        Returns:
          Names of columns by (pair, group), such as ("a and b", "; 4 views"). If values compete within a
          row, names of rows.
        """
        pairs: dict[tuple[str, str], list[str]] = {}
        contests = set()
        for row in self.rows:
            for column, style in enumerate(self.columns):
                contest = row if self.best_per_row else (column, row.group)
                if not style.better or contest in contests or (self.best_per_row and row.trivial):
                    continue
                contests.add(contest)
                best = self._ranked(row, column)[:2]
                if len(best) < 2 or not _may_be_equal(*best):
                    continue
                if self.best_per_row:
                    numbers = sorted(number for _, number in best)
                    names, group = [self.columns[number].name for number in numbers], ""
                    where = " ".join(row.labels)
                else:
                    names = [each.labels[0] for each in self.rows if each in (best[0][0], best[1][0])]
                    group, where = self._describe_group(row), style.name
                pairs.setdefault((" and ".join(names), group), []).append(where)
        return pairs

    def _describe_group(self, row: Row) -> str:
        """Describes the group that a row competes in, such as "; 4 views"; "" if it is the only one."""
        if len({each.group for each in self.rows}) < 2:
            return ""
        described = [f"{label} {name}" for name, label in zip(self.label_names[1:], row.labels[1:])]
        return f"; {', '.join(described)}"


def _value(cell: Cell) -> float | None:
    row, column = cell
    return row.values[column]


def _resampled(cell: Cell) -> Resampled | None:
    row, column = cell
    return row.resampled[column] if row.resampled else None


def _may_be_equal(a: Cell, b: Cell) -> bool:
    return may_be_equal(_resampled(a), _resampled(b))


@dataclasses.dataclass(frozen=True)
class Section:
    """The tables of one evaluation set.

    Attributes:
      title: title of the evaluation set.
      tables: tables that are comparable with the paper's.
      details: longer tables.
      beyond_paper: tables of measurements that the paper does not have.
      complete: tables of `beyond_paper` with all their rows, for the page only.
    """

    title: str
    tables: tuple[Table, ...] = ()
    details: tuple[Table, ...] = ()
    beyond_paper: tuple[Table, ...] = ()
    complete: tuple[Table, ...] = ()


def make_row(
    labels: Iterable[str],
    model: ModelInfo,
    values: Iterable[Estimate | float | None],
    group: Hashable = None,
    losing: tuple[int, ...] = (),
) -> Row:
    """Returns a row of a model. Plain numbers have no interval; None is a missing value."""
    estimates = [Estimate(each) if isinstance(each, int | float) else each for each in values]
    return Row(
        labels=tuple(labels),
        values=tuple(each and each.value for each in estimates),
        badge=badge(model),
        family=family(model),
        group=group,
        trivial=model.kind in TRIVIAL,
        losing=losing,
        resampled=tuple(each and each.resampled for each in estimates),
    )
