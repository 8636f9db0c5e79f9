"""Picture of tracks: true and predicted positions of points, drawn on the views.

Letters in shapes: V views, H x W pixels, N points.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int, Real, UInt8
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

MAX_POINTS = 24  # more points would overlap and cover the views
TILE_WIDTH = 400  # pixels; every view is scaled to it
COLUMNS = 4
GAP = 8
OVERSAMPLING = 2  # Pillow does not antialias lines
SHADES = 0.05, 0.95  # range of the palette; its ends are dark
RING, DOT, LINE = 7, 4, 2  # pixels: radius of ring (truth) and dot (prediction), width of the line

Point = tuple[float, float]
Colour = tuple[int, ...]
ColouredPoints = list[tuple[int, Colour]]  # index and colour of each point
ToTile = Callable[[np.ndarray], Point]


def track_picture(
    images: UInt8[np.ndarray, "V H W 3"],
    points: Float[np.ndarray, "N 2"],
    truth: Float[np.ndarray, "N V 2"],
    predicted: Float[np.ndarray, "N V 2"],
    visible: Bool[np.ndarray, "N V"],
    max_points: int = MAX_POINTS,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws numbered points in view 0, and their true (ring) and predicted (dot) positions in other views.

    A line joins ring and dot, so short lines are good predictions. A point has one colour in all views and
    is drawn only where it is visible. If there are more than `max_points`, a subset of distant points is
    drawn.

    Args:
      images: the views.
      points: x and y in pixels of view 0; (0, 0) is the centre of the first pixel.
      truth, predicted: positions in every view, in the same coordinates. Points whose prediction is not
        finite are not drawn.
      visible: whether the true position is known and unoccluded; view 0 is ignored.
      max_points: maximum number of points to draw.

    Returns:
      A sheet of all views, view 0 first.
    """

    def draw_view(draw: ImageDraw.ImageDraw, view: int, chosen: ColouredPoints, to_tile: ToTile) -> None:
        tracks = [
            (to_tile(truth[index, view]), to_tile(predicted[index, view]), colour)
            for index, colour in chosen
            if visible[index, view] and np.isfinite(predicted[index, view]).all()
        ]
        for track in tracks:
            _draw_error_line(draw, *track)
        for track in tracks:  # after all lines, so that none covers a ring or a dot
            _draw_ring_and_dot(draw, *track)

    return point_sheet(images, points, visible[:, 1:].sum(1), max_points, draw_view)


def point_sheet(
    images: UInt8[np.ndarray, "V H W 3"],
    points: Float[np.ndarray, "N 2"],
    seen: Int[np.ndarray, " N"],
    max_points: int,
    draw_view: Callable[[ImageDraw.ImageDraw, int, ColouredPoints, ToTile], None],
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws numbered points in view 0, and calls `draw_view` to draw in each other view.

    Args:
      images: the views.
      points: x and y in pixels of view 0; (0, 0) is the centre of the first pixel.
      seen: number of other views in which each point is visible; `spread_points` chooses by it.
      max_points: maximum number of points to draw.
      draw_view: draws in a view, given the index and colour of each chosen point, and a function that maps
        pixels of the view to the canvas.
    """
    indices = spread_points(points, seen, max_points)
    indices = indices[np.lexsort(points[indices].T)]  # numbered from the top
    chosen = list(zip(indices.tolist(), point_colours(points[indices])))
    height, width = images.shape[1:3]
    scale = OVERSAMPLING * TILE_WIDTH / width
    size = (OVERSAMPLING * TILE_WIDTH, round(scale * height))

    def to_tile(position: np.ndarray) -> Point:
        x, y = (scale * (position + 0.5)).tolist()
        return x, y

    tiles = []
    for view, image in enumerate(images):
        tile = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(tile)
        if view == 0:
            for number, (index, colour) in enumerate(chosen, 1):
                draw_numbered_dot(draw, to_tile(points[index]), str(number), colour)
        else:
            draw_view(draw, view, chosen, to_tile)
        tiles.append(tile)
    return join_tiles(tiles)


def point_colours(points: Float[np.ndarray, "N 2"]) -> list[Colour]:
    """Returns a colour per point, from one end of the palette to the other by their order from the left."""
    left_to_right = np.argsort(np.argsort(points[:, 0]))
    return shades((left_to_right + 0.5) / max(len(points), 1))


def position_colours(points: Float[np.ndarray, "N 2"], width: float) -> list[Colour]:
    """Returns a colour per point, from one end of the palette at x = 0 to the other at x = `width`."""
    return shades(np.clip(points[:, 0] / width, 0, 1))


def shades(values: Float[np.ndarray, " N"]) -> list[Colour]:
    """Returns the colours of values from 0 to 1."""
    low, high = SHADES
    colours = colormaps["turbo"](low + values * (high - low))[:, :3]
    return [tuple(colour) for colour in np.round(255 * colours).astype(int).tolist()]


def join_tiles(tiles: list[Image.Image]) -> UInt8[np.ndarray, "height width 3"]:
    """Joins oversampled tiles of equal size into a sheet of COLUMNS columns, and downsamples it."""
    (width, height), gap = tiles[0].size, OVERSAMPLING * GAP
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet.paste(tile, (column * (width + gap), row * (height + gap)))
    return np.asarray(sheet.reduce(OVERSAMPLING))


def spread_points(
    points: Float[np.ndarray, "N 2"], value: Real[np.ndarray, " N"], count: int
) -> Int[np.ndarray, " chosen"]:
    """Returns indices of at most `count` distant points, preferring points of high value.

    It uses farthest-point sampling, with distances weighted by the square root of a point's value.

    Args:
      points: positions.
      value: value of each point, such as the number of other views in which it is visible; points without
        value are excluded.
      count: maximum number of points.
    """
    candidates = np.flatnonzero(value > 0)
    if len(candidates) <= count:
        return candidates
    positions, weight = points[candidates], np.sqrt(value[candidates] / value.max())
    chosen = [int(weight.argmax())]
    distance = np.full(len(candidates), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.linalg.norm(positions - positions[chosen[-1]], axis=1))
        chosen.append(int((weight * distance).argmax()))
    return candidates[np.array(chosen)]


def draw_numbered_dot(draw: ImageDraw.ImageDraw, centre: Point, text: str, colour: Colour) -> None:
    radius = OVERSAMPLING * (RING + 1)
    draw.circle(centre, radius, colour, outline="white", width=OVERSAMPLING)
    is_dark = sum(weight * part for weight, part in zip((0.3, 0.59, 0.11), colour)) < 140  # luma
    font = ImageFont.load_default(size=OVERSAMPLING * 10)
    draw.text(centre, text, fill="white" if is_dark else "black", anchor="mm", font=font)


def _draw_error_line(draw: ImageDraw.ImageDraw, truth: Point, predicted: Point, colour: Colour) -> None:
    draw.line([*truth, *predicted], "black", width=OVERSAMPLING * (LINE + 1))
    draw.line([*truth, *predicted], colour, width=OVERSAMPLING * LINE)


def _draw_ring_and_dot(draw: ImageDraw.ImageDraw, truth: Point, predicted: Point, colour: Colour) -> None:
    for radius, shade, width in ((RING + 1, "black", 4), (RING, colour, 2)):
        draw.circle(truth, OVERSAMPLING * radius, outline=shade, width=OVERSAMPLING * width)
    draw.circle(predicted, OVERSAMPLING * DOT, colour, outline="white", width=OVERSAMPLING)
