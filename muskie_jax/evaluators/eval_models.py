"""Models that can be evaluated: networks of any kind and trivial baselines, behind one interface.

Letters in shapes: B groups, V views, H x W pixels, L = h x w patches of a view, d channels.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from muskie_jax.checks import nearest_size
from muskie_jax.correspondence import sift
from muskie_jax.models.framewise import Framewise
from muskie_jax.models.muskie import PATCH, Muskie, patchify
from muskie_jax.models.reconstruction import Reconstruction, ReconstructionOutput, transform_points

MUSKIE, STILL, PATCHES, SIFT = "muskie", "still", "patches", "sift"
# The wall that `NoMotion` reconstructs, in units of its depth.
WALL_EXTENT = 1.2  # along the longer side of a view: a field of view of 62 degrees
SIDE_STEP = 1e-3  # between two cameras


class Activations(NamedTuple):
    """Intermediate results of a network that are used for matching, one entry per layer.

    Attributes:
      features: patch features.
      to_others: attention weights of the first view's queries on the keys of all views, float32; empty
        for networks without attention across views.
      to_first: attention weights of all queries on the first view's keys, float32; empty
        for the same networks.
    """

    features: tuple[Float[Array, "B V h w d"], ...] = ()
    to_others: tuple[Float[Array, "B L V L"], ...] = ()
    to_first: tuple[Float[Array, "B V L L"], ...] = ()


class EvalNetwork(Protocol):
    """A function of parameters and images; hashable, so that equal networks share compiled programs."""

    def __hash__(self) -> int: ...

    def activations(self, params: Any, images: Float[Array, "B V H W 3"]) -> Activations:
        """Returns the activations for images in [-1, 1]."""
        ...


class ModelInfo(NamedTuple):
    """Describes a model in results and reports.

    Attributes:
      name: the name shown in tables.
      kind: "muskie", "mae", "dinov2", "dinov3", "crocov2", "still" or "patches".
      step: training step, if known; 0 is untrained.
      source: where the weights come from; checkpoints of one run share its work directory.
      parameters: number of parameters.
      digest: digest of the parameters, see `muskie_jax.fingerprint`; "" without parameters.
      layers: number of layers of a Muskie, which are its blocks.
    """

    name: str
    kind: str
    step: int | None = None
    source: str = ""
    parameters: int | None = None
    digest: str = ""
    layers: int | None = None

    @property
    def title(self) -> str:
        return self.name if self.step is None else f"{self.name} (step {self.step})"


class EvalModel(NamedTuple):
    """A loaded model."""

    info: ModelInfo
    network: EvalNetwork
    params: Any = None


def resize_to_patches(images: Float[Array, "B V H W 3"], patch: int) -> Float[Array, "B V rows columns 3"]:
    """Resizes images to the nearest size that is divisible into patches."""
    height, width = images.shape[2:4]
    size = nearest_size((height, width), patch)
    if size == (height, width):
        return images
    return jax.image.resize(images, (*images.shape[:2], *size, images.shape[4]), "cubic")


def to_grid(
    tokens: Float[Array, "B V L d"], images: Float[Array, "B V H W 3"], patch: int
) -> Float[Array, "B V h w d"]:
    """Arranges the patch tokens of images as a grid."""
    rows, columns = images.shape[2] // patch, images.shape[3] // patch
    return tokens.reshape(*tokens.shape[:2], rows, columns, tokens.shape[-1])


@dataclasses.dataclass(frozen=True)
class MuskieNetwork:
    """A Muskie: features and attention of every block."""

    module: Muskie

    def activations(self, params: Any, images: Float[Array, "B V H W 3"]) -> Activations:
        patch = self.module.patch
        images = resize_to_patches(images, patch)
        outputs = self.module.apply({"params": params}, images, method="activations")
        tokens, attention = cast(tuple[tuple[Array, ...], tuple[Array, ...]], outputs)
        return Activations(
            tuple(to_grid(x, images, patch) for x in tokens),
            tuple(weights[:, 0] for weights in attention),
            tuple(weights[:, :, :, 0] for weights in attention),
        )


@dataclasses.dataclass(frozen=True)
class PointMapNetwork:
    """A Muskie with a decoder of cameras and point maps; activations are those of its backbone."""

    module: Reconstruction

    @property
    def patch(self) -> int:
        return self.module.backbone.patch

    def activations(self, params: Any, images: Float[Array, "B V H W 3"]) -> Activations:
        return MuskieNetwork(self.module.backbone).activations(params["backbone"], images)

    def reconstruct(self, params: Any, images: Float[Array, "B V H W 3"]) -> ReconstructionOutput:
        """Returns cameras and point maps for images in [-1, 1], whose sides are divisible into patches."""
        return cast(ReconstructionOutput, self.module.apply({"params": params}, images))


@dataclasses.dataclass(frozen=True)
class FramewiseNetwork:
    """A backbone that encodes every view separately: features of every block."""

    module: Framewise

    def activations(self, params: Any, images: Float[Array, "B V H W 3"]) -> Activations:
        patch = self.module.settings.patch
        images = resize_to_patches(images, patch)
        batch, views = images.shape[:2]
        flat = images.reshape(-1, *images.shape[2:])
        tokens = cast(tuple[Array, ...], self.module.apply({"params": params}, flat, method="features"))
        by_view = (x.reshape(batch, views, *x.shape[1:]) for x in tokens)
        return Activations(tuple(to_grid(x, images, patch) for x in by_view))


@dataclasses.dataclass(frozen=True)
class RawPatches:
    """Uses the raw pixels of each patch as its features: matching without a network."""

    def activations(self, params: Any, images: Float[Array, "B V H W 3"]) -> Activations:
        del params
        images = resize_to_patches(images, PATCH)
        return Activations((to_grid(patchify(images, PATCH), images, PATCH),))


@dataclasses.dataclass(frozen=True)
class DenseSift:
    """Uses SIFT descriptors as features, see `dense_sift`: matching without training."""

    def activations(self, params: Any, images: Float[Array, "B V H W 3"]) -> Activations:
        del params
        images = resize_to_patches(images, sift.CELL)
        batch, views, height, width = images.shape[:4]
        shape = (batch, views, height // sift.CELL, width // sift.CELL, sift.CHANNELS)
        described = jax.ShapeDtypeStruct(shape, jnp.float32)
        return Activations((jax.pure_callback(sift.dense_sift, described, images),))


@dataclasses.dataclass(frozen=True)
class NoMotion:
    """Predicts that nothing moves: every point keeps its coordinates in the first view."""

    patch = PATCH  # views have the size at which networks see them

    def activations(self, params: Any, images: Float[Array, "B V H W 3"]) -> Activations:
        del params, images
        return Activations()

    def reconstruct(self, params: Any, images: Float[Array, "B V H W 3"]) -> ReconstructionOutput:
        """Returns cameras that all look at one wall, the same way; its depth is 1.

        The cameras stand side by side, SIDE_STEP apart: two at the same place have no direction from one to
        the other, and sideways is the most common one in recordings.
        """
        del params
        batch, views, height, width, _ = images.shape
        rows, columns = jnp.indices((height, width)) + 0.5
        tangents = jnp.stack([columns - width / 2, rows - height / 2], -1) * (
            WALL_EXTENT / max(height, width)
        )
        wall = jnp.concatenate([tangents, jnp.ones((height, width, 1))], -1)
        local_points = jnp.broadcast_to(wall, (batch, views, height, width, 3))
        steps = SIDE_STEP * jnp.arange(views, dtype=jnp.float32)
        cameras = jnp.tile(jnp.eye(4), (batch, views, 1, 1)).at[..., 0, 3].set(steps)
        points = transform_points(cameras, local_points)
        return ReconstructionOutput(local_points, jnp.ones(local_points.shape[:-1]), cameras, points)
