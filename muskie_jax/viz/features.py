"""Pictures of features: principal components as colours, and matches between two views.

Letters in shapes: V views, H x W pixels, L patches per view in row-major order, d feature width, N matches.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

PERCENTILES = (2, 98)  # drawn as 0 and 255, since a few patches are outliers
SHEET_COLUMNS = 6  # views side by side
LABEL, NAME, MARGIN = 84, 22, 4  # pixels: width of labels, height of names, space between views
MIN_MATCH_SIDE = 384  # pixels; views in a picture of matches are enlarged to it
GAP = 12  # pixels between the two views
OVERSAMPLING = 2  # Pillow does not antialias lines
LINE, DOT = 1.5, 4  # pixels: width of a line, radius of its ends
ROUNDING = 1e-6  # relative differences up to this are rounding errors; float32 has 24 bits
CORRECT, WRONG = (40, 200, 80), (235, 50, 50)


def pca_colours(
    tokens: Float[np.ndarray, "V L d"], grid: tuple[int, int], patch: int
) -> UInt8[np.ndarray, "V H W 3"]:
    """Draws patch tokens as colours: red, green and blue are the first three principal components.

    All views share one basis and one scale, so a surface can have the same colour in all views. Rotating
    the feature space, or adding a vector to all tokens of a view, changes no colour. A component without
    variance is mid-grey.

    Args:
      tokens: features of the patches.
      grid: rows and columns of patches, L = rows x columns.
      patch: side of a patch, pixels.
    """
    views, _, width = tokens.shape
    flat = subtract_view_mean(tokens).reshape(-1, width)
    _, axes = np.linalg.eigh(flat.T @ flat)  # ascending
    count = min(3, width)
    components = np.zeros((len(flat), 3))
    components[:, :count] = flat @ axes[:, ::-1][:, :count]
    # The sign of an axis is arbitrary: make outliers positive.
    components *= np.where((components**3).sum(0) < 0, -1, 1)
    low, high = np.percentile(components, PERCENTILES, axis=0)
    varies = high > low
    shade = np.where(varies, (components - low) / np.where(varies, high - low, 1), 0.5)
    pixels = np.round(255 * np.clip(shade, 0, 1)).astype(np.uint8).reshape(views, *grid, 3)
    return pixels.repeat(patch, axis=1).repeat(patch, axis=2)


def subtract_view_mean(tokens: Float[np.ndarray, "*views L d"]) -> Float[np.ndarray, "*views L d"]:
    """Subtracts the mean token of each view; exactly zero where all tokens of a view are equal.

    The mean mostly encodes the view's exposure. Without it, tokens of the same surface are more
    similar between views, and tokens of different surfaces are less similar.
    """
    tokens = tokens.astype(np.float64)
    difference = tokens - tokens.mean(-2, keepdims=True)
    rounding = ROUNDING * np.abs(tokens).max(initial=0)
    return np.where(np.abs(difference) > rounding, difference, 0)


def feature_sheet(
    images: UInt8[np.ndarray, "V H W 3"],
    colours: UInt8[np.ndarray, "V H W 3"],
    names: Sequence[str],
    groups: Int[np.ndarray, " V"],
    label: str,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws views, with their names, above their colours from `pca_colours`.

    Each group starts a new line; a line has at most SHEET_COLUMNS views.

    Args:
      images, colours: the views, and their features as colours.
      names: the text above each view; it is cut to the view's width.
      groups: the group of each view, in ascending order, from 0.
      label: what the colours are, such as "block 8".
    """
    lines = [line for group in np.unique(groups) for line in _split(np.flatnonzero(groups == group))]
    height, width = images.shape[1:3]
    columns, step = max(map(len, lines)), 2 * (height + MARGIN) + NAME + 2 * MARGIN
    sheet = Image.new("RGB", (LABEL + columns * (width + MARGIN), len(lines) * step), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for number, line in enumerate(lines):
        top = number * step
        if len(np.unique(groups)) > 1:
            draw.text((6, top + NAME // 2), f"group {groups[line[0]] + 1}", "black", font, anchor="lm")
        below = top + NAME + height + MARGIN
        draw.text((6, below + height // 2), label, "black", font, anchor="lm")
        for column, view in enumerate(line.tolist()):
            left = LABEL + column * (width + MARGIN)
            name = str(names[view])
            while name and draw.textlength(name, font) > width:
                name = str(name[1:])  # the end of a file's name differs
            draw.text((left, top + NAME // 2), name, "black", font, anchor="lm")
            sheet.paste(Image.fromarray(images[view]), (left, top + NAME))
            sheet.paste(Image.fromarray(colours[view]), (left, below))
    return np.asarray(sheet)


def _split(views: Int[np.ndarray, " n"]) -> list[Int[np.ndarray, " m"]]:
    """Splits the views of a group into lines of similar length, at most SHEET_COLUMNS."""
    return np.array_split(views, -(-len(views) // SHEET_COLUMNS))


class Matches(NamedTuple):
    """Pairs of patches of two views, in descending order of score.

    Attributes:
      first, second: patch indices in the first and the second view.
      score: cosine similarity of their tokens, in (0, 1].
    """

    first: Int[np.ndarray, " N"]
    second: Int[np.ndarray, " N"]
    score: Float[np.ndarray, " N"]


def mutual_matches(first: Float[np.ndarray, "L d"], second: Float[np.ndarray, "M d"]) -> Matches:
    """Finds mutual nearest neighbours between the patch tokens of two views, by cosine similarity.

    The mean token of each view is subtracted first. Pairs without positive similarity do not match.
    """
    similarity = _directions(first) @ _directions(second).T
    nearest = similarity.argmax(1)
    indices = np.arange(len(first))
    score = similarity[indices, nearest]
    mutual = (similarity.argmax(0)[nearest] == indices) & (score > 0)
    order = np.argsort(-score[mutual], kind="stable")
    return Matches(*(values[mutual][order] for values in (indices, nearest, score)))


def _directions(tokens: np.ndarray) -> np.ndarray:
    """Subtracts the mean of tokens (L, d) and scales them to length 1; zero tokens stay zero."""
    centred = subtract_view_mean(tokens)
    length = np.linalg.norm(centred, axis=-1, keepdims=True)
    return centred / np.where(length > 0, length, 1)


def patch_centres(grid: tuple[int, int], patch: int) -> Float[np.ndarray, "L 2"]:
    """Returns x and y, in pixels, of the patch centres of a grid (rows, columns)."""
    rows, columns = np.indices(grid).reshape(2, -1)
    return patch * (np.stack([columns, rows], -1) + 0.5)


def match_picture(
    images: UInt8[np.ndarray, "2 H W 3"],
    first: Float[np.ndarray, "N 2"],
    second: Float[np.ndarray, "N 2"],
    correct: Bool[np.ndarray, " N"] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws two views side by side and a line for each match.

    Args:
      images: the two views.
      first, second: x and y of the matches in the two views, in pixels, strongest first.
      correct: whether to draw a match in green (True) or red. If None, colour encodes x in the first view,
        so good matches have the same order of colours in both views.
    """
    _, height, width, _ = images.shape
    scale = OVERSAMPLING * max(1.0, MIN_MATCH_SIDE / min(height, width))
    size = (round(scale * width), round(scale * height))
    left_of_second = size[0] + OVERSAMPLING * GAP
    picture = Image.new("RGB", (left_of_second + size[0], size[1]), "white")
    for left, image in zip((0, left_of_second), images):
        picture.paste(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), (left, 0))
    if correct is None:
        colours = (255 * colormaps["turbo"](first[:, 0] / width)[:, :3]).astype(int)
    else:
        colours = np.where(correct[:, None], CORRECT, WRONG)
    # Draw weak matches first, so strong matches lie on top. Draw dots last, above all lines.
    ends = (scale * first[::-1], scale * second[::-1] + (left_of_second, 0))
    colours = [tuple(colour) for colour in colours[::-1].tolist()]
    draw = ImageDraw.Draw(picture)
    for start, end, colour in zip(*ends, colours):
        draw.line([*start, *end], colour, width=round(LINE * OVERSAMPLING))
    for points in ends:
        for point, colour in zip(points, colours):
            draw.circle(tuple(point), DOT * OVERSAMPLING, colour, outline="white", width=OVERSAMPLING)
    return np.asarray(picture.reduce(OVERSAMPLING))
