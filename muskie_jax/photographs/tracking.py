"""Points of one photograph, found in others.

    tracks = track_photographs(open_network("small"), "query.jpg", "views", np.array([[812.0, 430.0]]))
    tracks.positions[0], tracks.visible[0]  # of the point in every photograph of the folder

To search repeatedly, as a web page does, keep an `encoding.Encoding` and call `encoding.find_points`, which
takes milliseconds.
"""

import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64

from muskie_jax.data.load_images import FilePath, open_image
from muskie_jax.errors import UserError
from muskie_jax.files import user_path
from muskie_jax.photographs.encoding import (
    PREDICTOR,
    Encoding,
    Found,
    check_inside,
    encode_in_groups,
    find_points,
)
from muskie_jax.photographs.matching import best_turns, other_photographs
from muskie_jax.photographs.opening import SIZE, Network


class Tracks(NamedTuple):
    """Points of a query photograph in V others; see `encoding.Found` for the arrays.

    Attributes:
      points: x and y, in pixels of the upright query photograph.
      positions, confidence, visible: in the other photographs.
      query: the query photograph.
      paths: the other photographs.
    """

    points: Float64[np.ndarray, "N 2"]
    positions: Float64[np.ndarray, "N V 2"]
    confidence: Float[np.ndarray, "N V"]
    visible: Bool[np.ndarray, "N V"]
    query: pathlib.Path
    paths: tuple[pathlib.Path, ...]


def track_photographs(
    network: Network,
    query: FilePath,
    others: FilePath | Sequence[FilePath],
    points: Float[np.ndarray, "N 2"],
    size: int = SIZE,
    predictor: str = PREDICTOR,
    turned: bool = False,
) -> Tracks:
    """Finds points of a photograph in others.

    Args:
      network: the network.
      query: the photograph of the points.
      others: the other photographs: files and folders. The query is left out of them.
      points: x and y, in pixels of the query.
      size: see `muskie_jax.photographs.opening.open_views`.
      predictor: see `muskie_jax.photographs.encoding.encode`.
      turned: whether to also search with the query turned, see `match_photographs`.

    Raises:
      UserError: if a photograph cannot be read, there is no other, or a point is outside the query.
    """
    path, files = user_path(query), other_photographs(query, others)
    points = np.asarray(points, np.float64).reshape(-1, 2)
    check_points(points, path)
    groups = encode_in_groups(network, path, files, size, predictor, turned)
    found = [_find_in_group(encodings, points) for encodings in groups]
    # View 0 of each group is the query.
    positions, confidence, visible = (
        np.concatenate([array[:, 1:] for array in arrays], axis=1) for arrays in zip(*found)
    )
    return Tracks(points, positions, confidence, visible, path, tuple(files))


def _find_in_group(encodings: Sequence[Encoding], points: Float64[np.ndarray, "N 2"]) -> Found:
    """Finds points in a group whose first photograph is the query; each view takes the best turn of it."""
    found = [find_points(encoding, 0, points) for encoding in encodings]
    if len(found) == 1:
        return found[0]
    turns = [0, *(turn for turn, _ in best_turns(encodings))]
    return Found(*(np.stack([arrays[t][:, v] for v, t in enumerate(turns)], 1) for arrays in zip(*found)))


def check_points(points: Float[np.ndarray, "N 2"], photograph: FilePath) -> None:
    """Raises UserError if a point is outside its photograph, or the photograph cannot be read."""
    path = user_path(photograph)
    query = open_image(path)
    check_inside(points, (query.height, query.width), path)


def parse_points(text: str) -> Float64[np.ndarray, "N 2"]:
    """Parses points such as "812,430; 96.5,310" into x and y.

    Raises:
      UserError: if the text has another form.
    """
    number = r"\s*(-?\d+(?:\.\d*)?)\s*"
    pairs = [re.fullmatch(f"{number},{number}", each) for each in text.split(";") if each.strip()]
    if not pairs or None in pairs:
        raise UserError(f'--points={text} must be x,y in pixels, separated by semicolons: "812,430;96,310"')
    return np.array([[float(pair[1]), float(pair[2])] for pair in pairs if pair])
