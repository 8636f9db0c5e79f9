"""Copies batches to the devices, and renders the images of synthetic groups there."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Int, Int32, UInt8, UInt32

from muskie_jax.buckets import Bucket, ImageSize
from muskie_jax.data.synthetic.render import render_groups
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.data.synthetic.textures import PhotoPyramid, photo_pyramid
from muskie_jax.sharding import GROUP_AXES, batch_sharding, local_rows, platform, put_batch

# Groups of several worlds that are rendered together: 4 groups of 8 views of 128x128 keep a GPU busy.
GROUPS_AT_ONCE = 4
Textures = dict[int, PhotoPyramid]  # source number -> photo textures of its world


class BatchPlacer:
    """Turns a host's batches into global arrays on the devices, and renders synthetic groups.

    A loaded group has all views drawn from a scene. An update may split it into smaller groups.

    Args:
      groups: number of loaded groups per batch, over all hosts.
      worlds: the world of each source, by source number; None for photographs.
      photos: source number -> photo textures, uint8 (N, S, S, 3).
      mesh: the device mesh.

    Attributes:
      rows: indices of the loaded groups that this host provides.
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
        self._render, self._split = _jitted_renderer(tuple(worlds), mesh), _jitted_splitter(mesh)

    def to_compile(
        self, buckets: Iterable[Bucket], views: int
    ) -> dict[str, Callable[[], jax.stages.Lowered]]:
        """Returns the lowering functions of the rendering programs, by name; see `Programs`.

        Rendering programs are slow to compile, so all buckets of an image size share one. It renders loaded
        groups of `views` views, which are split afterwards.
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
            "group_source": ((self.groups,), jnp.int32),
        }
        arguments = [self._shape(key, *shape) for key, shape in shapes.items()]
        return self._render.lower(*arguments, self._textures, size=size)

    def _lower_splitting(self, bucket: Bucket, views: int) -> jax.stages.Lowered:
        images = self._shape("images", (self.groups, views, *bucket[:2], 3), jnp.uint8)
        return self._split.lower(images, views=bucket.views)

    def _shape(self, key: str, shape: tuple[int, ...], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(key, self.mesh))

    def __call__(self, bucket: Bucket, batch: Mapping[str, np.ndarray]) -> dict[str, Array]:
        """Copies a host's batch to the devices, and renders its images if the batch has none.

        Returns:
          `images` uint8 (B, V, H, W, 3), `mask` bool (B, V, L), True = hidden, and `source` int32 (B,).
        """
        if "images" in batch:
            return put_batch(batch, self.rows, self.groups, self.mesh)
        order, source = batch["order"], batch["source"]
        order = order_for_splitting(order, bucket.views, self.mesh.shape["view"])
        group_source = source[:: len(source) // len(order)]
        on_host = {**batch, "order": order, "group_source": group_source}
        placed = put_batch(on_host, self.rows, self.groups, self.mesh)
        arguments = [placed.pop(key) for key in ("scene", "order", "group_source")]
        images = self._render(*arguments, self._textures, size=bucket[:2])
        if images.shape[1] != bucket.views:
            images = self._split(images, views=bucket.views)
        return {**placed, "images": images}


@functools.cache
def _jitted_renderer(worlds: tuple[WorldConfig | None, ...], mesh: Mesh):
    """Returns the jitted renderer. It is cached, so that training and evaluation share programs."""
    several = sum(world is not None for world in worlds) > 1

    def render(scene, order, group_source, textures, *, size):
        if not several or mesh.shape["view"] > 1:
            return render_views(scene, order, group_source, textures, size=size, worlds=worlds)
        # Each device renders its own groups. This needs no communication.
        on_device = jax.shard_map(
            functools.partial(render_by_world, size=size, worlds=worlds),
            mesh=mesh,
            in_specs=(*[P(GROUP_AXES)] * 3, P()),
            out_specs=P(GROUP_AXES),
            check_vma=False,
        )
        return on_device(scene, order, group_source, textures)

    return jax.jit(
        render,
        static_argnames=("size",),
        out_shardings=batch_sharding("images", mesh),
        compiler_options=renderer_options(platform(mesh)),
    )


def renderer_options(platform_name: str) -> dict[str, Any] | None:
    """Returns the compiler options of programs that render on "gpu", "cpu" or "tpu"."""
    # Autotuning does not speed up the renderer, and doubles its compile time.
    return {"xla_gpu_autotune_level": 0} if platform_name == "gpu" else None


@functools.cache
def _jitted_splitter(mesh: Mesh):
    return jax.jit(
        functools.partial(split_groups, shards=mesh.shape["view"]),
        static_argnames=("views",),
        out_shardings=batch_sharding("images", mesh),
    )


def order_for_splitting(
    order: Int[np.ndarray, "G loaded_views"], views: int, shards: int
) -> Int[np.ndarray, "G loaded_views"]:
    """Returns the rendering order with which `split_groups` leaves each view on its device.

    Args:
      order: the order of each loaded group's views; every `views` consecutive views become one group.
      views: number of views per group after splitting.
      shards: number of devices over which the views of a group are sharded evenly.
    """
    loaded = order.shape[1]
    parts = order.reshape(len(order), loaded // views, shards, views // shards)
    return parts.swapaxes(1, 2).reshape(order.shape)


def split_groups(
    images: UInt8[Array, "G loaded_views H W 3"], *, views: int, shards: int
) -> UInt8[Array, "B V H W 3"]:
    """Splits loaded groups, in the order of `order_for_splitting`, into groups of `views` views."""
    groups, loaded, *image = images.shape
    parts = images.reshape(groups, shards, loaded // views, views // shards, *image)
    return parts.swapaxes(1, 2).reshape(-1, views, *image)


def render_views(
    scene: UInt32[Array, "G 2"],
    order: Int32[Array, "G V"],
    group_source: Int32[Array, " G"],
    textures: Textures,
    *,
    size: ImageSize,
    worlds: tuple[WorldConfig | None, ...],
) -> UInt8[Array, "G V H W 3"]:
    """Renders loaded groups and reorders their views, as the host does with photographs.

    With several worlds, every group is rendered in each of them. `render_by_world` avoids this.

    Args:
      scene: random seed of each loaded group.
      order: new order of each group's views.
      group_source: source number of each group, which selects its world.
      textures: photo textures by source number.
      size: (H, W), in pixels.
      worlds: world of each source, by source number; at least one is not None.
    """
    images = None
    for number, render in _renderers(worlds, textures, order.shape[1], size).items():
        rendered = render(scene)
        in_world = (group_source == number)[:, None, None, None, None]
        images = rendered if images is None else jnp.where(in_world, rendered, images)
    assert images is not None
    return jnp.take_along_axis(images, order[:, :, None, None, None], axis=1)


def render_by_world(
    scene: UInt32[Array, "G 2"],
    order: Int32[Array, "G V"],
    group_source: Int32[Array, " G"],
    textures: Textures,
    *,
    size: ImageSize,
    worlds: tuple[WorldConfig | None, ...],
) -> UInt8[Array, "G V H W 3"]:
    """Does the same as `render_views` for the groups of one device, each in its world only.

    Groups are sorted by world and rendered in chunks of one world. The number of chunks is that of the
    worst case, in which each world's last chunk is not full; chunks that are not needed cost nothing.
    """
    renderers = _renderers(worlds, textures, order.shape[1], size)
    chunk = min(GROUPS_AT_ONCE, len(scene))
    by_world = group_source == jnp.array(list(renderers))[:, None]  # (worlds, G)
    counts = by_world.sum(1)
    first, chunks = jnp.cumsum(counts) - counts, -(-counts // chunk)
    ends = jnp.cumsum(chunks)
    ranked = jnp.argsort(by_world.argmax(0), stable=True)

    def step(images, number):
        world = jnp.searchsorted(ends, number, side="right")  # that of the chunk; after the last: no world
        known = jnp.minimum(world, len(renderers) - 1)
        start = first[known] + chunk * (number - ends[known] + chunks[known])
        last = first[known] + counts[known] - 1
        groups = ranked[jnp.minimum(start + jnp.arange(chunk), last)]
        branches = [lambda groups, render=render: render(scene[groups]) for render in renderers.values()]
        rendered = jax.lax.switch(world, [*branches, lambda groups: images[groups]], groups)
        return images.at[groups].set(rendered), None

    images = jnp.zeros((*order.shape, *size, 3), jnp.uint8)
    steps = -(-len(scene) // chunk) + len(renderers) - 1
    images, _ = jax.lax.scan(step, images, jnp.arange(steps))
    return jnp.take_along_axis(images, order[:, :, None, None, None], axis=1)


def _renderers(
    worlds: Sequence[WorldConfig | None], textures: Textures, views: int, size: ImageSize
) -> dict[int, Callable[[Array], Array]]:
    """Returns, by source number, the function that renders groups of a world from their seeds."""

    height, width = size

    def renderer(number: int, world: WorldConfig) -> Callable[[Array], Array]:
        return lambda seeds: (
            render_groups(
                seeds,
                num_views=views,
                height=height,
                width=width,
                config=world,
                photos=textures.get(number),
            ).images
        )

    return {number: renderer(number, world) for number, world in enumerate(worlds) if world is not None}
