"""Zooming in on the object of a scene, by its mask (CO3Dv2 and WildRGB-D are sampled so)."""

import math
import pathlib

from PIL import Image

from muskie_jax.data.images import MAX_PIXELS, BadImage, bad_image

MARGIN = 0.5  # of the object's size, added on each of its sides

# (left, top, right, bottom) as shares of the image's width and height: the same at any size of it.
RelativeBox = tuple[float, float, float, float]


def object_box(path: pathlib.Path) -> RelativeBox | None:
    """The bounding box of the pixels of a mask that are not zero; None if there are none.

    Raises:
      BadImage: if the file is no readable mask.
    """
    try:
        with Image.open(path, formats=("PNG",)) as mask:
            width, height = mask.size
            if width * height > MAX_PIXELS:
                raise BadImage(f"{path}: {width}x{height} is over {MAX_PIXELS:,} pixels")
            box = mask.getbbox(alpha_only=False)
    except (BadImage, MemoryError):
        raise
    except Exception as error:
        raise bad_image(str(path), error, ("PNG",)) from error
    if box is None:
        return None
    left, top, right, bottom = box
    return left / width, top / height, right / width, bottom / height


def zoom_region(box: RelativeBox, height: int, width: int) -> tuple[int, int, int, int]:
    """An object's box grown by half its size on every side, inside the image, in its whole pixels."""
    left, top, right, bottom = box
    margin_x, margin_y = MARGIN * (right - left), MARGIN * (bottom - top)
    return (
        math.floor(max(0.0, left - margin_x) * width),
        math.floor(max(0.0, top - margin_y) * height),
        math.ceil(min(1.0, right + margin_x) * width),
        math.ceil(min(1.0, bottom + margin_y) * height),
    )
