"""Where points of one view are in others, and where they were predicted, drawn on the photographs.

Letters in shapes: V views, H x W pixels, N points.
"""

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

MAX_POINTS = 24  # more hide the photograph and each other
TILE_WIDTH = 400  # of a view in the sheet, pixels, whatever its own size
COLUMNS = 4
GAP = 8
OVERSAMPLING = 2  # Pillow draws jagged lines
SHADES = 0.05, 0.95  # of the palette: its ends are dark
RING, DOT, LINE = 7, 4, 2  # radius of a truth, of a prediction, width of the line between, pixels


def track_picture(
    images: np.ndarray,
    points: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    visible: np.ndarray,
    max_points: int = MAX_POINTS,
) -> np.ndarray:
    """View 0 with numbered points, and the others with the truth (ring) and the prediction (dot) of each.

    A line joins the two: where it is short, the prediction is good. A point has one colour everywhere.
    Points that a view does not show are not drawn in it. Of many points, some that lie far apart are drawn.

    Args:
      images: uint8 (V, H, W, 3).
      points: float (N, 2), x and y in pixels of view 0; (0, 0) is the centre of the first pixel.
      truth, predicted: float (N, V, 2), likewise in each view; what is not finite is not drawn.
      visible: bool (N, V), whether the truth is known and to be seen in a view; that of view 0 is ignored.
      max_points: how many are drawn at most.

    Returns:
      uint8 (height, width, 3): a sheet of all views, view 0 first.
    """
    chosen = spread_points(points, visible[:, 1:].sum(1), max_points)
    chosen = chosen[np.lexsort(points[chosen].T)]  # numbered from the top
    order = np.argsort(np.argsort(points[chosen, 0]))  # colours go from left to right
    shades = colormaps["turbo"](SHADES[0] + (order + 0.5) / max(len(chosen), 1) * (SHADES[1] - SHADES[0]))[
        :, :3
    ]
    colours = [tuple(colour) for colour in np.round(255 * shades).astype(int).tolist()]

    views, height, width, _ = images.shape
    scale = OVERSAMPLING * TILE_WIDTH / width
    size = (OVERSAMPLING * TILE_WIDTH, round(scale * height))
    columns = min(COLUMNS, views)
    rows = -(-views // columns)
    gap = OVERSAMPLING * GAP
    sheet = Image.new("RGB", (columns * (size[0] + gap) - gap, rows * (size[1] + gap) - gap), "white")
    on_tile = lambda position: tuple((scale * (position + 0.5)).tolist())
    for view, image in enumerate(images):
        tile = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(tile)
        if view == 0:
            for number, (index, colour) in enumerate(zip(chosen, colours), 1):
                _numbered_dot(draw, on_tile(points[index]), str(number), colour)
        else:
            drawn = [
                (on_tile(truth[index, view]), on_tile(predicted[index, view]), colour)
                for index, colour in zip(chosen, colours)
                if visible[index, view] and np.isfinite(predicted[index, view]).all()
            ]
            for ends in drawn:
                _error(draw, *ends)
            for ends in drawn:  # no line hides the end of another
                _ends(draw, *ends)
        row, column = divmod(view, columns)
        sheet.paste(tile, (column * (size[0] + gap), row * (size[1] + gap)))
    return np.asarray(sheet.reduce(OVERSAMPLING))


def spread_points(points: np.ndarray, seen: np.ndarray, count: int) -> np.ndarray:
    """Indices of at most `count` points far from each other, of those seen in the most views first.

    Args:
      points: float (N, 2).
      seen: int (N,), in how many other views each is; those in none are left out.
    """
    candidates = np.flatnonzero(seen > 0)
    if len(candidates) <= count:
        return candidates
    places, weight = points[candidates], np.sqrt(seen[candidates] / seen.max())
    chosen = [int(weight.argmax())]
    distance = np.full(len(candidates), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.linalg.norm(places - places[chosen[-1]], axis=1))
        chosen.append(int((weight * distance).argmax()))
    return candidates[np.array(chosen)]


def _numbered_dot(draw: ImageDraw.ImageDraw, place, text: str, colour) -> None:
    radius = OVERSAMPLING * (RING + 1)
    draw.circle(place, radius, colour, outline="white", width=OVERSAMPLING)
    dark = sum(weight * part for weight, part in zip((0.3, 0.59, 0.11), colour)) < 140
    font = ImageFont.load_default(size=OVERSAMPLING * 10)
    draw.text(place, text, fill="white" if dark else "black", anchor="mm", font=font)


def _error(draw: ImageDraw.ImageDraw, truth, predicted, colour) -> None:
    draw.line([*truth, *predicted], "black", width=OVERSAMPLING * (LINE + 1))
    draw.line([*truth, *predicted], colour, width=OVERSAMPLING * LINE)


def _ends(draw: ImageDraw.ImageDraw, truth, predicted, colour) -> None:
    for radius, shade, width in ((RING + 1, "black", 4), (RING, colour, 2)):
        draw.circle(truth, OVERSAMPLING * radius, outline=shade, width=OVERSAMPLING * width)
    draw.circle(predicted, OVERSAMPLING * DOT, colour, outline="white", width=OVERSAMPLING)
