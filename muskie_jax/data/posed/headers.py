"""Sizes of images and depth maps from their headers, without decoding pixels."""

import contextlib
import pathlib
from collections.abc import Iterator

from PIL import Image

from muskie_jax.data.images import FORMATS, MAX_PIXELS, UPRIGHT, BadImage, bad_image, decoded_size


def image_size(path: pathlib.Path, upright: bool = False) -> tuple[int, int]:
    """Returns (height, width) of an image; raises `BadImage`.

    Args:
      path: the image's path.
      upright: whether to apply its EXIF orientation.
    """
    with _open_header(path, str(path), FORMATS) as image:
        (height, width), orientation = decoded_size(image, upright)
        return (width, height) if UPRIGHT[orientation][0] else (height, width)


def depth_size(path: pathlib.Path) -> tuple[int, int]:
    """Returns (height, width) of a depth map; raises `BadImage` unless it is a 16-bit PNG."""
    with _open_header(path, f"{path}: its depth", ("PNG",)) as image:
        if image.mode != "I;16":
            raise BadImage(f"{path}: its depth has pixel mode {image.mode}, not 16 bits of grey")
        width, height = image.size
        return height, width


@contextlib.contextmanager
def _open_header(path: pathlib.Path, name: str, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImage(f"{name}: {image.width}x{image.height} is over {MAX_PIXELS:,} pixels")
            yield image
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # Pillow raises many kinds of exceptions for broken files
        if isinstance(error, OSError) and error.errno:
            raise BadImage(f"{path}: {error.strerror}") from error
        raise bad_image(name, error, formats) from error
