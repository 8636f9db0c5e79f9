"""Puts batches on the devices; synthetic groups are rendered there, so every batch has images."""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from muskie_jax.data.buckets import Bucket
from muskie_jax.data.synthetic.render import render_groups
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.data.synthetic.textures import PhotoPyramid, photo_pyramid
from muskie_jax.sharding import batch_sharding, local_rows, put_batch

Textures = dict[int, PhotoPyramid]  # by source number, for worlds with photo textures


class BatchPlacer:
    """Turns a host's batches into global arrays on the devices.

    Args:
      groups: loaded groups of a batch, all hosts' together.
      worlds: by source number; None where the source is photographs.
      photos: source number -> photo textures, uint8 (N, S, S, 3).
      mesh: the devices.

    Attributes:
      rows: the loaded groups that this host makes.
    """

    def __init__(
        self,
        groups: int,
        worlds: Sequence[WorldConfig | None],
        photos: Mapping[int, np.ndarray],
        mesh: Mesh,
    ):
        self.groups, self.mesh = groups, mesh
        self.rows = local_rows(groups, mesh)
        self.synthetic = any(world is not None for world in worlds)
        pyramids = {number: photo_pyramid(jnp.asarray(bank)) for number, bank in photos.items()}
        self._textures = jax.device_put(pyramids, NamedSharding(mesh, P()))
        self._render = _renderer(tuple(worlds), mesh)

    def lower_rendering(self, bucket: Bucket, views: int) -> jax.stages.Lowered:
        """Traces the rendering of a bucket from groups of `views`. Once compiled, calls find it."""
        split = self.groups * views // bucket.views
        shapes = {
            "scene": ((self.groups, 2), jnp.uint32),
            "order": ((self.groups, views), jnp.int32),
            "source": ((split,), jnp.int32),
        }
        arguments = [
            jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(key, self.mesh))
            for key, (shape, dtype) in shapes.items()
        ]
        return self._render.lower(*arguments, self._textures, bucket=bucket)

    def __call__(self, bucket: Bucket, batch: Mapping[str, np.ndarray]) -> dict[str, Array]:
        """A batch with `images`, `mask` and `source`; see "How data flows" in the README."""
        placed = put_batch(batch, self.rows, self.groups, self.mesh)
        if "images" not in placed:
            scene, order = placed.pop("scene"), placed.pop("order")
            source = placed["source"]
            placed["images"] = self._render(scene, order, source, self._textures, bucket=bucket)
        return placed


@functools.cache
def _renderer(worlds: tuple[WorldConfig | None, ...], mesh: Mesh):
    """One jitted function for all who render the same worlds, so that they share its programs."""
    return jax.jit(
        functools.partial(render_views, worlds=worlds),
        static_argnames=("bucket",),
        out_shardings=batch_sharding("images", mesh),
    )


def render_views(
    scene: Array,
    order: Array,
    source: Array,
    textures: Textures,
    *,
    bucket: Bucket,
    worlds: tuple[WorldConfig | None, ...],
) -> Array:
    """Renders loaded groups whole, then orders and splits their views as photographs are on the host.

    Args:
      scene: uint32 (G, 2), a seed for each loaded group.
      order: int32 (G, views), the new order of its views.
      source: int32 (B,), by group after splitting, B = G * views / bucket.views.

    Returns:
      uint8 (B, bucket.views, H, W, 3).
    """
    groups, views = order.shape
    own = source[:: source.shape[0] // groups]
    images = None
    for number, world in enumerate(worlds):
        if world is None:
            continue
        rendered = render_groups(
            scene,
            num_views=views,
            height=bucket.height,
            width=bucket.width,
            config=world,
            photos=textures.get(number),
        ).images
        mine = (own == number)[:, None, None, None, None]
        images = rendered if images is None else jnp.where(mine, rendered, images)
    images = jnp.take_along_axis(images, order[:, :, None, None, None], axis=1)
    return images.reshape(-1, bucket.views, *images.shape[2:])
