"""Matches between two photographs.

    matches, *_ = match_photographs(open_network("small"), "1.jpg", ["2.jpg"])
    matches.first, matches.second, matches.score  # (N, 2), (N, 2) and (N,), best first

The centre of every patch of the first photograph is searched for in the other, with sub-patch accuracy, and
kept if it is found with confidence and leads back to where it came from (`encoding.Found`). Plain patches,
such as sky, are not searched for: their position is ambiguous.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64

from muskie_jax.checks import require
from muskie_jax.data.load_images import FilePath
from muskie_jax.files import user_path
from muskie_jax.models.muskie import patchify
from muskie_jax.photographs.encoding import ATTENTION, PREDICTOR, Encoding, encode_in_groups, find_points
from muskie_jax.photographs.opening import SIZE, Network, find_photographs
from muskie_jax.viz.features import patch_centres

# 95% of the pairs of photographs of different scenes have fewer matches than this fraction of the patches;
# docs/photographs.md says what that costs. `muskie_jax.perf.match_scores` measures it.
FEW = 0.07
MOST = 0.9  # fraction of patches above which they count as nearly all
NAMED = 3  # photographs that a warning names
TEXTURE = 0.03  # standard deviation of brightness in a patch, in [-1, 1]; four grey levels of 256


class Matches(NamedTuple):
    """Matches between two photographs, best first.

    Attributes:
      first, second: x and y of each match, in pixels of the two upright photographs.
      score: confidence of each match, see `encoding.Found`.
      searched: number of points of the first photograph that were searched for; 0 if that is not known.
      moved: how far each match moved between the views of the network, in patches; None if not known.
      unit: what was searched for, as a plural.
      predictor: what was compared, one of `encoding.PREDICTORS`; empty for other methods.
    """

    first: Float64[np.ndarray, "N 2"]
    second: Float64[np.ndarray, "N 2"]
    score: Float[np.ndarray, " N"]
    searched: int = 0
    moved: Float[np.ndarray, " N"] | None = None
    unit: str = "patches"
    predictor: str = ""

    @property
    def are_few(self) -> bool:
        """Whether there are as few matches as between photographs of different scenes."""
        return self.moved is not None and len(self.score) < FEW * self.searched

    @property
    def hardly_move(self) -> bool:
        """Whether nearly all patches match, at nearly the same position in both photographs.

        A network that has learnt little attends to the same position in every view, which is consistent.
        """
        if self.moved is None or len(self.score) <= MOST * self.searched:
            return False
        return bool((self.moved < 1).mean() > MOST)


def match_photographs(
    network: Network,
    first: FilePath,
    others: FilePath | Sequence[FilePath],
    size: int = SIZE,
    predictor: str = PREDICTOR,
    turned: bool = False,
) -> list[Matches]:
    """Returns the matches between the first photograph and each of the others, in their order.

    All photographs of a group (`encode_in_groups`) are seen by the network at once, so a third photograph
    may help to match the first two.

    Args:
      network: the network.
      first: the first photograph.
      others: the other photographs: files and folders.
      size: see `muskie_jax.photographs.opening.open_views`.
      predictor: see `muskie_jax.photographs.encoding.encode`.
      turned: whether to also match the first photograph turned by 90, 180 and 270 degrees. Each of the
        others keeps the matches of the turn that has most.

    Raises:
      UserError: if a photograph cannot be read, or there is no other.
    """
    path, files = user_path(first), other_photographs(first, others)
    groups = encode_in_groups(network, path, files, size, predictor, turned)
    return [matches for encodings in groups for _, matches in best_turns(encodings)]


def best_turns(encodings: Sequence[Encoding]) -> list[tuple[int, Matches]]:
    """Returns the index of the encoding with most matches, and these, for each photograph but the first."""
    by_photograph = zip(*map(matches_of, encodings))
    return [max(enumerate(found), key=lambda each: len(each[1].score)) for found in by_photograph]


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
      min_confidence: minimum confidence of a match; None: see `encoding.MIN_CONFIDENCE`.
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
        start, end = points[chosen], found.positions[chosen, view]
        difference = views.from_photograph(view, end) - views.from_photograph(first, start)
        moved = np.linalg.norm(difference, axis=-1) / views.patch
        results.append(Matches(start, end, score, len(points), moved, predictor=encoding.predictor))
    return results


def _has_texture(image: Float[np.ndarray, "H W 3"], patch: int) -> Bool[np.ndarray, " L"]:
    """Returns whether the brightness of each patch varies."""
    brightness = np.asarray(patchify(image.mean(-1, keepdims=True), patch))
    return brightness.std(-1) >= TEXTURE


def match_warnings(pairs: Sequence[tuple[pathlib.Path, Matches]], turned: bool = False) -> list[str]:
    """Returns warnings about few matches, and about matches that hardly move, one line each at most.

    Args:
      pairs: photographs, and their matches with the first.
      turned: whether the first was also turned.
    """
    few = [str(path) for path, matches in pairs if matches.are_few]
    still = {str(path): matches.predictor for path, matches in pairs if matches.hardly_move}
    lines = []
    if few:
        advice = "" if turned else "; if a camera was turned, try --turned"
        lines.append(f"{_some(few, len(pairs))} few matches, as different scenes have{advice}")
    if still:
        reason = (
            "unless the camera stood still, the network has learnt too little; try --predictor=features"
            if ATTENTION in still.values()
            else "it is the same photograph, or the camera hardly moved: by less than a patch"
        )
        lines.append(
            f"{_some(list(still), len(pairs))} nearly all patches matched at the same position as in the "
            f"first: {reason}"
        )
    return lines


def _some(names: Sequence[str], count: int) -> str:
    """Returns "3 of 8 photographs (a, b, c) have", with the first names; "a has" of one photograph."""
    if count == 1:
        return f"{names[0]} has"
    listed = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    have = "has" if len(names) == 1 else "have"
    return f"{len(names)} of {count} photographs ({listed}) {have}"
