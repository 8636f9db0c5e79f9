"""Reading photographs safely and fast, as upright uint8 RGB.

A file is opened in two steps. The header tells its size, pixel mode and orientation, and what cannot or
should not be read is refused there. Pixels are decoded when a box of them is asked for, no finer than
that box needs: a JPEG decodes at a half or a quarter of its size in a fraction of the time. What comes
of it differs from bicubic resizing of the whole image by as much as Lanczos resizing does.

Decoding and resizing release the interpreter lock, and results do not depend on the thread.
"""

import errno
import io
import pathlib
import threading
import warnings
from collections.abc import Sequence

import numpy as np
import simplejpeg
from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
from PIL import Image, UnidentifiedImageError

from muskie_jax.errors import first_line, printable

MAX_PIXELS = 100_000_000  # larger images are refused from their header, before decoding
TRANSIENT = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")  # tried on a file, whatever its name
JPEGS = ("JPEG", "MPO")  # MPO: a JPEG with others behind it, such as a preview
PLAIN_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr")  # converted as they are
ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")  # 16-bit grey
# Reductions of JPEGs. At 1/8 differences double, for a fifth of the time; 5/8 and its like are slow.
SCALES = (4, 2)
ORIENTATION = 0x0112  # EXIF tag
# A PNG's orientation may come after its pixels. Without one of these words it has none.
PNG_ORIENTED = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
# EXIF orientation -> what makes stored pixels upright, in this order: transpose, mirror, turn over.
UPRIGHT = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
CATMULL_ROM = ResizeAlg.convolution(FilterType.catmull_rom)  # the bicubic of Pillow and torchvision

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the upright image

# Pillow warns of images over a limit of its own, and refuses those over twice that: 179 million pixels.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
_thread = threading.local()  # each thread's resizer keeps its working memory


class BadImage(Exception):
    """A file that could not be read as a photograph; the message names it and says why."""

    def __init__(self, message: str):
        super().__init__(printable(message))


class Photograph:
    """A photograph whose header was read and found good, and whose pixels were not decoded yet.

    Made by `open_photograph`.

    Attributes:
      name: for messages.
      height, width: of the upright image, pixels.
    """

    def __init__(
        self, data: bytes, name: str, stored_size: tuple[int, int], is_jpeg: bool, orientation: int
    ):
        self.name = name
        self._data, self._stored_size, self._is_jpeg = data, stored_size, is_jpeg
        self._transposed, self._mirrored, self._turned = UPRIGHT[orientation]
        self.height, self.width = stored_size[::-1] if self._transposed else stored_size

    def crop(self, box: Box, size: tuple[int, int]) -> np.ndarray:
        """A box of the upright image, resized: uint8 (height, width, 3), read-only.

        Bicubic, antialiased where it shrinks. A JPEG is decoded at the smallest scale at which the box
        has at least as many pixels as the result on both axes.

        Args:
          box: left, top, right, bottom inside the image; need not be whole pixels.
          size: (height, width).

        Raises:
          BadImage: if the pixels are damaged.
        """
        pixels, scale = self.decode(self.scale_for(box, size))
        # A pixel at scale 1/s covers exactly s x s stored ones, also where the last ones are cut off by
        # the border: so coordinates are divided by s, not by the ratio of the sizes.
        left, top, right, bottom = (edge / scale for edge in self._stored_box(box))
        stored_size = size[::-1] if self._transposed else size
        return self._upright(resize_box(pixels, (left, top, right, bottom), stored_size))

    def pixels(self) -> np.ndarray:
        """The whole upright image, uint8 (height, width, 3); raises `BadImage`."""
        return self._upright(self.decode(1)[0])

    def scale_for(self, box: Box, size: tuple[int, int]) -> int:
        """s, where 1/s is the scale at which a crop decodes."""
        left, top, right, bottom = box
        fits = lambda scale: right - left >= scale * size[1] and bottom - top >= scale * size[0]
        return next(filter(fits, SCALES), 1) if self._is_jpeg else 1

    def _stored_box(self, box: Box) -> Box:
        """A box of the upright image in coordinates of the stored one."""
        left, top, right, bottom = box
        if self._mirrored:
            left, right = self.width - right, self.width - left
        if self._turned:
            top, bottom = self.height - bottom, self.height - top
        return (top, left, bottom, right) if self._transposed else (left, top, right, bottom)

    def _upright(self, stored: np.ndarray) -> np.ndarray:
        pixels = stored.swapaxes(0, 1) if self._transposed else stored
        if self._mirrored:
            pixels = pixels[:, ::-1]
        return contiguous(pixels[::-1] if self._turned else pixels)

    def decode(self, scale: int) -> tuple[np.ndarray, int]:
        """Stored pixels at 1/scale of their size, uint8 (h, w, 3), and the scale they came at.

        Raises:
          BadImage: if they are damaged.
        """
        if self._is_jpeg:
            height, width = (-(-side // scale) for side in self._stored_size)
            try:
                pixels = simplejpeg.decode_jpeg(self._data, "RGB", min_height=height, min_width=width)
            except ValueError:
                pass  # of odd but whole files Pillow reads more kinds
            else:
                if pixels.shape[:2] == (height, width):
                    return pixels, scale
        try:
            with Image.open(io.BytesIO(self._data), formats=FORMATS) as image:
                return _to_rgb(image), 1
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises many kinds for broken files, OSError to SyntaxError
            raise bad_image(self.name, error) from error


def open_photograph(
    data: bytes, name: str, upright: bool = True, max_pixels: int = MAX_PIXELS
) -> Photograph:
    """Reads the header of an encoded photograph.

    Its pixels will come as 8-bit RGB from every pixel mode that means a photograph: grey, palette and
    CMYK are converted, 16 bits are scaled to 8, transparency is laid over black.

    Args:
      data: the file's bytes.
      name: what messages call it, such as its path.
      upright: apply the EXIF orientation. False where intrinsics belong to the stored pixels.

    Raises:
      BadImage: if this is no image, has more than `max_pixels`, or a pixel mode that is no photograph's.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > max_pixels:
            raise BadImage(f"{name}: {width}x{height} is over {max_pixels:,} pixels")
        if image.mode not in PLAIN_MODES + ALPHA_MODES + DEEP_MODES:
            raise BadImage(f"{name}: pixel mode {image.mode} is no photograph's, convert it to RGB")
        is_jpeg = image.format in JPEGS and image.mode in ("L", "RGB")
        return Photograph(data, name, (height, width), is_jpeg, _orientation(image, data) if upright else 1)
    except (BadImage, MemoryError):
        raise
    except Exception as error:
        raise bad_image(name, error) from error


def read_photograph(
    path: str | pathlib.Path, upright: bool = True, max_pixels: int = MAX_PIXELS
) -> Photograph:
    """Reads a file and its header; see `open_photograph`.

    Raises:
      BadImage: also if the file is missing or may not be read.
      OSError: where it is the disk's fault: another image in its place would make the data depend on it.
    """
    return open_photograph(read_file(path), str(path), upright, max_pixels)


def read_file(path: str | pathlib.Path) -> bytes:
    """The bytes of an image's file.

    Raises:
      BadImage: if it is missing or may not be read.
      OSError: where it is the disk's fault.
    """
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        if error.errno in TRANSIENT:
            raise
        raise BadImage(f"{path}: {error.strerror}") from error


def contiguous(pixels: np.ndarray) -> np.ndarray:
    """Flipped or transposed pixels (h, w, 3), laid out anew if they are not in order."""
    if pixels.strides[1:] == (3, 1):
        return np.ascontiguousarray(pixels)
    # Channel by channel: numpy copies three bytes at a time six times slower.
    ordered = np.empty(pixels.shape, pixels.dtype)
    for channel in range(3):
        ordered[:, :, channel] = pixels[:, :, channel]
    return ordered


def bad_image(name: str, error: Exception, formats: Sequence[str] = FORMATS) -> BadImage:
    """What Pillow raised for a file, in one line: it raises many kinds, from OSError to SyntaxError."""
    if isinstance(error, Image.DecompressionBombError):  # Pillow's own limit, above ours
        return BadImage(f"{name}: it is over {MAX_PIXELS:,} pixels")
    if isinstance(error, UnidentifiedImageError):  # its own message has a memory address in it
        return BadImage(f"{name}: not one of {', '.join(formats)}")
    return BadImage(f"{name}: {first_line(error)}")


def _orientation(image: Image.Image, data: bytes) -> int:
    if image.format == "PNG" and not any(word in data for word in PNG_ORIENTED):
        return 1  # to know it from Pillow, all pixels would be decoded
    orientation = image.getexif().get(ORIENTATION, 1)
    return orientation if orientation in UPRIGHT else 1


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Decodes the pixels of an opened image: uint8 (h, w, 3)."""
    if image.mode in DEEP_MODES:
        grey = (np.asarray(image) >> 8).astype(np.uint8)  # Pillow would clip to white, not scale
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return np.asarray(image.convert("RGB"))


def resize_box(pixels: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """The box (left, top, right, bottom) of uint8 (h, w, 3) pixels, resized to (height, width)."""
    if not hasattr(_thread, "resizer"):
        _thread.resizer = Resizer()
    left, top, right, bottom = box
    height, width = pixels.shape[:2]
    options = ResizeOptions(resize_alg=CATMULL_ROM)
    # Rounding may have put an edge a hair outside.
    left, top = min(max(left, 0.0), width), min(max(top, 0.0), height)
    options.crop_box = CropBox(left, top, min(right, width) - left, min(bottom, height) - top)
    source = ImageData(width, height, PixelType.U8x3, pixels.tobytes())
    target = ImageData(size[1], size[0], PixelType.U8x3)
    _thread.resizer.resize(source, target, options)
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(*size, 3)
