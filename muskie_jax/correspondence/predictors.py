"""Where a network thinks that points of the first view are in the others.

Letters in shapes: V views, H x W pixels, N points; L = h x w cells of a view's grid of patches; F
channels. Positions are (column, row); a point is a pixel of the first view. With protocol "published"
maps are read as the paper's evaluation reads them (see `scores`); with "targets" cells and pixels are
squares, and a pixel is where its centre is.
"""

import jax
import jax.numpy as jnp
from jax import Array

TEMPERATURE = 1e-4  # of the soft-argmax over attention weights, as published
NEAR = 1  # cells to each side of the best that a refined answer is the mean of


def attention_predictor(
    maps: Array, points: Array, size: tuple[int, int], grid: tuple[int, int], protocol: str
) -> Array:
    """The published way to read correspondence from attention: a flow of cells, interpolated.

    Args:
      maps: float (V, L, L), how much each cell of the first view [query] and each of view v [key] attend
        to each other: see `symmetric_maps`.
      points: (N, 2).
      size: H and W.
      grid: h and w.

    Returns:
      float32 (N, V, 2).
    """
    flow = soft_argmax(maps, grid) - cell_indices(grid)  # (V, L, 2)
    scale = cell_size(size, grid)
    if protocol == "published":
        # The flow is made as large as the image, and read at ((n + 1) W - 1) / 2, n = 2 u / (W - 1) - 1.
        extent = jnp.array(size[::-1])
        place = points * extent / (extent - 1) - 0.5
        moved = read_enlarged(flow.reshape(-1, *grid, 2), place, size)
    else:
        moved = bilinear_sample(flow.reshape(-1, *grid, 2), (points + 0.5) / scale - 0.5)
    return points[:, None] + scale * moved.swapaxes(0, 1)


def symmetric_maps(to_others: Array, to_first: Array) -> Array:
    """Attention in both directions, averaged.

    Args:
      to_others: float (L, V, L), weights of the first view's queries.
      to_first: float (V, L, L), weights of every view's queries on the first view's keys.

    Returns:
      float (V, L, L): the first view's cell, then view v's.
    """
    return (to_others.swapaxes(0, 1) + to_first.swapaxes(1, 2)) / 2


def feature_predictor(features: Array, points: Array, size: tuple[int, int], protocol: str) -> Array:
    """The cell whose feature is nearest to the point's: features (V, h, w, F) -> float32 (N, V, 2)."""
    views, *grid, channels = features.shape
    scale = cell_size(size, grid)
    if protocol == "published":
        # At (u w / W, v h / H), normalised by w - 1 and h - 1 and read as images are.
        extent = jnp.array(grid[::-1])
        place = points / scale * extent / (extent - 1) - 0.5
        query = bilinear_sample(features[:1], place, outside_is_zero=True)[0]
    else:
        query = bilinear_sample(features[:1], (points + 0.5) / scale - 0.5)[0]
    best = similarity(query, features.reshape(views, -1, channels)).argmax(-1)  # (N, V)
    cell = jnp.stack([best % grid[1], best // grid[1]], -1)
    return cell * scale if protocol == "published" else (cell + 0.5) * scale - 0.5


def similarity(query: Array, cells: Array) -> Array:
    """Minus the squared distance of features: (N, F), (V, L, F) -> float32 (N, V, L)."""
    product = jnp.einsum(
        "nf,vlf->nvl", query, cells, preferred_element_type=jnp.float32, precision="highest"
    )
    lengths = jnp.square(cells.astype(jnp.float32)).sum(-1)
    return 2 * product - lengths - jnp.square(query.astype(jnp.float32)).sum(-1)[:, None, None]


def cell_indices(grid: tuple[int, int]) -> Array:
    """(L, 2): column and row of each cell."""
    rows, columns = jnp.indices(grid, jnp.float32).reshape(2, -1)
    return jnp.stack([columns, rows], -1)


def cell_size(size: tuple[int, int], grid: tuple[int, int]) -> Array:
    """Width and height of a cell, pixels."""
    return jnp.array([size[1] / grid[1], size[0] / grid[0]], jnp.float32)


def soft_argmax(maps: Array, grid: tuple[int, int]) -> Array:
    """The mean cell under a sharp softmax of the last axis: (..., L) -> (..., 2), column and row."""
    weights = jax.nn.softmax(maps.astype(jnp.float32) / TEMPERATURE, axis=-1)
    return jnp.einsum("...l,lc->...c", weights, cell_indices(grid), precision="highest")


def bilinear_sample(maps: Array, place: Array, outside_is_zero: bool = False) -> Array:
    """Maps between their cells: (V, h, w, C) at positions (N, 2), or (V, N, 2) -> (V, N, C).

    Cell (0, 0) is at position (0, 0). Outside, a map is zero or goes on as at its border.
    """
    limit = jnp.array([maps.shape[2] - 1, maps.shape[1] - 1])
    place = jnp.broadcast_to(place, (len(maps), *place.shape[-2:]))
    if not outside_is_zero:
        place = jnp.clip(place, 0, limit)
    base = jnp.floor(place).astype(jnp.int32)
    views = jnp.arange(len(maps))[:, None]
    total = jnp.zeros((*place.shape[:2], maps.shape[-1]), jnp.float32)
    for offset in ((0, 0), (1, 0), (0, 1), (1, 1)):
        corner = base + jnp.array(offset)
        share = jnp.prod(1 - jnp.abs(place - corner), -1, keepdims=True)
        inside = ((corner >= 0) & (corner <= limit)).all(-1, keepdims=True)
        column, row = jnp.moveaxis(jnp.clip(corner, 0, limit), -1, 0)
        total += jnp.where(inside, share * maps[views, row, column], 0)
    return total


def read_enlarged(maps: Array, place: Array, size: tuple[int, int]) -> Array:
    """What `bilinear_sample` would find in maps enlarged to the image, H x W, by interpolation.

    Only the pixels that are read are made. Outside the image is zero.
    """
    scale, extent = cell_size(size, maps.shape[1:3]), jnp.array(size[::-1])
    base = jnp.floor(place)
    total = 0.0
    for offset in ((0, 0), (1, 0), (0, 1), (1, 1)):
        pixel = base + jnp.array(offset)
        share = jnp.prod(1 - jnp.abs(place - pixel), -1, keepdims=True)
        inside = ((pixel >= 0) & (pixel < extent)).all(-1, keepdims=True)
        total += jnp.where(inside, share, 0) * bilinear_sample(maps, (pixel + 0.5) / scale - 0.5)
    return total
