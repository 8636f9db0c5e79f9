"""Matches between two photographs.

    matches, *_ = match_photographs(open_network("small"), "1.jpg", ["2.jpg"])
    matches.first, matches.second, matches.score  # (N, 2), (N, 2) and (N,), best first

The centre of every patch of the first photograph is searched for in the other, with sub-patch accuracy, and
kept if it is found with confidence and leads back to where it came from (`encoding.Found`). Plain patches,
such as sky, are not searched for: nothing tells where in a plain surface they are.
"""

import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64

from muskie_jax.checks import require
from muskie_jax.data.load_images import FilePath
from muskie_jax.files import user_path
from muskie_jax.models.muskie import patchify
from muskie_jax.photographs.encoding import PREDICTOR, Encoding, encode_in_groups, find_points
from muskie_jax.photographs.opening import SIZE, Network, find_photographs
from muskie_jax.viz.features import patch_centres

# Photographs of different scenes have fewer matches than this fraction of the patches; see docs.
FEW = 0.1
TEXTURE = 0.03  # standard deviation of brightness in a patch, in [-1, 1]; four grey levels of 256


class Matches(NamedTuple):
    """Matches between two photographs, best first.

    Attributes:
      first, second: x and y of each match, in pixels of the two upright photographs.
      score: confidence of each match, see `encoding.Found`.
      searched: number of points of the first photograph that were searched for; 0 if that is not known.
    """

    first: Float64[np.ndarray, "N 2"]
    second: Float64[np.ndarray, "N 2"]
    score: Float[np.ndarray, " N"]
    searched: int = 0

    @property
    def are_few(self) -> bool:
        """Whether there are as few matches as between photographs of different scenes."""
        return len(self.score) < FEW * self.searched


def match_photographs(
    network: Network,
    first: FilePath,
    others: FilePath | Sequence[FilePath],
    size: int = SIZE,
    predictor: str = PREDICTOR,
) -> Iterator[Matches]:
    """Yields the matches between the first photograph and each of the others, in their order.

    All photographs of a group (`encode_in_groups`) are seen by the network at once, so a third photograph
    may help to match the first two.

    Args:
      network: the network.
      first: the first photograph.
      others: the other photographs: files and folders.
      size: see `muskie_jax.photographs.opening.open_views`.
      predictor: see `muskie_jax.photographs.encoding.encode`.

    Raises:
      UserError: if a photograph cannot be read, or there is no other.
    """
    path, files = user_path(first), other_photographs(first, others)
    for encoding in encode_in_groups(network, path, files, size, predictor):
        yield from matches_of(encoding)


def other_photographs(first: FilePath, others: FilePath | Sequence[FilePath]) -> list[pathlib.Path]:
    """Returns the photographs of files and folders, without repetitions and without the first photograph.

    Raises:
      UserError: if none is left.
    """
    path = user_path(first).absolute()
    files = [each for each in find_photographs(others) if each.absolute() != path]
    require(files, f"there is no other photograph than {first}: pass at least two")
    return files


def matches_of(encoding: Encoding, first: int = 0, min_confidence: float | None = None) -> list[Matches]:
    """Returns the matches between one photograph of a group and each of the others.

    Args:
      encoding: the photographs.
      first: index of the photograph whose patches are searched for.
      min_confidence: least confidence of a match; None: see `encoding.MIN_CONFIDENCE`.
    """
    views = encoding.views
    height, width = views.areas[first].tolist()
    grid = (height // views.patch, width // views.patch)
    has_texture = _has_texture(views.images[first, :height, :width], views.patch)
    points = views.to_photograph(first, patch_centres(grid, views.patch)[has_texture])
    found = find_points(encoding, first, points, min_confidence)
    results = []
    for view in range(len(views.paths)):
        if view == first:
            continue
        chosen = np.flatnonzero(found.visible[:, view])
        chosen = chosen[np.argsort(-found.confidence[chosen, view], kind="stable")]
        score = found.confidence[chosen, view]
        results.append(Matches(points[chosen], found.positions[chosen, view], score, len(points)))
    return results


def _has_texture(image: Float[np.ndarray, "H W 3"], patch: int) -> Bool[np.ndarray, " L"]:
    """Returns whether the brightness of each patch varies."""
    brightness = np.asarray(patchify(image.mean(-1, keepdims=True), patch))
    return brightness.std(-1) >= TEXTURE
