"""What the network knows of a surface, drawn: features as colours, and matches between two views.

Letters in shapes: V views, H x W pixels, L patches per view in row-major order, d width, N matches.
"""

from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw

PERCENTILES = (2, 98)  # of a component, drawn as 0 and 255: a few patches stand far out from the rest
MIN_MATCH_SIDE = 384  # of a view in a picture of matches, pixels: smaller ones are enlarged
GAP = 12  # between its two views
OVERSAMPLING = 2  # Pillow draws jagged lines
LINE, DOT = 1.5, 4  # width of a line, radius of its ends, pixels
ROUNDING = 1e-6  # of the largest number: float32 has 24 bits
RIGHT, WRONG = (40, 200, 80), (235, 50, 50)


def pca_colours(tokens: np.ndarray, grid: tuple[int, int], patch: int) -> np.ndarray:
    """Patch tokens as colours: red, green and blue are the first three principal components.

    There is one basis and one scale for all views, so that a surface can have the same colour in each.
    Rotating the feature space, or adding a vector to all tokens of a view, changes no colour.

    Args:
      tokens: float (V, L, d).
      grid: rows and columns of patches, L = rows x columns.
      patch: side of a patch, pixels.

    Returns:
      uint8 (V, H, W, 3). A component that does not vary is drawn as mid-grey.
    """
    views, _, width = tokens.shape
    flat = less_view_mean(tokens).reshape(-1, width)
    _, axes = np.linalg.eigh(flat.T @ flat)  # ascending
    count = min(3, width)
    components = np.zeros((len(flat), 3))
    components[:, :count] = flat @ axes[:, ::-1][:, :count]
    # An axis may point either way: it is made to point to where the few tokens far out are.
    components *= np.where((components**3).sum(0) < 0, -1, 1)
    low, high = np.percentile(components, PERCENTILES, axis=0)
    varies = high > low
    shade = np.where(varies, (components - low) / np.where(varies, high - low, 1), 0.5)
    pixels = np.round(255 * np.clip(shade, 0, 1)).astype(np.uint8).reshape(views, *grid, 3)
    return pixels.repeat(patch, axis=1).repeat(patch, axis=2)


def less_view_mean(tokens: np.ndarray) -> np.ndarray:
    """Tokens (..., L, d) less the mean token of their view; exactly zero where they are all equal.

    The mean is mostly the view's exposure. Without it, tokens of the same surface differ less between
    views, and those of different surfaces more.
    """
    tokens = tokens.astype(np.float64)
    rest = tokens - tokens.mean(-2, keepdims=True)
    rounding = ROUNDING * np.abs(tokens).max(initial=0)
    return np.where(np.abs(rest) > rounding, rest, 0)


class Matches(NamedTuple):
    """Pairs of patches of two views, the strongest first.

    Attributes:
      first, second: int (N,), numbers of patches.
      score: float (N,), cosine similarity of their tokens, in (0, 1].
    """

    first: np.ndarray
    second: np.ndarray
    score: np.ndarray


def mutual_matches(first: np.ndarray, second: np.ndarray) -> Matches:
    """Patches of two views each of which is the other's nearest, by cosine similarity.

    Tokens are compared less the mean of their view; those that are not at all similar do not match.

    Args:
      first, second: float (L, d) and (M, d), patch tokens of the two views.
    """
    similarity = _directions(first) @ _directions(second).T
    nearest = similarity.argmax(1)
    numbers = np.arange(len(first))
    score = similarity[numbers, nearest]
    mutual = (similarity.argmax(0)[nearest] == numbers) & (score > 0)
    order = np.argsort(-score[mutual], kind="stable")
    return Matches(*(values[mutual][order] for values in (numbers, nearest, score)))


def _directions(tokens: np.ndarray) -> np.ndarray:
    """Tokens (L, d) less their mean, of length 1 or 0."""
    rest = less_view_mean(tokens)
    length = np.linalg.norm(rest, axis=-1, keepdims=True)
    return rest / np.where(length > 0, length, 1)


def patch_centres(grid: tuple[int, int], patch: int) -> np.ndarray:
    """Where the patches of a grid (rows, columns) are: float (L, 2), x and y in pixels."""
    rows, columns = np.indices(grid).reshape(2, -1)
    return patch * (np.stack([columns, rows], -1) + 0.5)


def match_picture(
    images: np.ndarray, first: np.ndarray, second: np.ndarray, right: np.ndarray | None = None
) -> np.ndarray:
    """Two views side by side, and a line between the two ends of each match.

    Args:
      images: uint8 (2, H, W, 3).
      first, second: float (N, 2), x and y in pixels of the first and of the second view.
      right: bool (N,), drawn green where True, red where False. None: the colour says how far left or
        right a match is in the first view, so that where matches are good, both show the same order.

    Returns:
      uint8 (height, width, 3).
    """
    _, height, width, _ = images.shape
    scale = OVERSAMPLING * max(1.0, MIN_MATCH_SIDE / min(height, width))
    size = (round(scale * width), round(scale * height))
    left_of_second = size[0] + OVERSAMPLING * GAP
    picture = Image.new("RGB", (left_of_second + size[0], size[1]), "white")
    for left, image in zip((0, left_of_second), images):
        picture.paste(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), (left, 0))
    if right is None:
        colours = (255 * colormaps["turbo"](first[:, 0] / width)[:, :3]).astype(int)
    else:
        colours = np.where(right[:, None], RIGHT, WRONG)
    # The strongest come first: drawn last, they lie on top. No line hides the end of another.
    ends = (scale * first[::-1], scale * second[::-1] + (left_of_second, 0))
    colours = [tuple(colour) for colour in colours[::-1].tolist()]
    draw = ImageDraw.Draw(picture)
    for start, end, colour in zip(*ends, colours):
        draw.line([*start, *end], colour, width=round(LINE * OVERSAMPLING))
    for points in ends:
        for point, colour in zip(points, colours):
            draw.circle(tuple(point), DOT * OVERSAMPLING, colour, outline="white", width=OVERSAMPLING)
    return np.asarray(picture.reduce(OVERSAMPLING))
