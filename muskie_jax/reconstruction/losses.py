"""Losses of predicted point maps and cameras, in float32 (arXiv 2511.18115; constants as published).

    total = points + normals + 0.1 camera

Predictions have no unit. They are divided by their mean distance from the cameras, and multiplied by the
scale that fits them best to the truth. Values and gradients stay finite if pixels, entire views or entire
groups have no known point. Axes: B groups, V views, H x W pixels.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jaxtyping import Bool, Float32

from muskie_jax.models.reconstruction import ReconstructionOutput
from muskie_jax.reconstruction.alignment import alignment_scale
from muskie_jax.reconstruction.targets import ReconstructionTargets

CAMERA_WEIGHT = 0.1
NEAREST_DEPTH = 0.1  # of the mean depth of a view; nearer points weigh no more than points at this depth
DEPTH_OFFSET = 1e-6
SMALLEST_ANGLE, LARGEST_ANGLE = math.radians(1), math.radians(90)  # between predicted and true normals
SINE_OFFSET = 1e-12  # added to |a x b|, where a and b are normals, not of unit length
ANGLE_BETA = math.radians(3)  # below it, the error of an angle is quadratic
EDGE = 0.03  # relative range of depth in 3x3 pixels, above which they are at an edge
CORNERS = 4  # of a quad of pixels
TRANSLATION_WEIGHT, TRANSLATION_DELTA = 100.0, 0.1  # Huber loss
COSINE_MARGIN = 1e-6


@struct.dataclass
class ReconstructionLosses:
    """The objective and its terms.

    Attributes:
      total: the objective, () float32.
      points, normals, camera: its terms, before they are weighted.
      translation, rotation: the terms of `camera`; `rotation` is an angle in radians.
      scale: the factor that aligns each group's normalised prediction with the truth; 0 without a valid
        point.
    """

    total: Float32[Array, ""]
    points: Float32[Array, ""]
    normals: Float32[Array, ""]
    camera: Float32[Array, ""]
    translation: Float32[Array, ""]
    rotation: Float32[Array, ""]
    scale: Float32[Array, " B"]


def reconstruction_losses(
    output: ReconstructionOutput, targets: ReconstructionTargets
) -> ReconstructionLosses:
    """Returns the losses of a batch.

    Points and angles are averaged over the batch, so that a group counts by its number of valid points. The
    translations of a group without a valid point do not count, since its unit is not known.
    """
    valid, true = targets.valid, targets.local_points.astype(jnp.float32)
    true = jnp.where(valid[..., None], true, 0)
    local_points = jnp.where(valid[..., None], output.local_points.astype(jnp.float32), 0)
    unit = _masked_mean(_norm(local_points), valid, (1, 2, 3))
    unit = jnp.where(unit > 0, unit, 1)
    predicted = local_points / _per_pixel(unit)[..., None]
    weights = point_weights(true[..., 2], valid)
    scale = alignment_scale(predicted, true, weights, valid)
    predicted = predicted * _per_pixel(scale)[..., None]

    errors = (weights[..., None] * jnp.abs(predicted - true)).mean(-1)
    points = _masked_mean(errors, valid, (0, 1, 2, 3))
    normals = normal_loss(local_points, true, valid, scale / unit)
    has_points = valid.any((1, 2, 3))
    translation, rotation = camera_losses(
        output.camera_to_world.astype(jnp.float32),
        targets.camera_to_world.astype(jnp.float32),
        scale / unit,
        has_points,
    )
    camera = TRANSLATION_WEIGHT * translation + rotation
    total = points + normals + CAMERA_WEIGHT * camera
    return ReconstructionLosses(total, points, normals, camera, translation, rotation, scale)


def point_weights(
    depth: Float32[Array, "B V H W"], valid: Bool[Array, "B V H W"]
) -> Float32[Array, "B V H W"]:
    """Returns the weight of each point's error, the inverse of its true depth, limited for near points."""
    nearest = NEAREST_DEPTH * _masked_mean(depth, valid, (2, 3))
    return 1 / (jnp.maximum(depth, nearest[..., None, None]) + DEPTH_OFFSET)


def normal_loss(
    predicted: Float32[Array, "B V H W 3"],
    true: Float32[Array, "B V H W 3"],
    valid: Bool[Array, "B V H W"],
    scale: Float32[Array, " B"],
) -> Float32[Array, ""]:
    """Returns the error of surface normals, averaged over quads of neighbouring pixels.

    Each corner of a quad has a normal, the cross product of the edges to its two neighbours. A corner
    counts if its three points are valid and not at an edge of depth.

    Args:
      predicted: predicted points.
      true: true points, finite everywhere.
      valid: where `true` is known.
      scale: factor of the predicted points, which affects angles only through SINE_OFFSET. It multiplies
        the normals, since differences of scaled points would round.
    """
    area = _per_pixel(scale**2)[..., None]
    usable = valid & ~depth_edges(true[..., 2])
    height, width = usable.shape[2:]
    total = jnp.float32(0)
    for corner, first, second in _corners():
        counts = usable[corner] & usable[first] & usable[second]
        normal = lambda x: jnp.cross(x[first] - x[corner], x[second] - x[corner])  # noqa: B023
        angle = angles_between(area * normal(predicted), normal(true), counts)
        angle = jnp.clip(angle, SMALLEST_ANGLE, LARGEST_ANGLE)
        error = jnp.where(angle < ANGLE_BETA, angle**2 / (2 * ANGLE_BETA), angle - ANGLE_BETA / 2)
        total += jnp.where(counts, error, 0).mean()
    return total / (CORNERS * max(height, width))


def _corners():
    """Yields the slices of a corner of all quads, and of its two neighbours, four times."""
    start, stop = slice(None, -1), slice(1, None)
    at = lambda row, column: (slice(None), slice(None), row, column)
    for row, other_row in ((start, stop), (stop, start)):
        for column, other_column in ((start, stop), (stop, start)):
            yield at(row, column), at(other_row, column), at(row, other_column)


def depth_edges(depth: Float32[Array, "B V H W"]) -> Bool[Array, "B V H W"]:
    """Returns where depth varies within 3x3 pixels by more than EDGE times that of the central pixel."""
    window, strides = (1, 1, 3, 3), (1, 1, 1, 1)
    largest = jax.lax.reduce_window(depth, -jnp.inf, jax.lax.max, window, strides, "SAME")
    smallest = jax.lax.reduce_window(depth, jnp.inf, jax.lax.min, window, strides, "SAME")
    return largest - smallest > EDGE * depth


def angles_between(
    a: Float32[Array, "*batch 3"], b: Float32[Array, "*batch 3"], counts: Bool[Array, "*batch"]
) -> Float32[Array, "*batch"]:
    """Returns the angles between vectors, in radians.

    Where `counts` is False or a vector is 0, the angle is pi / 2, without a gradient.
    """
    known = counts & (a != 0).any(-1) & (b != 0).any(-1)
    sine = _norm(jnp.cross(a, b)) + SINE_OFFSET
    return jnp.where(known, jnp.arctan2(sine, (a * b).sum(-1)), jnp.pi / 2)


def camera_losses(
    predicted: Float32[Array, "B V 4 4"],
    true: Float32[Array, "B V 4 4"],
    scale: Float32[Array, " B"],
    has_points: Bool[Array, " B"],
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    """Returns the mean errors of relative translation and rotation over all ordered pairs of views.

    Args:
      predicted, true: camera-to-world poses.
      scale: factor of the predicted translations.
      has_points: groups whose translations count.

    Returns:
      The Huber loss of translations, and the angle of rotations in radians. Both are 0 for single views.
    """
    views = predicted.shape[1]
    pair = ~jnp.eye(views, dtype=bool)
    rotations, translations = zip(*(_relative_poses(x) for x in (predicted, true)))
    difference = jnp.abs(scale[:, None, None, None] * translations[0] - translations[1])
    huber = jnp.where(
        difference <= TRANSLATION_DELTA,
        difference**2 / 2,
        TRANSLATION_DELTA * (difference - TRANSLATION_DELTA / 2),
    )
    translation = _masked_mean(huber.mean(-1), pair & has_points[:, None, None], (0, 1, 2))
    cosine = ((rotations[0] * rotations[1]).sum((-2, -1)) - 1) / 2  # trace of RᵀR'
    angle = jnp.arccos(jnp.clip(cosine, COSINE_MARGIN - 1, 1 - COSINE_MARGIN))
    return translation, _masked_mean(angle, jnp.broadcast_to(pair, angle.shape), (0, 1, 2))


def _relative_poses(
    camera_to_world: Float32[Array, "B V 4 4"],
) -> tuple[Float32[Array, "B V V 3 3"], Float32[Array, "B V V 3"]]:
    """Returns rotation and translation of inv(T_i) T_j, for all views i and j."""
    rotation, centre = camera_to_world[..., :3, :3], camera_to_world[..., :3, 3]
    offset = centre[:, None] - centre[:, :, None]
    product = lambda equation, *arrays: jnp.einsum(equation, *arrays, precision="highest")
    return product("bikm,bjkn->bijmn", rotation, rotation), product("bikm,bijk->bijm", rotation, offset)


def _masked_mean(x: Array, mask: Array, axes: tuple[int, ...]) -> Array:
    """Returns means over the axes where the mask is True; 0 where it never is."""
    return jnp.where(mask, x, 0).sum(axes) / jnp.maximum(mask.sum(axes), 1)


def _norm(x: Array) -> Array:
    """Returns lengths of vectors; the gradient at 0 is 0."""
    squared = jnp.square(x).sum(-1)
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)


def _per_pixel(x: Array) -> Array:
    """Reshapes one number per group, (B,), to (B, 1, 1, 1)."""
    return x[:, None, None, None]
