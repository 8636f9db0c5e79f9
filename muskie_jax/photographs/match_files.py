"""What `muskie match` writes: a picture of matches, a table and arrays."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from muskie_jax.photographs.matching import Matches
from muskie_jax.photographs.opening import short_names, thumbnail
from muskie_jax.photographs.output_files import write_arrays, write_picture, write_table
from muskie_jax.viz.match_lines import SIDE, Panel, match_sheet

MAX_ROWS = 12  # photographs in the picture
COLUMNS = ("x1", "y1", "x2", "y2", "score", "photograph")


class Pair(NamedTuple):
    """A photograph that was matched with the first one, and the matches by the name of the method."""

    path: pathlib.Path
    matches: dict[str, Matches]


def write_matches(
    paths: Sequence[pathlib.Path], first: pathlib.Path, pairs: Sequence[Pair], drawn: int, force: bool
) -> None:
    """Writes the files of a match.

    Args:
      paths: the picture, and for each method its table and its arrays.
      first: the first photograph.
      pairs: the other photographs.
      drawn: matches to draw in a pair of photographs, at most.
      force: replace existing files.

    Raises:
      UserError: if a file cannot be written.
    """
    picture, *others = paths
    for number, method in enumerate(pairs[0].matches):
        table, arrays = others[2 * number : 2 * number + 2]
        _write_numbers(table, arrays, first, [Pair(p.path, {"": p.matches[method]}) for p in pairs], force)
    write_picture(picture, matches_picture(first, pairs, drawn), force)


def _write_numbers(
    table: pathlib.Path, arrays: pathlib.Path, first: pathlib.Path, pairs: Sequence[Pair], force: bool
) -> None:
    matches = [pair.matches[""] for pair in pairs]
    index = np.repeat(np.arange(len(pairs)), [len(each.score) for each in matches])
    joined = {
        "first": np.concatenate([each.first for each in matches]),
        "second": np.concatenate([each.second for each in matches]),
        "score": np.concatenate([each.score for each in matches]).astype(np.float32),
    }
    names = np.array([str(pair.path) for pair in pairs])
    rows = (
        [*(f"{value:.2f}" for value in (*start, *end)), f"{score:.4f}", names[number]]
        for start, end, score, number in zip(*(x.tolist() for x in joined.values()), index.tolist())
    )
    write_table(table, force, COLUMNS, rows)
    write_arrays(arrays, force, **joined, photograph=index, photographs=names, first_photograph=str(first))


def matches_picture(
    first: pathlib.Path, pairs: Sequence[Pair], drawn: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws the matches of each pair of photographs in a row; of at most MAX_ROWS, with most matches.

    Args:
      first: the first photograph.
      pairs: the other photographs.
      drawn: matches to draw, at most.
    """
    count = lambda index: len(next(iter(pairs[index].matches.values())).score)
    shown = sorted(sorted(range(len(pairs)), key=lambda index: -count(index))[:MAX_ROWS])
    start, start_scale = thumbnail(first, 2 * SIDE)
    names, rows = short_names([first, *(pair.path for pair in pairs)]), []
    for index in shown:
        end, end_scale = thumbnail(pairs[index].path, 2 * SIDE)
        rows.append(
            [
                Panel(
                    f"{method}, by {matches.predictor}" if matches.predictor else method,
                    caption(matches, names[0], names[index + 1]),
                    (start, end),
                    matches.first * start_scale,
                    matches.second * end_scale,
                    matches.score,
                )
                for method, matches in pairs[index].matches.items()
            ]
        )
    return match_sheet(rows, drawn)


def caption(matches: Matches, first: str, second: str) -> str:
    """Returns the text above two photographs with their matches."""
    few = " - few, as different scenes have" if matches.are_few else ""
    return f"{first} and {second}: {len(matches.score)} of {matches.searched} {matches.unit} match{few}"
