"""Views with depth and cameras: what correspondence is measured on."""

from muskie_jax.data.posed.dataset import open_posed
from muskie_jax.data.posed.views import Group, PosedSet, PosedViews

__all__ = ["Group", "PosedSet", "PosedViews", "open_posed"]
