"""Pictures of matches between photographs of any sizes: lines between two photographs side by side."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from muskie_jax.viz.tracks import OVERSAMPLING, Colour, position_colours, spread_points

SIDE = 560  # pixels; longer side of each photograph in the picture
GAP, MARGIN, HEADER = 6, 16, 34  # pixels: between two photographs, around a panel, height of its text
LINE, DOT = 1.5, 4  # pixels: width of a line, radius of its ends
OPACITY = 200  # of lines, out of 255, so that the photographs stay visible below them
PAPER, INK, FAINT = (255, 255, 255), (30, 32, 36), (110, 114, 120)
TITLE, TEXT = 15, 13  # pixels; heights of fonts


class Panel(NamedTuple):
    """Two photographs side by side with matches, and the text above them.

    A match has the colour of its x in the first photograph.

    Attributes:
      title, text: what is shown, in ink, and more about it, fainter.
      photographs: the two, of any sizes.
      first, second: x and y of matches in them, in pixels of these arrays, from corner to corner.
      score: preference among matches, if there are more than can be drawn.
    """

    title: str
    text: str
    photographs: tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "h w 3"]]
    first: Float[np.ndarray, "N 2"]
    second: Float[np.ndarray, "N 2"]
    score: Float[np.ndarray, " N"]


def match_sheet(rows: Sequence[Sequence[Panel]], count: int) -> UInt8[np.ndarray, "height width 3"]:
    """Draws panels in rows and columns.

    Args:
      rows: the panels, as many in every row.
      count: most matches that are drawn in a panel: of high score, and spread over the first photograph.
    """
    drawn = [[_draw(panel, count) for panel in row] for row in rows]
    widths = [max(panel.width for panel in column) for column in zip(*drawn)]
    heights = [max(panel.height for panel in row) for row in drawn]
    sheet = Image.new("RGB", (sum(widths), sum(heights)), PAPER)
    for row, panels in enumerate(drawn):
        for column, panel in enumerate(panels):
            sheet.paste(panel, (sum(widths[:column]), sum(heights[:row])))
    return np.asarray(sheet.reduce(OVERSAMPLING))


def _draw(panel: Panel, count: int) -> Image.Image:
    """Draws one panel, oversampled."""
    scaled, scales = zip(*map(_scaled, panel.photographs))
    gap, margin, header = (OVERSAMPLING * length for length in (GAP, MARGIN, HEADER))
    left, top = margin + scaled[0].width + gap, header + margin // 2
    size = (left + scaled[1].width + margin, top + max(each.height for each in scaled) + margin // 2)
    picture = Image.new("RGB", size, PAPER)
    # Photographs of different heights are centred.
    corners = [
        (x, top + (size[1] - top - margin // 2 - each.height) // 2)
        for x, each in zip((margin, left), scaled)
    ]
    for each, corner in zip(scaled, corners):
        picture.paste(each, corner)
    chosen = spread_points(panel.first, panel.score, count)
    chosen = chosen[np.argsort(panel.score[chosen], kind="stable")]  # the best on top
    starts, ends = (
        points[chosen] * scale + corner
        for points, scale, corner in zip((panel.first, panel.second), scales, corners)
    )
    _draw_matches(
        picture, starts, ends, position_colours(panel.first[chosen], panel.photographs[0].shape[1])
    )
    _write(ImageDraw.Draw(picture), (margin, header // 2 + margin // 4), panel)
    return picture


def _scaled(photograph: np.ndarray) -> tuple[Image.Image, float]:
    """Returns a photograph in the picture's size, and the pixels of the picture per pixel of it."""
    height, width = photograph.shape[:2]
    scale = OVERSAMPLING * SIDE / max(height, width)
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    return Image.fromarray(photograph).resize(size, Image.Resampling.BICUBIC), scale


def _draw_matches(
    picture: Image.Image, starts: np.ndarray, ends: np.ndarray, colours: Sequence[Colour]
) -> None:
    layer = Image.new("RGBA", picture.size)
    draw = ImageDraw.Draw(layer)
    for start, end, colour in zip(starts.tolist(), ends.tolist(), colours):
        draw.line([*start, *end], (*colour, OPACITY), width=round(OVERSAMPLING * LINE))
    picture.paste(layer, mask=layer)
    draw = ImageDraw.Draw(picture)
    for points in (starts, ends):
        for (x, y), colour in zip(points.tolist(), colours):
            draw.circle((x, y), OVERSAMPLING * DOT, colour, outline="white", width=OVERSAMPLING)


def _write(draw: ImageDraw.ImageDraw, position: tuple[int, int], panel: Panel) -> None:
    title, text = (ImageFont.load_default(size=OVERSAMPLING * size) for size in (TITLE, TEXT))
    draw.text(position, panel.title, INK, title, anchor="lm")
    after = position[0] + draw.textlength(panel.title, title) + OVERSAMPLING * 12
    draw.text((after, position[1]), panel.text, FAINT, text, anchor="lm")
