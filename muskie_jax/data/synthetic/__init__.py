"""Unlimited synthetic training data: textured rooms, sampled from a seed and ray-cast on the device."""

from muskie_jax.data.synthetic.rays import Hits, cast_rays
from muskie_jax.data.synthetic.render import RenderedViews, render_group, render_groups
from muskie_jax.data.synthetic.scenes import Cameras, RoomScene, WorldConfig, sample_scene
from muskie_jax.data.synthetic.textures import PhotoPyramid, photo_pyramid
from muskie_jax.data.synthetic.viewpoints import sample_cameras

__all__ = [
    "Cameras",
    "Hits",
    "PhotoPyramid",
    "RenderedViews",
    "RoomScene",
    "WorldConfig",
    "cast_rays",
    "photo_pyramid",
    "render_group",
    "render_groups",
    "sample_cameras",
    "sample_scene",
]
