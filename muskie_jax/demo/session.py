"""What the page computes: features of a set of photographs, computed once, and answers from them.

Axes: V views, H x W pixels and h x w patches of a view, d channels.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float32, UInt8

from muskie_jax.checks import require
from muskie_jax.data.load_images import load_images
from muskie_jax.data.synthetic import WorldConfig, render_group
from muskie_jax.errors import UserError
from muskie_jax.models.muskie import Muskie
from muskie_jax.photographs.encoding import GROUP, Encoding, Found, compared_block, find_points
from muskie_jax.photographs.features import check_views, choose_blocks, crop_note, group_features
from muskie_jax.photographs.inpainting import Inpainting, draw_mask, grey_levels, inpaint
from muskie_jax.photographs.opening import Views
from muskie_jax.photographs.reconstructing import ReconstructionNetwork, Scene, reconstruct_views
from muskie_jax.viz.features import pca_colours
from muskie_jax.viz.inpainting import filled_with_mean
from muskie_jax.viz.reconstruction import to_pixels

MAX_VIEWS = GROUP
PICTURE_SCALE = 2  # pixels of a picture per pixel of a view, on each axis
MAX_POINTS = 250_000  # of a reconstruction, which the browser downloads
ROOM_VIEWS, ROOM_SIZE = 4, (224, 288)


class PageNetwork(NamedTuple):
    """A network with its parameters, and whether the page can paint with it.

    Attributes:
      name: what the user called it.
      model, params: as `load_pretrained` returns them.
      can_paint: whether it has a reconstruction head that paints pixels.
      reconstruction: a network with a decoder of cameras and point maps, for views in 3D.
    """

    name: str
    model: Muskie
    params: Any
    can_paint: bool
    reconstruction: ReconstructionNetwork | None = None


class Session(NamedTuple):
    """A set of photographs and their features.

    Attributes:
      encoding: the views, and their features after `compared_block`, by which points are found.
      pictures: the views for people, in more pixels.
      names: one per view.
      tokens: of every block.
      note: what a visitor should know about the views, or "".
    """

    encoding: Encoding
    pictures: UInt8[np.ndarray, "V height width 3"]
    names: tuple[str, ...]
    tokens: tuple[Float32[np.ndarray, "V h w d"], ...]
    note: str = ""

    @property
    def images(self) -> Float32[np.ndarray, "V H W 3"]:
        """Returns the views, in [-1, 1]."""
        return self.encoding.views.images

    @property
    def size(self) -> tuple[int, int]:
        """Returns height and width of the views, in pixels."""
        height, width = self.images.shape[1:3]
        return height, width


class Painting(NamedTuple):
    """A view with a hidden part, as pixels, and its errors in grey levels by the names of `Inpainting`."""

    hidden: UInt8[np.ndarray, "H W 3"]
    alone: UInt8[np.ndarray, "H W 3"]
    together: UInt8[np.ndarray, "H W 3"] | None
    truth: UInt8[np.ndarray, "H W 3"]
    levels: dict[str, float]


def open_session(
    network: PageNetwork, files: Sequence[pathlib.Path], names: Sequence[str], size: int
) -> Session:
    """Loads photographs and computes their features.

    Args:
      network: the network.
      files: two or more photographs of one scene, at most MAX_VIEWS.
      names: names of the photographs on the page.
      size: the views' shorter side in pixels.

    Raises:
      UserError: if there are too few or too many photographs, or one cannot be read.
    """
    require(files, "There are no photographs: choose two or more of one scene.")
    require(
        len(files) > 1, "One photograph has nothing to be compared with: add another of the same scene."
    )
    require(
        len(files) <= MAX_VIEWS,
        f"{len(files)} photographs are too many for this page: choose at most {MAX_VIEWS}.",
    )
    check_views(network.model, len(files), f"{len(files)} photographs")
    patch = network.model.patch
    try:
        loaded = load_images(files, size, patch)
        height, width = loaded.images.shape[1:3]
        pictures = load_images(files, (PICTURE_SCALE * height, PICTURE_SCALE * width), patch).pixels()
    except UserError as error:  # names instead of temporary paths
        message = str(error)
        for file, name in zip(files, names):
            message = message.replace(str(file), name)
        raise UserError(message) from None
    session = compute_session(network, loaded.images, pictures, tuple(names))
    return session._replace(note=crop_note(loaded.crops, loaded.sizes, names))


def compute_session(
    network: PageNetwork,
    images: Float32[np.ndarray, "V H W 3"],
    pictures: UInt8[np.ndarray, "V height width 3"],
    names: tuple[str, ...],
) -> Session:
    """Computes the features of views, in [-1, 1]; see `Session` for the other arguments."""
    blocks = choose_blocks(None, network.model)
    tokens = group_features(network.params, images, model=network.model, blocks=blocks)
    # A click is a fraction of a view, so that the views themselves count as the photographs.
    sizes = np.tile(images.shape[1:3], (len(images), 1))
    features = tokens[compared_block(len(tokens)) - 1]
    padding = np.zeros(features.shape[:3], bool)
    views = Views(images, padding, sizes, sizes, tuple(map(pathlib.Path, names)), (0,) * len(names))
    encoding = Encoding(views, features, None)
    return Session(encoding, pictures, names, tuple(np.asarray(block) for block in tokens))


def reconstruct(network: ReconstructionNetwork, session: Session) -> Scene:
    """Reconstructs the points and cameras of a session's views."""
    return reconstruct_views(network, session.images, session.encoding.views.paths, MAX_POINTS)


def open_room(network: PageNetwork, seed: int) -> Session:
    """Renders views of a synthetic room and computes their features."""
    pixels = np.asarray(_render(np.array([2**32 - 1, seed], np.uint32)))
    names = tuple(f"view {number}" for number in range(1, len(pixels) + 1))
    return compute_session(network, pixels / np.float32(127.5) - 1, pixels, names)


@jax.jit
def _render(seed: jax.Array) -> Any:
    height, width = ROOM_SIZE
    options = {"num_views": ROOM_VIEWS, "height": height, "width": width, "config": WorldConfig()}
    return functools.partial(render_group, **options)(seed).images


def search(session: Session, view: int, x: float, y: float) -> Found:
    """Finds a point of a view in all views; positions are fractions of a view's width and height."""
    height, width = session.size
    found = find_points(session.encoding, view, np.array([[x * width, y * height]]))
    return Found(found.positions[0] / (width, height), found.confidence[0], found.visible[0])


def colours(session: Session, block: int) -> UInt8[np.ndarray, "V h w 3"]:
    """Returns the features of a block, from 1, as colours, one pixel per patch."""
    tokens = session.tokens[block - 1]
    views, rows, columns, width = tokens.shape
    return pca_colours(tokens.reshape(views, rows * columns, width), (rows, columns), patch=1)


def paint(
    network: PageNetwork, session: Session, view: int, mask_mode: str, ratio: float, seed: int
) -> Painting:
    """Hides a part of a view and paints it alone and with the other views."""
    patch, (height, width) = network.model.patch, session.size
    mask = draw_mask(mask_mode, ratio, (height // patch, width // patch), seed)
    result: Inpainting = inpaint(network.model, network.params, session.images, view, mask)
    truth = session.images[view]
    together = None if result.together is None else to_pixels(result.together)
    levels = {name: grey_levels(error) for name, error in result.errors.items()}
    return Painting(
        to_pixels(filled_with_mean(truth, mask, patch)),
        to_pixels(result.alone),
        together,
        to_pixels(truth),
        levels,
    )
