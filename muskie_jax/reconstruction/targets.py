"""Training targets of point maps and cameras, from depth maps and poses. Axes: B groups, V views, H x W."""

import jax.numpy as jnp
from flax import struct
from jax import Array
from jaxtyping import Bool, Float, Float32

from muskie_jax.models.camera_head import rigid_transform
from muskie_jax.models.reconstruction import transform_points

EXTRA_COUNT = 1e-3  # added to the number of valid points of a group, as published
SCALE_RANGE = (1e-6, 1e6)


@struct.dataclass
class ReconstructionTargets:
    """True point maps and cameras, float32, in units of their group.

    A group's unit is the mean distance of its valid points from the camera of view 0.

    Attributes:
      local_points: the point that each pixel shows, in its view's camera frame; 0 where it is not valid.
      points: the same in the camera frame of view 0; 0 where it is not valid.
      camera_to_world: rigid transform from each view's camera frame to that of view 0.
      valid: whether the point of a pixel is known.
    """

    local_points: Float32[Array, "B V H W 3"]
    points: Float32[Array, "B V H W 3"]
    camera_to_world: Float32[Array, "B V 4 4"]
    valid: Bool[Array, "B V H W"]


def reconstruction_targets(
    depth: Float[Array, "B V H W"],
    intrinsics: Float[Array, "*#views 3 3"],
    world_to_camera: Float[Array, "B V rows 4"],
    valid: Bool[Array, "B V H W"] | None = None,
    *,
    pixel_centre: float = 0.5,
) -> ReconstructionTargets:
    """Returns the targets of a batch.

    Args:
      depth: z-depth in any unit. Points are not valid where it is not positive or not finite.
      intrinsics: camera matrices in pixels, one per view (B, V, 3, 3), or one for all, (3, 3).
      world_to_camera: rigid transforms, finite, (B, V, 3, 4) or (B, V, 4, 4), in the unit of depth.
      valid: where depth can be trusted; None means everywhere.
      pixel_centre: position of a pixel's centre within the pixel, along both axes, in the convention of
        `intrinsics`: 0.5 in this package, 0 in the published code.
    """
    depth, pose = depth.astype(jnp.float32), world_to_camera.astype(jnp.float32)
    known = jnp.isfinite(depth) & (depth > 0)
    valid = known if valid is None else known & valid
    depth = jnp.where(valid, depth, 0)

    rotation, translation = pose[..., :3, :3], pose[..., :3, 3]
    product = lambda equation, *arrays: jnp.einsum(equation, *arrays, precision="highest")
    # Camera-to-world is (Rᵀ, -Rᵀ t), then world to view 0.
    to_first = product("bij,bvkj->bvik", rotation[:, 0], rotation)
    centre = translation[:, :1] - product("bvij,bvj->bvi", to_first, translation)

    height, width = depth.shape[2:]
    rows, columns = jnp.indices((height, width), jnp.float32) + pixel_centre
    pixels = jnp.stack([columns, rows, jnp.ones_like(rows)], axis=-1)
    to_rays = jnp.broadcast_to(jnp.linalg.inv(intrinsics.astype(jnp.float32)), (*depth.shape[:2], 3, 3))
    local_points = product("bvij,hwj->bvhwi", to_rays, pixels) * depth[..., None]
    local_points = jnp.where(valid[..., None], local_points, 0)  # a view without points may lack intrinsics
    points = transform_points(rigid_transform(to_first, centre), local_points) * valid[..., None]

    total = (jnp.sqrt(jnp.square(points).sum(-1)) * valid).sum((1, 2, 3))
    unit = jnp.clip(total / (valid.sum((1, 2, 3)) + EXTRA_COUNT), *SCALE_RANGE)
    per_pixel = unit[:, None, None, None, None]
    return ReconstructionTargets(
        local_points=local_points / per_pixel,
        points=points / per_pixel,
        camera_to_world=rigid_transform(to_first, centre / unit[:, None, None]),
        valid=valid,
    )
