"""Reads photographs safely and fast, as upright uint8 RGB.

A file is opened in two steps. The first step reads its header and rejects images that cannot or should not
be decoded. The second step decodes pixels when a crop is requested, at the lowest resolution that the crop
needs. A JPEG decodes at a half or a quarter of its size in a fraction of the time. The result differs from
bicubic resizing of the full image as much as Lanczos resizing does.

Decoding and resizing release the interpreter lock. Results do not depend on the thread.
"""

import io
import pathlib
import threading
import warnings
from collections.abc import Sequence

import numpy as np
import simplejpeg
from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
from jaxtyping import UInt8
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from muskie_jax.data.formats import HAS_HEIF, INSTALL_HEIF
from muskie_jax.data.retries import DISK_FAULTS, SHORTAGES, retried
from muskie_jax.errors import first_line, printable

MAX_PIXELS = 100_000_000  # larger images are rejected when their header is read, before decoding
MAX_BYTES = 10 * MAX_PIXELS  # larger files are not read; 16-bit RGBA has 8 bytes per pixel
# Pillow tries all of them on every file.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", *(("HEIF",) if HAS_HEIF else ()))
JPEGS = ("JPEG", "MPO")  # MPO: a JPEG followed by further JPEGs, such as a preview
PLAIN_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr")  # Pillow converts them correctly
ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")  # 16-bit grey
# Reductions for JPEGs. 1/8 takes a fifth of the time but doubles the error; 5/8 and the like are slow.
SCALES = (4, 2)
ORIENTATION = 0x0112  # EXIF tag
# A PNG may store its orientation after its pixels. A file without these keywords has no orientation.
PNG_ORIENTED = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
# First bytes of a HEIC file after its length. Phones and converters also give such files other suffixes.
HEIF_TYPES = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1"))
# EXIF orientation -> operations that make stored pixels upright, applied in this order: transpose, flip
# left to right, flip top to bottom.
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
INVERSE = {6: 8, 8: 6}  # orientation -> orientation that undoes it; the others undo themselves
CATMULL_ROM = ResizeAlg.convolution(FilterType.catmull_rom)  # the bicubic of Pillow and torchvision

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the upright image

# Pillow warns of images over its own limit and rejects images over twice that limit, 179 million pixels.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
_thread = threading.local()  # each thread's resizer keeps its working memory


class BadImage(Exception):
    """A file that cannot be read as a photograph; the message gives its name and the reason."""

    def __init__(self, message: str):
        super().__init__(printable(message))


class DiskFault(BadImage):
    """A file that a disk or a server failed to read, also when asked again; the file may be good."""


class Photograph:
    """A photograph with a valid header, whose pixels are decoded on demand.

    `open_photograph` creates it.

    Attributes:
      name: the file's name in messages.
      height, width: size of the upright image, in pixels.
    """

    def __init__(
        self, data: bytes, name: str, stored_size: tuple[int, int], is_jpeg: bool, orientation: int
    ):
        self.name = name
        self._data, self._stored_size, self._is_jpeg = data, stored_size, is_jpeg
        self._transposed, self._mirrored, self._flipped = UPRIGHT[orientation]
        self.height, self.width = stored_size[::-1] if self._transposed else stored_size

    def crop(self, box: Box, size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
        """Returns a box of the upright image, resized to `size`. The array is read-only.

        Resizing is bicubic, and antialiased where it shrinks. A JPEG is decoded at the smallest scale at
        which the box has at least as many pixels as the result on both axes.

        Args:
          box: (left, top, right, bottom) inside the image, in pixels; fractions are allowed.
          size: (height, width) of the result.

        Raises:
          BadImage: if the pixels are damaged.
        """
        pixels, scale = self.decode(self.scale_for(box, size))
        # A pixel at scale 1/s covers exactly s x s stored pixels, even where the image's border cuts off
        # the last ones. So coordinates are divided by s, not by the ratio of the sizes.
        left, top, right, bottom = (edge / scale for edge in self._stored_box(box))
        stored_size = (size[1], size[0]) if self._transposed else size
        return self._upright(resize_box(pixels, (left, top, right, bottom), stored_size))

    def pixels(self) -> UInt8[np.ndarray, "height width 3"]:
        """Returns all pixels of the upright image; raises `BadImage` if they are damaged."""
        return self._upright(self.decode(1)[0])

    def scale_for(self, box: Box, size: tuple[int, int]) -> int:
        """Returns s, where 1/s is the scale at which `crop` decodes."""
        left, top, right, bottom = box
        fits = lambda scale: right - left >= scale * size[1] and bottom - top >= scale * size[0]
        return next(filter(fits, SCALES), 1) if self._is_jpeg else 1

    def _stored_box(self, box: Box) -> Box:
        """Converts a box from upright to stored coordinates."""
        left, top, right, bottom = box
        if self._mirrored:
            left, right = self.width - right, self.width - left
        if self._flipped:
            top, bottom = self.height - bottom, self.height - top
        return (top, left, bottom, right) if self._transposed else (left, top, right, bottom)

    def _upright(self, stored: np.ndarray) -> np.ndarray:
        pixels = stored.swapaxes(0, 1) if self._transposed else stored
        if self._mirrored:
            pixels = pixels[:, ::-1]
        return contiguous(pixels[::-1] if self._flipped else pixels)

    def decode(self, scale: int) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
        """Decodes the stored pixels at 1/scale of their size.

        Returns:
          The pixels, before any EXIF orientation is applied, and the scale at which they were decoded. The
          scale is 1 if the file cannot be decoded at reduced size.

        Raises:
          BadImage: if the pixels are damaged.
        """
        if self._is_jpeg:
            height, width = (-(-side // scale) for side in self._stored_size)
            try:
                pixels = simplejpeg.decode_jpeg(self._data, "RGB", min_height=height, min_width=width)
            except ValueError:
                pass  # Pillow reads some valid but unusual JPEGs that simplejpeg rejects
            else:
                if pixels.shape[:2] == (height, width):
                    return pixels, scale
        try:
            with Image.open(io.BytesIO(self._data), formats=FORMATS) as image:
                return _to_rgb(image), 1
        except MemoryError:
            raise
        except Exception as error:  # see bad_image
            raise bad_image(self.name, error) from error


def open_photograph(
    data: bytes, name: str, upright: bool = True, max_pixels: int = MAX_PIXELS
) -> Photograph:
    """Reads the header of an encoded photograph.

    All supported pixel modes are later converted to 8-bit RGB: grey, palette and CMYK are converted, 16
    bits are scaled to 8, and transparent images are composited over black.

    Args:
      data: the file's bytes.
      name: the file's name in messages, such as its path.
      upright: whether to apply the EXIF orientation. False if intrinsics refer to the stored pixels.
      max_pixels: maximum number of pixels; larger images are rejected.

    Raises:
      BadImage: if the data is not an image, has too many pixels, or has an unsupported pixel mode.
    """
    try:
        if data[4:12] in HEIF_TYPES and not HAS_HEIF:
            raise BadImage(f"{name}: a HEIC image: {INSTALL_HEIF}, or convert it to JPEG")
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > max_pixels:
            raise BadImage(f"{name}: {width}x{height} is over {max_pixels:,} pixels: make it smaller")
        if image.mode not in PLAIN_MODES + ALPHA_MODES + DEEP_MODES:
            raise BadImage(f"{name}: pixel mode {image.mode} is not supported, convert the image to RGB")
        is_jpeg = image.format in JPEGS and image.mode in ("L", "RGB")
        # Asking Pillow for the orientation of a PNG would decode all pixels.
        has_orientation = image.format != "PNG" or any(word in data for word in PNG_ORIENTED)
        size, orientation = decoded_size(image, upright) if has_orientation else ((height, width), 1)
        return Photograph(data, name, size, is_jpeg, orientation)
    except (BadImage, MemoryError):
        raise
    except Exception as error:
        raise bad_image(name, error) from error


def read_photograph(
    path: str | pathlib.Path, upright: bool = True, max_pixels: int = MAX_PIXELS
) -> Photograph:
    """Reads a file and its header; see `open_photograph` for arguments and errors.

    Raises:
      BadImage: also if the file is missing or too large, or its permissions forbid reading.
      DiskFault, OSError: see `read_file`.
    """
    return open_photograph(read_file(path), str(path), upright, max_pixels)


def read_file(path: str | pathlib.Path) -> bytes:
    """Returns the bytes of an image file.

    Raises:
      BadImage: if the file is missing or too large, or its permissions forbid reading.
      DiskFault: if the disk or the server fails, also after retries.
      OSError: if this machine has too little memory or too many open files, also after retries.
    """
    try:
        return retried(lambda: _read_sensible(pathlib.Path(path)))
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        kind = DiskFault if error.errno in DISK_FAULTS else BadImage
        raise kind(f"{path}: {error.strerror}") from error


def _read_sensible(path: pathlib.Path) -> bytes:
    """Returns the bytes of a file, unless it would fill the memory."""
    size, largest = path.stat().st_size / 1e9, MAX_BYTES / 1e9
    if size > largest:
        raise BadImage(f"{path}: a file of {size:,.1f} GB, over {largest:g} GB: make it smaller")
    return path.read_bytes()


def contiguous(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Returns flipped or transposed pixels as a C-contiguous array."""
    if pixels.strides[1:] == (3, 1):
        return np.ascontiguousarray(pixels)
    # NumPy copies single channels six times faster than runs of three bytes.
    ordered = np.empty(pixels.shape, pixels.dtype)
    for channel in range(3):
        ordered[:, :, channel] = pixels[:, :, channel]
    return ordered


def bad_image(name: str, error: Exception, formats: Sequence[str] = FORMATS) -> BadImage:
    """Converts an exception of Pillow to a BadImage with a message of one line.

    Pillow raises many types for broken files, from OSError to SyntaxError.
    """
    if isinstance(error, Image.DecompressionBombError):  # Pillow's own limit, above ours
        return BadImage(f"{name}: it is over {MAX_PIXELS:,} pixels: make it smaller")
    if isinstance(error, UnidentifiedImageError):  # Pillow's message contains a memory address
        return BadImage(f"{name}: not one of {', '.join(formats)}")
    return BadImage(f"{name}: {first_line(error)}")


def decoded_size(image: Image.Image, upright: bool) -> tuple[tuple[int, int], int]:
    """Returns the (height, width) of an opened image when decoded, and the orientation still to be applied.

    Pillow applies the orientation of a TIFF file when it decodes it, and no other format's.

    Args:
      image: the image, not decoded yet.
      upright: whether the result should be upright; False: as its pixels are stored.
    """
    is_tiff = isinstance(image, TiffImagePlugin.TiffImageFile)
    orientation = image.getexif().get(ORIENTATION, 1) if upright or is_tiff else 1
    orientation = orientation if orientation in UPRIGHT else 1
    if not is_tiff:
        return (image.height, image.width), orientation
    height, width = image.tag_v2[TiffImagePlugin.IMAGELENGTH], image.tag_v2[TiffImagePlugin.IMAGEWIDTH]
    size = (width, height) if UPRIGHT[orientation][0] else (height, width)
    return size, 1 if upright else INVERSE.get(orientation, orientation)


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Decodes an opened image to uint8 (h, w, 3)."""
    if image.mode in DEEP_MODES:
        grey = (np.asarray(image) >> 8).astype(np.uint8)  # Pillow would clip to white, not scale
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return np.asarray(image.convert("RGB"))


def resize_box(
    pixels: UInt8[np.ndarray, "h w 3"], box: Box, size: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """Resizes a box (left, top, right, bottom) of an image to `size` (height, width)."""
    if not hasattr(_thread, "resizer"):
        _thread.resizer = Resizer()
    left, top, right, bottom = box
    height, width = pixels.shape[:2]
    options = ResizeOptions(resize_alg=CATMULL_ROM)
    # Rounding errors may have moved an edge slightly outside.
    left, top = min(max(left, 0.0), width), min(max(top, 0.0), height)
    options.crop_box = CropBox(left, top, min(right, width) - left, min(bottom, height) - top)
    source = ImageData(width, height, PixelType.U8x3, pixels.tobytes())
    target = ImageData(size[1], size[0], PixelType.U8x3)
    _thread.resizer.resize(source, target, options)
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(*size, 3)
