"""Puts batches on the devices; synthetic groups are rendered there, so every batch has images."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from muskie_jax.buckets import Bucket, ImageSize
from muskie_jax.data.synthetic.render import render_groups
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.data.synthetic.textures import PhotoPyramid, photo_pyramid
from muskie_jax.sharding import batch_sharding, local_rows, platform, put_batch

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
        self._render, self._split = _renderer(tuple(worlds), mesh), _splitter(mesh)

    def to_compile(
        self, buckets: Iterable[Bucket], views: int
    ) -> dict[str, Callable[[], jax.stages.Lowered]]:
        """What traces the programs that make images of groups of `views`, by name; see `Programs`.

        Rendering takes long to compile and does not depend on how groups are split into those of a
        bucket: one program serves all buckets of an image size, and whoever renders as many groups.
        """
        if not self.synthetic:
            return {}
        lower = {}
        for bucket in buckets:
            name = f"rendering {bucket.height}x{bucket.width}, {self.groups} x {views} views"
            lower[name] = functools.partial(self._lower_rendering, bucket[:2], views)
            if bucket.views != views:
                lower[f"{name}, as groups of {bucket.views}"] = functools.partial(
                    self._lower_splitting, bucket, views
                )
        return lower

    def _lower_rendering(self, size: ImageSize, views: int) -> jax.stages.Lowered:
        shapes = {
            "scene": ((self.groups, 2), jnp.uint32),
            "order": ((self.groups, views), jnp.int32),
            "own": ((self.groups,), jnp.int32),
        }
        arguments = [self._shape(key, *shape) for key, shape in shapes.items()]
        return self._render.lower(*arguments, self._textures, size=size)

    def _lower_splitting(self, bucket: Bucket, views: int) -> jax.stages.Lowered:
        images = self._shape("images", (self.groups, views, *bucket[:2], 3), jnp.uint8)
        return self._split.lower(images, views=bucket.views)

    def _shape(self, key: str, shape: tuple[int, ...], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(key, self.mesh))

    def __call__(self, bucket: Bucket, batch: Mapping[str, np.ndarray]) -> dict[str, Array]:
        """A batch with `images`, `mask` and `source`; see "How data flows" in the README."""
        if "images" in batch:
            return put_batch(batch, self.rows, self.groups, self.mesh)
        order, source = batch["order"], batch["source"]
        order = order_for_splitting(order, bucket.views, self.mesh.shape["view"])
        own = source[:: len(source) // len(order)]
        placed = put_batch({**batch, "order": order, "own": own}, self.rows, self.groups, self.mesh)
        scene, order, own = (placed.pop(key) for key in ("scene", "order", "own"))
        images = self._render(scene, order, own, self._textures, size=bucket[:2])
        if images.shape[1] != bucket.views:
            images = self._split(images, views=bucket.views)
        return {**placed, "images": images}


@functools.cache
def _renderer(worlds: tuple[WorldConfig | None, ...], mesh: Mesh):
    """One jitted function for all who render the same worlds, so that they share its programs."""
    # There is nothing in it to choose kernels for, but looking for them doubles the time to compile.
    return jax.jit(
        functools.partial(render_views, worlds=worlds),
        static_argnames=("size",),
        out_shardings=batch_sharding("images", mesh),
        compiler_options={"xla_gpu_autotune_level": 0} if platform(mesh) == "gpu" else None,
    )


@functools.cache
def _splitter(mesh: Mesh):
    return jax.jit(
        functools.partial(split_groups, shards=mesh.shape["view"]),
        static_argnames=("views",),
        out_shardings=batch_sharding("images", mesh),
    )


def order_for_splitting(order: np.ndarray, views: int, shards: int) -> np.ndarray:
    """The order in which to render so that `split_groups` finds each view on the device that it goes to.

    Args:
      order: int (G, loaded views); groups of `views` are made of its successive parts.
      views: of a group after splitting, each of the `shards` devices that share it having equally many.
    """
    loaded = order.shape[1]
    parts = order.reshape(len(order), loaded // views, shards, views // shards)
    return parts.swapaxes(1, 2).reshape(order.shape)


def split_groups(images: Array, *, views: int, shards: int) -> Array:
    """(G, loaded views, H, W, 3), ordered by `order_for_splitting`, as (B, views, H, W, 3)."""
    groups, loaded, *image = images.shape
    parts = images.reshape(groups, shards, loaded // views, views // shards, *image)
    return parts.swapaxes(1, 2).reshape(-1, views, *image)


def render_views(
    scene: Array,
    order: Array,
    own: Array,
    textures: Textures,
    *,
    size: ImageSize,
    worlds: tuple[WorldConfig | None, ...],
) -> Array:
    """Renders loaded groups whole, then orders their views as photographs are on the host.

    Args:
      scene: uint32 (G, 2), a seed for each loaded group.
      order: int32 (G, views), the new order of its views.
      own: int32 (G,), the number of each group's source, hence of its world.
      textures: see `BatchPlacer`.
      size: H and W.
      worlds: by source number.

    Returns:
      uint8 (G, views, H, W, 3).
    """
    images = None
    for number, world in enumerate(worlds):
        if world is None:
            continue
        rendered = render_groups(
            scene,
            num_views=order.shape[1],
            height=size[0],
            width=size[1],
            config=world,
            photos=textures.get(number),
        ).images
        mine = (own == number)[:, None, None, None, None]
        images = rendered if images is None else jnp.where(mine, rendered, images)
    return jnp.take_along_axis(images, order[:, :, None, None, None], axis=1)
