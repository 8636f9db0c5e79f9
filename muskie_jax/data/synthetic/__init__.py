"""An endless synthetic world: textured rooms, sampled from a seed and ray-cast on the device."""

from muskie_jax.data.synthetic.render import RenderedViews, render_group, render_groups
from muskie_jax.data.synthetic.scenes import Cameras, Scene, WorldConfig

__all__ = ["Cameras", "RenderedViews", "Scene", "WorldConfig", "render_group", "render_groups"]
