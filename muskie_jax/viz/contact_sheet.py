"""Contact sheet of a config's training data: sampled groups with their masks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

from muskie_jax.errors import printable

VIEW_HEIGHT = 224  # pixels; large enough to see whether a photograph is upright
MARGIN = 4
LABEL_HEIGHT = 24
MASKED_BRIGHTNESS, MASKED_GREY = 0.3, 90  # masked patches are dimmed, not covered, to show their content


class SheetRow(NamedTuple):
    """One loaded group, split into training groups that are drawn side by side.

    Attributes:
      label: text above the row.
      images: images of G groups with V views each.
      mask: True = masked; one value per patch, in row-major order. None: nothing is masked.
    """

    label: str
    images: UInt8[np.ndarray, "G V H W 3"]
    mask: Bool[np.ndarray, "G V L"] | None = None


def contact_sheet(rows: Sequence[SheetRow], patch: int) -> UInt8[np.ndarray, "height width 3"]:
    """Draws one sheet with all rows; `patch` is the side of a patch in pixels."""
    strips = [_strip(row, patch) for row in rows]
    width = max(strip.width for strip in strips)
    pitch = LABEL_HEIGHT + VIEW_HEIGHT + 2 * MARGIN
    sheet = Image.new("RGB", (width + 2 * MARGIN, len(rows) * pitch + MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=16)
    for index, (row, strip) in enumerate(zip(rows, strips)):
        top = index * pitch + MARGIN
        label_position = (MARGIN, top + LABEL_HEIGHT // 2)
        draw.text(label_position, printable(row.label), fill="black", anchor="lm", font=font)
        sheet.paste(strip, (MARGIN, top + LABEL_HEIGHT))
    return np.asarray(sheet)


def _strip(row: SheetRow, patch: int) -> Image.Image:
    """Draws the views of a row, with gaps between its groups."""
    groups, views, height, width, _ = row.images.shape
    pixels = row.images
    if row.mask is not None:
        grid = row.mask.reshape(groups, views, height // patch, width // patch)
        masked = grid.repeat(patch, axis=2).repeat(patch, axis=3)[..., None]
        dimmed = (MASKED_BRIGHTNESS * row.images + (1 - MASKED_BRIGHTNESS) * MASKED_GREY).astype(np.uint8)
        pixels = np.where(masked, dimmed, row.images)
    size = (round(width * VIEW_HEIGHT / height), VIEW_HEIGHT)
    pitch, gap = size[0] + MARGIN, 3 * MARGIN
    strip = Image.new("RGB", (groups * (views * pitch + gap) - gap - MARGIN, VIEW_HEIGHT), "white")
    for group in range(groups):
        for view in range(views):
            tile = Image.fromarray(pixels[group, view]).resize(size, Image.Resampling.BILINEAR)
            strip.paste(tile, (group * (views * pitch + gap) + view * pitch, 0))
    return strip
