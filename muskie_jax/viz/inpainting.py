"""Picture of a view with a hidden part, painted alone and with the other views."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from muskie_jax.viz.reconstruction import masked_pixels, to_pixels

TILE_WIDTH = 384  # pixels; of the large tiles
MARGIN, GAP = 24, 12  # pixels, around and between tiles
TITLE, NOTE = 20, 16  # font sizes, pixels
TEXT_HEIGHT = 58  # pixels above a tile
BACKGROUND, INK, FAINT = (244, 245, 247), (28, 30, 34), (104, 108, 116)


def inpainting_sheet(
    images: Float[np.ndarray, "V H W 3"],
    view: int,
    mask: Bool[np.ndarray, " L"],
    patch: int,
    alone: Float[np.ndarray, "H W 3"],
    together: Float[np.ndarray, "H W 3"] | None,
    levels: Mapping[str, float],
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws the other views above four tiles: mean colour, painted alone, painted with the others, truth.

    Args:
      images: the views, in [-1, 1].
      view: index of the view with a hidden part.
      mask: its patches, True = hidden.
      patch: side of a patch, pixels.
      alone, together: the painted view, in [-1, 1]; together is None if there are no other views.
      levels: errors of the hidden pixels in grey levels of 255, by the names of `Inpainting.errors`.
    """
    others = np.delete(images, view, axis=0)
    off = lambda name: f"off by {levels[name]:.0f} of 255 grey levels"
    hidden = filled_with_mean(images[view], mask, patch)
    tiles = [
        (f"{mask.mean():.0%} hidden", f"mean colour: {off('visible_mean')}", hidden),
        ("painted alone", off("alone"), alone),
    ]
    if together is not None:
        count = len(others)
        title = f"painted with {'the other view' if count == 1 else f'{count} other views'}"
        tiles.append((title, off("with_others"), together))
    tiles.append(("truth", "", images[view]))
    width = 2 * MARGIN + len(tiles) * (TILE_WIDTH + GAP) - GAP
    tile_size = (TILE_WIDTH, round(TILE_WIDTH * images.shape[1] / images.shape[2]))
    small = small_size(len(others), width, tile_size)
    top_of_tiles = MARGIN + (TEXT_HEIGHT // 2 + small[1] + MARGIN if len(others) else 0)
    height = top_of_tiles + TEXT_HEIGHT + tile_size[1] + MARGIN
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    title_font, note_font = (ImageFont.load_default(size=size) for size in (TITLE, NOTE))
    if len(others):
        draw.text((MARGIN, MARGIN), "the other views", INK, title_font)
    for number, image in enumerate(others):
        left = MARGIN + number * (small[0] + GAP)
        sheet.paste(_tile(image, small), (left, MARGIN + TEXT_HEIGHT // 2))
    for number, (title, note, image) in enumerate(tiles):
        left = MARGIN + number * (TILE_WIDTH + GAP)
        draw.text((left, top_of_tiles), title, INK, title_font)
        draw.text((left, top_of_tiles + TITLE + 8), note, FAINT, note_font)
        sheet.paste(_tile(image, tile_size), (left, top_of_tiles + TEXT_HEIGHT))
    return np.asarray(sheet)


def filled_with_mean(
    image: Float[np.ndarray, "H W 3"], mask: Bool[np.ndarray, " L"], patch: int
) -> Float[np.ndarray, "H W 3"]:
    """Returns an image in [-1, 1] with its visible part's mean colour in place of masked patches.

    If no patch is visible, the colour is grey.
    """
    hidden = masked_pixels(mask, image.shape[:2], patch)
    mean = image.mean((0, 1), where=~hidden) if not mask.all() else np.zeros(3)
    return np.where(hidden, mean, image)


def small_size(count: int, width: int, tile_size: tuple[int, int]) -> tuple[int, int]:
    """Returns the width and height of `count` tiles in one row, at most half of `tile_size`."""
    if count == 0:
        return 0, 0
    fitting = (width - 2 * MARGIN + GAP) // count - GAP
    small = min(fitting, tile_size[0] // 2)
    return small, round(small * tile_size[1] / tile_size[0])


def _tile(image: Float[np.ndarray, "H W 3"], size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(to_pixels(image)).resize(size, Image.Resampling.BICUBIC)
