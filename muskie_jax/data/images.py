"""Reading photographs safely, as upright uint8 RGB."""

import errno
import pathlib
import warnings

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 100_000_000  # larger images are refused from their header, before decoding
TRANSIENT = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
BICUBIC = Image.Resampling.BICUBIC


class BadImage(Exception):
    """A file that could not be read as a photograph; the message names it and says why."""


def open_rgb(path: str | pathlib.Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes a photograph to an upright 8-bit RGB image (EXIF orientation applied).

    Grey, palette, CMYK and 16-bit images are converted; transparency is laid over black.

    Raises:
      BadImage: if the file is missing, truncated, no image, or has more than `max_pixels`.
    """
    try:
        with warnings.catch_warnings():
            # Pillow only warns of images that would fill the memory; the limit here is ours.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
        if image.width * image.height > max_pixels:
            raise BadImage(f"{path}: {image.width}x{image.height} is over {max_pixels:,} pixels")
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # Pillow raises many kinds for broken files, OSError to SyntaxError
        if isinstance(error, OSError) and error.errno in TRANSIENT:
            raise  # the disk's fault: another image in its place would make the data depend on it
        reason = str(error).strip() or type(error).__name__
        raise BadImage(f"{path}: {reason.splitlines()[0]}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # Pillow would clip 16 bits to white instead of scaling them.
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise BadImage(f"no photograph: pixel mode {image.mode}")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image).convert("RGB")
    return image.convert("RGB")


def resize_box(image: Image.Image, box: tuple[float, float, float, float], size: tuple[int, int]):
    """The box (left, top, right, bottom) of an image, resized: uint8 (height, width, 3).

    Args:
      size: (height, width). Bicubic, antialiased where it shrinks.
    """
    height, width = size
    return np.asarray(image.resize((width, height), BICUBIC, box=box))
