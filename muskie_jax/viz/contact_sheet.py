"""The picture of a config's data: sampled groups, one in a row, with what will be hidden of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from muskie_jax.errors import printable

VIEW_HEIGHT = 112  # pixels
MARGIN = 4
LABEL_HEIGHT = 20
HIDDEN_BRIGHTNESS, HIDDEN_GREY = 0.3, 90  # of hidden patches: what is under them stays to be seen


class SheetRow(NamedTuple):
    """One loaded group.

    Attributes:
      label: above it.
      images: uint8 (groups, views, height, width, 3): the groups that it is split into, side by side.
      mask: bool (groups, views, L), True = hidden.
    """

    label: str
    images: np.ndarray
    mask: np.ndarray


def contact_sheet(rows: Sequence[SheetRow], patch: int) -> np.ndarray:
    """One sheet of all rows: uint8 (height, width, 3)."""
    strips = [_strip(row, patch) for row in rows]
    width = max(strip.width for strip in strips)
    pitch = LABEL_HEIGHT + VIEW_HEIGHT + 2 * MARGIN
    sheet = Image.new("RGB", (width + 2 * MARGIN, len(rows) * pitch + MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for number, (row, strip) in enumerate(zip(rows, strips)):
        top = number * pitch + MARGIN
        draw.text(
            (MARGIN, top + LABEL_HEIGHT // 2), printable(row.label), fill="black", anchor="lm", font=font
        )
        sheet.paste(strip, (MARGIN, top + LABEL_HEIGHT))
    return np.asarray(sheet)


def _strip(row: SheetRow, patch: int) -> Image.Image:
    """The views of a row, with gaps between its groups."""
    groups, views, height, width, _ = row.images.shape
    grid = row.mask.reshape(groups, views, height // patch, width // patch)
    hidden = grid.repeat(patch, axis=2).repeat(patch, axis=3)[..., None]
    dimmed = (HIDDEN_BRIGHTNESS * row.images + (1 - HIDDEN_BRIGHTNESS) * HIDDEN_GREY).astype(np.uint8)
    shown = np.where(hidden, dimmed, row.images)
    size = (round(width * VIEW_HEIGHT / height), VIEW_HEIGHT)
    pitch, gap = size[0] + MARGIN, 3 * MARGIN
    strip = Image.new("RGB", (groups * (views * pitch + gap) - gap - MARGIN, VIEW_HEIGHT), "white")
    for group in range(groups):
        for view in range(views):
            tile = Image.fromarray(shown[group, view]).resize(size, Image.Resampling.BILINEAR)
            strip.paste(tile, (group * (views * pitch + gap) + view * pitch, 0))
    return strip
