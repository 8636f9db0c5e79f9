"""Point clouds and cameras of photographs, from a network with a decoder.

scene = reconstruct_photographs(open_reconstruction("reconstruction.safetensors"), "scenes/kitchen")
scene.points, scene.colours, scene.camera_to_world  # (N, 3), (N, 3) and (V, 4, 4)
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jaxtyping import Float, Float32, UInt8

from muskie_jax.data.load_images import FilePath, load_images
from muskie_jax.errors import UserError
from muskie_jax.interop import reconstruction_names
from muskie_jax.interop.load import model_of, open_weights
from muskie_jax.models.reconstruction import Reconstruction, ReconstructionOutput
from muskie_jax.photographs.opening import SIZE
from muskie_jax.reconstruction.even_choice import choose_evenly
from muskie_jax.reconstruction.field_of_view import tangents_of_points
from muskie_jax.reconstruction.losses import depth_edges
from muskie_jax.viz.reconstruction import to_pixels

MAX_POINTS = 1_000_000


class ReconstructionNetwork(NamedTuple):
    """A network with a decoder of cameras and point maps, its parameters, and what to call it.

    `size` is the shorter side of the largest views in its training, in pixels; SIZE if it is not known.
    """

    name: str
    model: Reconstruction
    params: dict[str, Any]
    size: int = SIZE


class Scene(NamedTuple):
    """What photographs show, from the first camera and in an arbitrary unit. V views of H x W pixels.

    Attributes:
      points: surface points, of pixels away from edges of depth.
      colours: their RGB colours.
      camera_to_world: camera poses, with OpenCV axes (x right, y down, z forward); the first is the
        identity.
      tangents: x / z and y / z at the right and lower border of each view.
      paths: the photographs.
      pictures: the views.
    """

    points: Float32[np.ndarray, "N 3"]
    colours: UInt8[np.ndarray, "N 3"]
    camera_to_world: Float32[np.ndarray, "V 4 4"]
    tangents: Float[np.ndarray, "V 2"]
    paths: tuple[pathlib.Path, ...]
    pictures: UInt8[np.ndarray, "V H W 3"]


def open_reconstruction(source: str | os.PathLike, flag: str = "--model") -> ReconstructionNetwork:
    """Loads a network with a decoder of cameras and point maps.

    Args:
      source: see `load_pretrained`.
      flag: the flag that a user names it by.

    Raises:
      UserError: if there are no such weights, or they have no decoder.
    """
    weights = open_weights(source, with_decoder=True)
    if not isinstance(weights.network, reconstruction_names.ReconstructionNetwork):
        raise UserError(
            f"{flag}={source} is a backbone without a decoder of cameras and point maps: pass a network "
            "trained to reconstruct, see docs/reconstruction.md"
        )
    model = Reconstruction(model_of(weights.network.backbone), weights.network.decoder_depth)
    size = _training_size(weights.provenance.get("training")) or SIZE
    return ReconstructionNetwork(str(source), model, jax.device_put(weights.params), size)


def _training_size(config: Any) -> int | None:
    """Returns the shorter side of the largest views of a training; None if a file does not say it."""
    try:
        buckets = config["buckets"]
        choices = (*buckets["resolutions"], *buckets.get("late", ()))
        return max(min(int(height), int(width)) for sizes in choices for height, width in sizes)
    except (TypeError, KeyError, ValueError, AttributeError):
        return None


def reconstruct_photographs(
    network: ReconstructionNetwork,
    paths: FilePath | Sequence[FilePath],
    size: int | None = None,
    max_points: int = MAX_POINTS,
) -> Scene:
    """Reconstructs what photographs of one scene show, in one forward pass.

    Args:
      network: the network.
      paths: files and folders. Each view is a centred crop, see `load_images`.
      size: shorter side of the views, pixels; None is that of the network's training.
      max_points: maximum number of points, evenly chosen from all views.

    Raises:
      UserError: if a photograph cannot be read, or predictions are not finite.
    """
    size = network.size if size is None else size
    views = load_images(paths, size=size, patch=network.model.backbone.patch)
    return reconstruct_views(network, views.images, views.paths, max_points)


def reconstruct_views(
    network: ReconstructionNetwork,
    images: Float32[np.ndarray, "V H W 3"],
    paths: tuple[pathlib.Path, ...],
    max_points: int = MAX_POINTS,
) -> Scene:
    """Reconstructs what views in [-1, 1] of one scene show; see `reconstruct_photographs`."""
    apply = jax.jit(lambda params, images: network.model.apply({"params": params}, images))
    output = cast(ReconstructionOutput, apply(network.params, images[None]))
    smooth = ~np.asarray(depth_edges(output.local_points[..., 2]))[0]
    local, points, cameras = (
        np.asarray(x[0]) for x in (output.local_points, output.points, output.camera_to_world)
    )
    if not (np.isfinite(points).all() and np.isfinite(cameras).all()):
        raise UserError(f"{network.name} predicts numbers that are not finite: use other weights")
    to_first = np.linalg.inv(cameras[0].astype(np.float64))
    points = (points @ to_first[:3, :3].T + to_first[:3, 3]).astype(np.float32)
    cameras = (to_first @ cameras).astype(np.float32)
    cameras[0] = np.eye(4)  # without rounding
    chosen = choose_evenly(smooth, max_points)
    pictures = to_pixels(images)
    tangents = tangents_of_points(local)
    return Scene(points[chosen], pictures[chosen], cameras, tangents, paths, pictures)
