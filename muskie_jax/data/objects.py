"""Crops photographs to an object, given its mask. CO3Dv2 and WildRGB-D use this."""

import io
import math
import pathlib

from PIL import Image

from muskie_jax.data.images import MAX_PIXELS, BadImage, bad_image, read_file

MARGIN = 0.5  # added on each side, relative to the object's size

# (left, top, right, bottom) as fractions of the image's width and height: independent of its resolution.
RelativeBox = tuple[float, float, float, float]


def object_box(path: pathlib.Path) -> RelativeBox | None:
    """Returns the bounding box of a mask's non-zero pixels, or None if all pixels are zero.

    Raises:
      BadImage: if the file is not a readable mask.
      OSError: see `read_file`.
    """
    data = read_file(path)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as mask:
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
    """Returns an object's box, enlarged by half its size on every side and clipped to the image.

    Args:
      box: the object's box.
      height, width: the image's size, in pixels.

    Returns:
      (left, top, right, bottom) in pixels, rounded outwards to integers.
    """
    left, top, right, bottom = box
    margin_x, margin_y = MARGIN * (right - left), MARGIN * (bottom - top)
    return (
        math.floor(max(0.0, left - margin_x) * width),
        math.floor(max(0.0, top - margin_y) * height),
        math.ceil(min(1.0, right + margin_x) * width),
        math.ceil(min(1.0, bottom + margin_y) * height),
    )
