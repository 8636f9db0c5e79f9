"""Pictures of points of one photograph and where they are in others, of any sizes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from muskie_jax.viz.tracks import OVERSAMPLING, Colour, Point, point_colours

TILE = 360  # pixels; longer side of each photograph
COLUMNS = 4  # of landscape photographs; more of narrower ones
MIN_WIDTH = 160  # pixels; of a tile, for the text below
MARGIN, CAPTION = 12, 40  # pixels: around tiles; height of the text below a photograph, two lines
PAPER, INK, FAINT = (255, 255, 255), (30, 32, 36), (110, 114, 120)
TEXT, NUMBER = 12, 14  # pixels; heights of the fonts of text, and of points' numbers
DOT = 5  # pixels; radius of a point


class Tile(NamedTuple):
    """A photograph with points.

    Attributes:
      name: what to call it.
      photograph: the pixels.
      positions: x and y of all points, in pixels of this array, from corner to corner.
      visible: which of them to draw; the others are named below the photograph.
    """

    name: str
    photograph: UInt8[np.ndarray, "H W 3"]
    positions: Float[np.ndarray, "N 2"]
    visible: Bool[np.ndarray, " N"]


def points_sheet(query: Tile, others: Sequence[Tile]) -> UInt8[np.ndarray, "height width 3"]:
    """Draws the numbered points of a photograph, and the same numbers where the points are in others.

    A point has one number and one colour in all photographs. The query is the first tile. All columns are
    as wide as the widest photograph.
    """
    colours = point_colours(query.positions)
    shapes = [tile.photograph.shape for tile in (query, *others)]
    width = max(MIN_WIDTH, *(math.ceil(TILE * w / max(h, w)) for h, w, _ in shapes))
    tiles = [
        _draw(tile, colours, OVERSAMPLING * width, is_query=number == 0)
        for number, tile in enumerate([query, *others])
    ]
    columns = min(COLUMNS * TILE // width, len(tiles))
    margin = OVERSAMPLING * MARGIN
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) for row in rows]
    step = OVERSAMPLING * width + margin
    sheet = Image.new("RGB", (columns * step + margin, sum(heights) + (len(rows) + 1) * margin), PAPER)
    for row, tiles_of_row in enumerate(rows):
        top = sum(heights[:row]) + (row + 1) * margin
        for column, tile in enumerate(tiles_of_row):
            sheet.paste(tile, (margin + column * step, top))
    return np.asarray(sheet.reduce(OVERSAMPLING))


def _draw(tile: Tile, colours: Sequence[Colour], width: int, is_query: bool) -> Image.Image:
    """Draws one photograph, oversampled, in a tile of `width`."""
    height, columns = tile.photograph.shape[:2]
    scale = OVERSAMPLING * TILE / max(height, columns)
    size = (max(1, round(scale * columns)), max(1, round(scale * height)))
    picture = Image.new("RGB", (width, size[1] + OVERSAMPLING * CAPTION), PAPER)
    left = (picture.width - size[0]) // 2
    picture.paste(Image.fromarray(tile.photograph).resize(size, Image.Resampling.BICUBIC), (left, 0))
    draw = ImageDraw.Draw(picture)
    for index in np.flatnonzero(tile.visible).tolist():
        x, y = (scale * tile.positions[index] + (left, 0)).tolist()
        _draw_point(draw, (x, y), str(index + 1), colours[index])
    font = ImageFont.load_default(size=OVERSAMPLING * TEXT)
    below = size[1] + OVERSAMPLING * CAPTION // 4
    draw.text((left, below), tile.name, INK, font, anchor="lm")
    note = "" if is_query else _missing(tile.visible)
    draw.text((left, below + OVERSAMPLING * 16), note, FAINT, font, anchor="lm")
    return picture


def _draw_point(draw: ImageDraw.ImageDraw, centre: Point, text: str, colour: Colour) -> None:
    """Draws a small dot, so that the position is seen, with its number beside it."""
    radius, away = OVERSAMPLING * DOT, OVERSAMPLING * (DOT + 6)
    draw.circle(centre, radius, colour, outline="white", width=round(1.5 * OVERSAMPLING))
    font = ImageFont.load_default(size=OVERSAMPLING * NUMBER)
    position, halo = (centre[0] + away, centre[1] - away), 2 * OVERSAMPLING
    draw.text(position, text, "white", font, anchor="mm", stroke_width=halo, stroke_fill="black")


def _missing(visible: np.ndarray) -> str:
    hidden = [str(index + 1) for index in np.flatnonzero(~visible)]
    if not hidden:
        return ""
    if len(hidden) == len(visible):
        return "no point found" if len(hidden) > 1 else "not found"
    return f"not found: {', '.join(hidden)}"
