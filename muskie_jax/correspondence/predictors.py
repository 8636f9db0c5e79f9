"""Predicts the positions of points of the first view in the other views, from attention or features.

Axes: V views, H x W pixels, N points, h x w cells of a view's patch grid, L = h*w, F channels. Positions
are (column, row); a point is a pixel of the first view.

Protocol "targets" uses one convention throughout: cells and pixels are squares, and a pixel's position
means its centre. Protocol "published" follows the conventions of the paper's evaluation (see `scores`).
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32, Real

TEMPERATURE = 1e-4  # temperature of the soft-argmax over attention weights, as published


def attention_predictor(
    maps: Float[Array, "V L L"],
    points: Real[Array, "N 2"],
    size: tuple[int, int],
    grid: tuple[int, int],
    protocol: str,
) -> Float32[Array, "N V 2"]:
    """Predicts positions with the published method: soft-argmax flow, interpolated from cells to pixels.

    Args:
      maps: attention between cells of the first view (axis 1) and cells of view v (axis 2), from
        `symmetric_maps`.
      points: pixels of the first view.
      size: (H, W), in pixels.
      grid: (h, w), in cells.
      protocol: "targets" or "published".
    """
    flow = soft_argmax(maps, grid) - cell_indices(grid)  # (V, L, 2), in cells
    scale = cell_size(size, grid)
    if protocol == "published":
        # The flow is upsampled to H x W, and sampled at ((n + 1) W - 1) / 2 with n = 2 u / (W - 1) - 1.
        extent = jnp.array(size[::-1])
        coords = points * extent / (extent - 1) - 0.5
        displacement = bilinear_sample_upsampled(flow.reshape(-1, *grid, 2), coords, size)
    else:
        displacement = bilinear_sample(flow.reshape(-1, *grid, 2), (points + 0.5) / scale - 0.5)
    return points[:, None] + scale * displacement.swapaxes(0, 1)


def symmetric_maps(
    to_others: Float[Array, "L V L"], to_first: Float[Array, "V L L"]
) -> Float[Array, "V L L"]:
    """Averages attention from the first view to view v and from view v to the first.

    Args:
      to_others: attention weights of the first view's queries over the keys of every view.
      to_first: attention weights of every view's queries over the first view's keys.

    Returns:
      One map per view v. Axis 1 is the cell of the first view; axis 2 is the cell of view v.
    """
    return (to_others.swapaxes(0, 1) + to_first.swapaxes(1, 2)) / 2


def feature_predictor(
    features: Float[Array, "V h w F"], points: Real[Array, "N 2"], size: tuple[int, int], protocol: str
) -> Float32[Array, "N V 2"]:
    """Predicts, in each view, the cell with the feature nearest (Euclidean) to the point's feature."""
    views, rows, columns, channels = features.shape
    grid = (rows, columns)
    scale = cell_size(size, grid)
    if protocol == "published":
        # Samples at (u w / W, v h / H), normalised by w - 1 and h - 1, as images are sampled.
        extent = jnp.array(grid[::-1])
        coords = points / scale * extent / (extent - 1) - 0.5
        query = bilinear_sample(features[:1], coords, outside_is_zero=True)[0]
    else:
        query = bilinear_sample(features[:1], (points + 0.5) / scale - 0.5)[0]
    best = similarity(query, features.reshape(views, -1, channels)).argmax(-1)  # (N, V)
    cell = jnp.stack([best % columns, best // columns], -1)
    return cell * scale if protocol == "published" else (cell + 0.5) * scale - 0.5


def similarity(query: Float[Array, "N F"], cells: Float[Array, "V L F"]) -> Float32[Array, "N V L"]:
    """Returns the negative squared Euclidean distance between features."""
    product = jnp.einsum(
        "nf,vlf->nvl", query, cells, preferred_element_type=jnp.float32, precision="highest"
    )
    squared_norms = jnp.square(cells.astype(jnp.float32)).sum(-1)
    return 2 * product - squared_norms - jnp.square(query.astype(jnp.float32)).sum(-1)[:, None, None]


def cell_indices(grid: tuple[int, int]) -> Float32[Array, "L 2"]:
    """Returns the column and row of each cell, in row-major order."""
    rows, columns = jnp.indices(grid, jnp.float32).reshape(2, -1)
    return jnp.stack([columns, rows], -1)


def cell_size(size: tuple[int, int], grid: tuple[int, int]) -> Float32[Array, "2"]:
    """Returns the width and height of a cell, in pixels."""
    return jnp.array([size[1] / grid[1], size[0] / grid[0]], jnp.float32)


def soft_argmax(maps: Float[Array, "*batch L"], grid: tuple[int, int]) -> Float32[Array, "*batch 2"]:
    """Returns the mean (column, row) under a softmax of the last axis with temperature TEMPERATURE."""
    weights = jax.nn.softmax(maps.astype(jnp.float32) / TEMPERATURE, axis=-1)
    return jnp.einsum("...l,lc->...c", weights, cell_indices(grid), precision="highest")


def bilinear_sample(
    maps: Float[Array, "V h w C"], coords: Float[Array, "*#V N 2"], outside_is_zero: bool = False
) -> Float32[Array, "V N C"]:
    """Samples maps bilinearly.

    Args:
      maps: the maps; the centre of cell (0, 0) is at (0, 0).
      coords: (column, row) coordinates, the same for all maps or one set per map.
      outside_is_zero: whether to pad maps with zeros; if not, their border is repeated.
    """
    limit = jnp.array([maps.shape[2] - 1, maps.shape[1] - 1])
    coords = jnp.broadcast_to(coords, (len(maps), *coords.shape[-2:]))
    if not outside_is_zero:
        coords = jnp.clip(coords, 0, limit)
    base = jnp.floor(coords).astype(jnp.int32)
    views = jnp.arange(len(maps))[:, None]
    total = jnp.zeros((*coords.shape[:2], maps.shape[-1]), jnp.float32)
    for offset in ((0, 0), (1, 0), (0, 1), (1, 1)):
        corner = base + jnp.array(offset)
        weight = jnp.prod(1 - jnp.abs(coords - corner), -1, keepdims=True)
        inside = ((corner >= 0) & (corner <= limit)).all(-1, keepdims=True)
        column, row = jnp.moveaxis(jnp.clip(corner, 0, limit), -1, 0)
        total += jnp.where(inside, weight * maps[views, row, column], 0)
    return total


def bilinear_sample_upsampled(
    maps: Float[Array, "V h w C"], coords: Float[Array, "N 2"], size: tuple[int, int]
) -> Float32[Array, "V N C"]:
    """Samples maps as if they were upsampled to the image size, without storing the upsampled maps.

    The result equals bilinear upsampling to H x W (half-pixel convention), then bilinear sampling with zero
    padding. Only the pixels next to `coords` are computed.

    Args:
      maps: the maps to sample.
      coords: (column, row) coordinates, in pixels of the image.
      size: (H, W), in pixels.
    """
    _, rows, columns, _ = maps.shape
    scale, extent = cell_size(size, (rows, columns)), jnp.array(size[::-1])
    base = jnp.floor(coords)
    total = 0.0
    for offset in ((0, 0), (1, 0), (0, 1), (1, 1)):
        pixel = base + jnp.array(offset)
        weight = jnp.prod(1 - jnp.abs(coords - pixel), -1, keepdims=True)
        inside = ((pixel >= 0) & (pixel < extent)).all(-1, keepdims=True)
        total += jnp.where(inside, weight, 0) * bilinear_sample(maps, (pixel + 0.5) / scale - 0.5)
    return total
