"""Picture of predictions and epipolar lines, for views whose depth is unknown.

Letters in shapes: V views, H x W pixels, N points.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import ImageDraw

from muskie_jax.viz.tracks import DOT, LINE, OVERSAMPLING, ColouredPoints, ToTile, point_sheet

MAX_POINTS = 12  # more lines would cover the views


def epipolar_picture(
    images: UInt8[np.ndarray, "V H W 3"],
    points: Int[np.ndarray, "N 2"],
    predicted: Float[np.ndarray, "N V 2"],
    fundamental: Float[np.ndarray, "V 3 3"],
    counted: Bool[np.ndarray, "N V"],
    max_points: int = MAX_POINTS,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws numbered points in view 0, and their epipolar lines and predicted positions in other views.

    A point has one colour in all views. A dot far from the line of its colour is wrong; a dot on it may be
    right. Views without epipolar lines show only the predictions.

    Args:
      images: the views.
      points: x and y in pixels of view 0; (0, 0) is the centre of the first pixel.
      predicted: positions in every view, in the same coordinates.
      fundamental: fundamental matrices from view 0 to each view, in pixels with the image's corner at
        (0, 0).
      counted: whether a point has an epipolar line in a view; view 0 is ignored.
      max_points: maximum number of points to draw; distant points are chosen.
    """
    size = images.shape[1:3]

    def draw_view(draw: ImageDraw.ImageDraw, view: int, chosen: ColouredPoints, to_tile: ToTile) -> None:
        for index, colour in chosen:
            x, y = points[index] + 0.5
            ends = counted[index, view] and clip_line(fundamental[view] @ (x, y, 1.0), size)
            if ends:
                line = [to_tile(np.array(end) - 0.5) for end in ends]
                draw.line(line, "black", width=OVERSAMPLING * (LINE + 2))
                draw.line(line, colour, width=OVERSAMPLING * LINE)
        for index, colour in chosen:
            centre, radius = to_tile(predicted[index, view]), OVERSAMPLING * (DOT + 1)
            draw.circle(centre, radius, colour, outline="white", width=OVERSAMPLING)

    return point_sheet(images, points, np.ones(len(points), int), max_points, draw_view)


def clip_line(
    line: Float[np.ndarray, " 3"], size: tuple[int, int]
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Returns the ends of a line's part inside an image of `size` (height, width); None if it is outside.

    The line is a x + b y + c = 0, in pixel coordinates with the image's corner at (0, 0).
    """
    (a, b, c), (height, width) = line, size
    ends = [(x, -(a * x + c) / b) for x in (0.0, float(width)) if b]
    ends += [(-(b * y + c) / a, y) for y in (0.0, float(height)) if a]
    inside = [(x, y) for x, y in ends if -1e-6 <= x <= width + 1e-6 and -1e-6 <= y <= height + 1e-6]
    if len(inside) < 2:
        return None
    first, last = min(inside), max(inside)
    return None if np.allclose(first, last) else (first, last)
