"""Sizes of images from their headers, without decoding pixels."""

import pathlib

from PIL import Image

from muskie_jax.data.images import FORMATS, MAX_PIXELS, UPRIGHT, BadImage, bad_image, decoded_size


def image_size(path: pathlib.Path, upright: bool = False) -> tuple[int, int]:
    """Returns (height, width) of an image; raises `BadImage`.

    Args:
      path: the image's path.
      upright: whether to apply its EXIF orientation.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise BadImage(f"{path}: {width}x{height} is over {MAX_PIXELS:,} pixels")
            (height, width), orientation = decoded_size(image, upright)
            return (width, height) if UPRIGHT[orientation][0] else (height, width)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # Pillow raises many kinds of exceptions for broken files
        if isinstance(error, OSError) and error.errno:
            raise BadImage(f"{path}: {error.strerror}") from error
        raise bad_image(str(path), error) from error
