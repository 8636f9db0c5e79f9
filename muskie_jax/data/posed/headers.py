"""Sizes of images and depth maps, from the beginnings of their files: no pixel is decoded."""

import contextlib
import pathlib
from collections.abc import Iterator

from PIL import Image

from muskie_jax.data.images import FORMATS, MAX_PIXELS, ORIENTATION, UPRIGHT, BadImage, bad_image


def image_size(path: pathlib.Path, upright: bool = False) -> tuple[int, int]:
    """(height, width) of an image as it is stored, or turned as its EXIF says; raises `BadImage`."""
    with _header(path, str(path), FORMATS) as image:
        turned = upright and UPRIGHT.get(image.getexif().get(ORIENTATION), (False,))[0]
        return image.size if turned else image.size[::-1]


def depth_size(path: pathlib.Path) -> tuple[int, int]:
    """(height, width) of a depth map, a 16-bit PNG; raises `BadImage` if it is none."""
    with _header(path, f"{path}: its depth", ("PNG",)) as image:
        if image.mode != "I;16":
            raise BadImage(f"{path}: its depth has pixel mode {image.mode}, not 16 bits of grey")
        return image.size[::-1]


@contextlib.contextmanager
def _header(path: pathlib.Path, name: str, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImage(f"{name}: {image.width}x{image.height} is over {MAX_PIXELS:,} pixels")
            yield image
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # Pillow raises many kinds for broken files
        if isinstance(error, OSError) and error.errno:
            raise BadImage(f"{path}: {error.strerror}") from error
        raise bad_image(name, error, formats) from error
