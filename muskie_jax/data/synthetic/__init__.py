"""An endless synthetic world: textured rooms, sampled from a seed and ray-cast on the device."""

from muskie_jax.data.synthetic.cameras import sample_cameras
from muskie_jax.data.synthetic.rays import Hits, cast_rays
from muskie_jax.data.synthetic.render import RenderedViews, render_group, render_groups
from muskie_jax.data.synthetic.scenes import Cameras, Scene, WorldConfig, sample_scene
from muskie_jax.data.synthetic.textures import PhotoPyramid, photo_pyramid

__all__ = [
    "Cameras",
    "Hits",
    "PhotoPyramid",
    "RenderedViews",
    "Scene",
    "WorldConfig",
    "cast_rays",
    "photo_pyramid",
    "render_group",
    "render_groups",
    "sample_cameras",
    "sample_scene",
]
