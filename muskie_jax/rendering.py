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
from jaxtyping import Int, Int32, Shaped, UInt32

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
      geometry: whether to render depth and cameras too.

    Attributes:
      rows: indices of the loaded groups that this host provides.
    """

    def __init__(
        self,
        groups: int,
        worlds: Sequence[WorldConfig | None],
        photos: Mapping[int, np.ndarray],
        mesh: Mesh,
        geometry: bool = False,
    ):
        self.groups, self.mesh, self.geometry = groups, mesh, geometry
        self.rows = local_rows(groups, mesh)
        self.synthetic = any(world is not None for world in worlds)
        pyramids = {number: photo_pyramid(jnp.asarray(bank)) for number, bank in photos.items()}
        self._textures = jax.device_put(pyramids, NamedSharding(mesh, P()))
        self._render, self._split = _jitted_renderer(tuple(worlds), mesh, geometry), _jitted_splitter(mesh)

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
        rendered = {"images": self._shape("images", (self.groups, views, *bucket[:2], 3), jnp.uint8)}
        if self.geometry:
            of_views = {"depth": bucket[:2], "intrinsics": (3, 3), "world_to_camera": (4, 4)}
            for key, shape in of_views.items():
                rendered[key] = self._shape(key, (self.groups, views, *shape), jnp.float32)
        return self._split.lower(rendered, views=bucket.views)

    def _shape(self, key: str, shape: tuple[int, ...], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(key, self.mesh))

    def __call__(self, bucket: Bucket, batch: Mapping[str, np.ndarray]) -> dict[str, Array]:
        """Copies a host's batch to the devices, and renders its images if the batch has none.

        Returns:
          `images` uint8 (B, V, H, W, 3), `source` int32 (B,), and either `mask` bool (B, V, L), True =
          hidden, or GEOMETRY: `depth` (B, V, H, W) in metres, 0 = unknown, `intrinsics` (B, V, 3, 3) in
          pixels and `world_to_camera` (B, V, 4, 4).
        """
        if "images" in batch:
            return put_batch(batch, self.rows, self.groups, self.mesh)
        order, source = batch["order"], batch["source"]
        order = order_for_splitting(order, bucket.views, self.mesh.shape["view"])
        group_source = source[:: len(source) // len(order)]
        on_host = {**batch, "order": order, "group_source": group_source}
        placed = put_batch(on_host, self.rows, self.groups, self.mesh)
        arguments = [placed.pop(key) for key in ("scene", "order", "group_source")]
        rendered = self._render(*arguments, self._textures, size=bucket[:2])
        if rendered["images"].shape[1] != bucket.views:
            rendered = self._split(rendered, views=bucket.views)
        return placed | rendered


@functools.cache
def _jitted_renderer(worlds: tuple[WorldConfig | None, ...], mesh: Mesh, geometry: bool):
    """Returns the jitted renderer. It is cached, so that training and evaluation share programs."""
    several = sum(world is not None for world in worlds) > 1

    def render(scene, order, group_source, textures, *, size):
        if not several or mesh.shape["view"] > 1:
            return render_views(
                scene, order, group_source, textures, size=size, worlds=worlds, geometry=geometry
            )
        # Each device renders its own groups. This needs no communication.
        on_device = jax.shard_map(
            functools.partial(render_by_world, size=size, worlds=worlds, geometry=geometry),
            mesh=mesh,
            in_specs=(*[P(GROUP_AXES)] * 3, P()),
            out_specs=P(GROUP_AXES),
            check_vma=False,
        )
        return on_device(scene, order, group_source, textures)

    return jax.jit(
        render,
        static_argnames=("size",),
        out_shardings=_rendered_sharding(mesh),
        compiler_options=renderer_options(platform(mesh)),
    )


def renderer_options(platform_name: str) -> dict[str, Any] | None:
    """Returns the compiler options of programs that render on "gpu", "cpu" or "tpu"."""
    # Autotuning does not speed up the renderer, and doubles its compile time.
    return {"xla_gpu_autotune_level": 0} if platform_name == "gpu" else None


@functools.cache
def _jitted_splitter(mesh: Mesh):
    def split(rendered: dict[str, Array], views: int) -> dict[str, Array]:
        split_one = functools.partial(split_groups, views=views, shards=mesh.shape["view"])
        return jax.tree.map(split_one, rendered)

    return jax.jit(split, static_argnames=("views",), out_shardings=_rendered_sharding(mesh))


def _rendered_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of all rendered arrays: over groups and views."""
    return batch_sharding("images", mesh)


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
    of_views: Shaped[Array, "G loaded_views *rest"], *, views: int, shards: int
) -> Shaped[Array, "B V *rest"]:
    """Splits loaded groups, in the order of `order_for_splitting`, into groups of `views` views."""
    groups, loaded, *rest = of_views.shape
    parts = of_views.reshape(groups, shards, loaded // views, views // shards, *rest)
    return parts.swapaxes(1, 2).reshape(-1, views, *rest)


def render_views(
    scene: UInt32[Array, "G 2"],
    order: Int32[Array, "G V"],
    group_source: Int32[Array, " G"],
    textures: Textures,
    *,
    size: ImageSize,
    worlds: tuple[WorldConfig | None, ...],
    geometry: bool = False,
) -> dict[str, Shaped[Array, "G V ..."]]:
    """Renders loaded groups and reorders their views, as the host does with photographs.

    With several worlds, every group is rendered in each of them. `render_by_world` avoids this.

    Args:
      scene: random seed of each loaded group.
      order: new order of each group's views.
      group_source: source number of each group, which selects its world.
      textures: photo textures by source number.
      size: (H, W), in pixels.
      worlds: world of each source, by source number; at least one is not None.
      geometry: whether to render depth and cameras too.

    Returns:
      `images`, uint8 (G, V, H, W, 3), and GEOMETRY on request, see `BatchPlacer`.
    """
    views: dict[str, Array] = {}
    for number, render in _renderers(worlds, textures, order.shape[1], size, geometry).items():
        rendered, in_world = render(scene), group_source == number
        choose = lambda new, old: jnp.where(_to_rank(in_world, new.ndim), new, old)  # noqa: B023
        views = jax.tree.map(choose, rendered, views) if views else rendered
    return _reordered(views, order)


def render_by_world(
    scene: UInt32[Array, "G 2"],
    order: Int32[Array, "G V"],
    group_source: Int32[Array, " G"],
    textures: Textures,
    *,
    size: ImageSize,
    worlds: tuple[WorldConfig | None, ...],
    geometry: bool = False,
) -> dict[str, Shaped[Array, "G V ..."]]:
    """Does the same as `render_views` for the groups of one device, each in its world only.

    Groups are sorted by world and rendered in chunks of one world. The number of chunks is that of the
    worst case, in which each world's last chunk is not full; chunks that are not needed cost nothing.
    """
    renderers = _renderers(worlds, textures, order.shape[1], size, geometry)
    chunk = min(GROUPS_AT_ONCE, len(scene))
    by_world = group_source == jnp.array(list(renderers))[:, None]  # (worlds, G)
    counts = by_world.sum(1)
    first, chunks = jnp.cumsum(counts) - counts, -(-counts // chunk)
    ends = jnp.cumsum(chunks)
    ranked = jnp.argsort(by_world.argmax(0), stable=True)

    def step(views, number):
        world = jnp.searchsorted(ends, number, side="right")  # that of the chunk; after the last: no world
        known = jnp.minimum(world, len(renderers) - 1)
        start = first[known] + chunk * (number - ends[known] + chunks[known])
        last = first[known] + counts[known] - 1
        groups = ranked[jnp.minimum(start + jnp.arange(chunk), last)]
        keep = lambda groups: jax.tree.map(lambda x: x[groups], views)
        branches = [lambda groups, render=render: render(scene[groups]) for render in renderers.values()]
        rendered = jax.lax.switch(world, [*branches, keep], groups)
        return jax.tree.map(lambda x, new: x.at[groups].set(new), views, rendered), None

    shapes = jax.eval_shape(next(iter(renderers.values())), scene)
    views = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    steps = -(-len(scene) // chunk) + len(renderers) - 1
    views, _ = jax.lax.scan(step, views, jnp.arange(steps))
    return _reordered(views, order)


def _renderers(
    worlds: Sequence[WorldConfig | None], textures: Textures, views: int, size: ImageSize, geometry: bool
) -> dict[int, Callable[[Array], dict[str, Array]]]:
    """Returns, by source number, the function that renders groups of a world from their seeds."""
    height, width = size

    def renderer(number: int, world: WorldConfig) -> Callable[[Array], dict[str, Array]]:
        def render(seeds: Array) -> dict[str, Array]:
            group = render_groups(
                seeds,
                num_views=views,
                height=height,
                width=width,
                config=world,
                photos=textures.get(number),
                with_geometry=geometry,
            )
            rendered: dict[str, Array] = {"images": group.images}
            if geometry:
                assert group.cameras is not None and group.depth is not None
                rendered["depth"] = group.depth
                rendered["intrinsics"] = group.cameras.intrinsics
                rendered["world_to_camera"] = group.cameras.world_to_camera
            return rendered

        return render

    return {number: renderer(number, world) for number, world in enumerate(worlds) if world is not None}


def _reordered(views: dict[str, Array], order: Array) -> dict[str, Array]:
    return jax.tree.map(lambda x: jnp.take_along_axis(x, _to_rank(order, x.ndim), axis=1), views)


def _to_rank(x: Array, rank: int) -> Array:
    """Appends axes of length 1."""
    return x.reshape(*x.shape, *(1,) * (rank - x.ndim))
