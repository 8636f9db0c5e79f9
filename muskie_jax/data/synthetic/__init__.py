"""An endless synthetic world: textured rooms, sampled from a seed and ray-cast on the device."""

from muskie_jax.data.synthetic.cameras import sample_cameras
from muskie_jax.data.synthetic.rays import Hits, cast_rays
from muskie_jax.data.synthetic.render import RenderedViews, render_group, render_groups
from muskie_jax.data.synthetic.scenes import Cameras, Scene, WorldConfig, sample_scene

__all__ = [
    "Cameras",
    "Hits",
    "RenderedViews",
    "Scene",
    "WorldConfig",
    "cast_rays",
    "render_group",
    "render_groups",
    "sample_cameras",
    "sample_scene",
]
