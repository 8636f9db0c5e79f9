"""Picture of warped views: whether depth and cameras bring one view onto another."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from muskie_jax.errors import printable

TILE_WIDTH = 320  # pixels
MARGIN = 4
LABEL_HEIGHT, HEADER_HEIGHT = 20, 24
COLUMNS = ("view a", "view b", "view b warped into a", "difference")
BRIGHTER = 2  # factor on the difference


class WarpRow(NamedTuple):
    """A pair of views; `warped` has unseen pixels, where `seen` is False."""

    label: str
    first: UInt8[np.ndarray, "H W 3"]
    second: UInt8[np.ndarray, "H W 3"]
    warped: UInt8[np.ndarray, "H W 3"]
    seen: np.ndarray


def warp_sheet(rows: Sequence[WarpRow]) -> UInt8[np.ndarray, "height width 3"]:
    """Draws a row per pair: both views, the second warped into the first, and their difference.

    Unseen pixels are grey in the warped view, and black in the difference.
    """
    heights = [round(TILE_WIDTH * row.first.shape[0] / row.first.shape[1]) for row in rows]
    pitch = TILE_WIDTH + MARGIN
    size = (
        len(COLUMNS) * pitch + MARGIN,
        HEADER_HEIGHT + sum(height + LABEL_HEIGHT + MARGIN for height in heights),
    )
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    write = lambda x, y, text: draw.text((x, y), text, fill="black", anchor="lm", font=font)
    for column, title in enumerate(COLUMNS):
        write(MARGIN + column * pitch, HEADER_HEIGHT // 2, title)
    top = HEADER_HEIGHT
    for row, height in zip(rows, heights):
        write(MARGIN, top + LABEL_HEIGHT // 2, printable(row.label))
        seen = row.seen[..., None]
        error = np.abs(row.first.astype(int) - row.warped) * BRIGHTER * seen
        tiles = (row.first, row.second, np.where(seen, row.warped, 128), np.minimum(error, 255))
        for column, pixels in enumerate(tiles):
            tile = Image.fromarray(pixels.astype(np.uint8))
            tile = tile.resize((TILE_WIDTH, height), Image.Resampling.BILINEAR)
            sheet.paste(tile, (MARGIN + column * pitch, top + LABEL_HEIGHT))
        top += height + LABEL_HEIGHT + MARGIN
    return np.asarray(sheet)
