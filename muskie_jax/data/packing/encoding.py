"""Making views smaller: resized and encoded anew, with depth and intrinsics to match."""

import dataclasses
import io

import numpy as np
import simplejpeg
from PIL import Image

from muskie_jax.data.depth import read_depth
from muskie_jax.data.images import BadImage, Photograph, open_photograph
from muskie_jax.data.packing.records import Geometry, Record
from muskie_jax.errors import UserError

FORMATS = ("jpeg", "png")
DEFAULT_QUALITY = 95


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How images are stored.

    Attributes:
      size: the short side of images that are larger, pixels; 0: as they are. Nothing is enlarged.
      quality: of JPEG, 1 to 100. 0: images that need not shrink are copied unchanged, others get
        DEFAULT_QUALITY.
      format: "jpeg" or "png" (without loss, and several times as large); empty: as `quality` says.

    Raises:
      UserError: one line, for values out of range.
    """

    size: int = 0
    quality: int = 0
    format: str = ""

    def __post_init__(self):
        if self.size < 0:
            raise UserError(f"--size={self.size}: write the short side in pixels, or 0 to keep it")
        if not 0 <= self.quality <= 100:
            raise UserError(f"--quality={self.quality}: write 1 to 100, or 0 to copy files unchanged")
        if self.format not in ("", *FORMATS):
            raise UserError(f"--format={self.format!r}: write {' or '.join(FORMATS)}")
        if self.format == "png" and self.quality:
            raise UserError("--quality is for JPEG: leave it out with --format=png")

    @property
    def lossless(self) -> bool:
        """Whether every file is copied unchanged."""
        return self == Encoding()

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The stored (height, width) of an image."""
        short = min(height, width)
        if not self.size or short <= self.size:
            return height, width
        return round(height * self.size / short), round(width * self.size / short)

    def apply(self, record: Record, upright: bool) -> tuple[Record, tuple[int, int]]:
        """The record as it is stored, and the image's (height, width).

        Args:
          record: with the files as they were found.
          upright: whether the image's EXIF orientation is applied.

        Raises:
          BadImage: if image or depth cannot be read, or do not belong together.
        """
        photograph = open_photograph(record.image, record.frame, upright)
        size = photograph.height, photograph.width
        target = self.target(*size)
        if target == size and not (self.quality or self.format):
            photograph.pixels()  # only decoding shows whether a file is whole
            image = record.image
        else:
            image = self.encode(_resized(photograph, target))
        geometry = record.geometry
        if geometry:
            depth = read_depth(geometry.depth, record.frame)
            if depth.shape != size:
                raise BadImage(
                    f"{record.frame}: the image is {size[1]}x{size[0]}, "
                    f"its depth {depth.shape[1]}x{depth.shape[0]}"
                )
            if target != size:
                geometry = resize_geometry(geometry, depth, target)
        return dataclasses.replace(record, image=image, geometry=geometry), target

    def encode(self, pixels: np.ndarray) -> bytes:
        """The file of an image, uint8 (h, w, 3)."""
        if self.format == "png":
            return _png(pixels)
        pixels = np.ascontiguousarray(pixels)
        return simplejpeg.encode_jpeg(pixels, self.quality or DEFAULT_QUALITY, "RGB", "420", fastdct=False)


def _resized(photograph: Photograph, target: tuple[int, int]) -> np.ndarray:
    if target == (photograph.height, photograph.width):
        return photograph.pixels()
    return photograph.crop((0, 0, photograph.width, photograph.height), target)


def encode_depth(metres: np.ndarray) -> bytes:
    """A depth map, float (h, w), as a 16-bit PNG of millimetres; 0 where 16 bits cannot hold it."""
    millimetres = np.round(1000 * metres)
    inside = (millimetres > 0) & (millimetres < 2**16)
    return _png(np.where(inside, millimetres, 0).astype(np.uint16))


def resize_geometry(geometry: Geometry, depth: np.ndarray, target: tuple[int, int]) -> Geometry:
    """Depth and intrinsics of an image resized to `target` (height, width).

    Depth is that of the nearest pixel: a mean across an edge would lie on no surface.
    """
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(target, depth.shape)
    )
    scale = np.diag([target[1] / depth.shape[1], target[0] / depth.shape[0], 1.0])
    return dataclasses.replace(
        geometry, depth=_png(depth[np.ix_(rows, columns)]), intrinsics=scale @ geometry.intrinsics
    )


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
