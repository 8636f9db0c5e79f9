"""Resizes and re-encodes images for a pack; depth and intrinsics follow the new size."""

import dataclasses
import io

import numpy as np
import simplejpeg
from jaxtyping import Float, UInt8, UInt16
from PIL import Image

from muskie_jax.data.depth import read_depth
from muskie_jax.data.images import BadImage, Photograph, open_photograph
from muskie_jax.data.packing.records import Geometry, Record
from muskie_jax.errors import UserError

FORMATS = ("jpeg", "png")
DEFAULT_QUALITY = 95


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How a pack stores its images.

    Attributes:
      size: short side, in pixels, to which larger images are shrunk; 0 keeps every size. Nothing is
        enlarged.
      quality: JPEG quality, 1 to 100. 0 copies images that need no resizing, and encodes resized images
        with DEFAULT_QUALITY.
      format: "jpeg", or "png", which is lossless but several times larger. "" follows `quality`.

    Raises:
      UserError: if a value is out of range.
    """

    size: int = 0
    quality: int = 0
    format: str = ""

    def __post_init__(self):
        if self.size < 0:
            raise UserError(f"--size={self.size} must be a short side in pixels, or 0 to keep all sizes")
        if not 0 <= self.quality <= 100:
            raise UserError(f"--quality={self.quality} must be from 1 to 100, or 0 to copy files unchanged")
        if self.format not in ("", *FORMATS):
            raise UserError(f"--format={self.format!r} is not supported: use {' or '.join(FORMATS)}")
        if self.format == "png" and self.quality:
            raise UserError(f"--quality={self.quality} applies to JPEG: leave it out with --format=png")

    @property
    def lossless(self) -> bool:
        """Whether every file is copied unchanged."""
        return self == Encoding()

    def stored_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns the stored (height, width) of an image of height x width."""
        short = min(height, width)
        if not self.size or short <= self.size:
            return height, width
        return round(height * self.size / short), round(width * self.size / short)

    def apply(self, record: Record, upright: bool) -> tuple[Record, tuple[int, int]]:
        """Returns the record to store, and the stored image's (height, width).

        Args:
          record: the record with its original files.
          upright: whether to apply the image's EXIF orientation.

        Raises:
          BadImage: if the image or the depth map cannot be read, or their sizes differ.
        """
        photograph = open_photograph(record.image, record.frame, upright)
        original = photograph.height, photograph.width
        stored = self.stored_size(*original)
        if stored == original and not (self.quality or self.format):
            photograph.pixels()  # only decoding detects a truncated or damaged file
            image = record.image
        else:
            image = self.encode(_resize(photograph, stored))
        geometry = record.geometry
        if geometry:
            depth = read_depth(geometry.depth, record.frame)
            if depth.shape != original:
                raise BadImage(
                    f"{record.frame}: the image is {original[1]}x{original[0]}, "
                    f"but its depth is {depth.shape[1]}x{depth.shape[0]}"
                )
            if stored != original:
                geometry = resize_geometry(geometry, depth, stored)
        return dataclasses.replace(record, image=image, geometry=geometry), stored

    def encode(self, pixels: UInt8[np.ndarray, "H W 3"]) -> bytes:
        """Encodes an RGB image as a PNG file if `format` is "png", and as a JPEG file if not."""
        if self.format == "png":
            return _encode_png(pixels)
        pixels = np.ascontiguousarray(pixels)
        return simplejpeg.encode_jpeg(pixels, self.quality or DEFAULT_QUALITY, "RGB", "420", fastdct=False)


def _resize(photograph: Photograph, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    if size == (photograph.height, photograph.width):
        return photograph.pixels()
    return photograph.crop((0, 0, photograph.width, photograph.height), size)


def encode_depth(metres: Float[np.ndarray, "H W"]) -> bytes:
    """Encodes a depth map as a 16-bit PNG in millimetres; values outside the 16-bit range become 0."""
    millimetres = np.round(1000 * metres)
    inside = (millimetres > 0) & (millimetres < 2**16)
    return _encode_png(np.where(inside, millimetres, 0).astype(np.uint16))


def resize_geometry(
    geometry: Geometry, depth: UInt16[np.ndarray, "H W"], size: tuple[int, int]
) -> Geometry:
    """Returns the geometry of a view whose image is resized to `size` (height, width).

    Depth is sampled from the nearest pixel: a mean across an edge would lie on no surface.
    """
    rows, columns = ((np.arange(new) + 0.5) * old / new for new, old in zip(size, depth.shape))
    scale = np.diag([size[1] / depth.shape[1], size[0] / depth.shape[0], 1.0])
    return dataclasses.replace(
        geometry,
        depth=_encode_png(depth[np.ix_(rows.astype(int), columns.astype(int))]),
        intrinsics=scale @ geometry.intrinsics,
    )


def _encode_png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
