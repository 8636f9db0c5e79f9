"""A page for the report on which predicted and true points of a group are compared in 3D."""

import numpy as np
from jaxtyping import Float

from muskie_jax.evaluators.posed_evaluator import Computed
from muskie_jax.models.reconstruction import ReconstructionOutput
from muskie_jax.reconstruction.even_choice import choose_evenly
from muskie_jax.reconstruction.field_of_view import tangents_of_intrinsics, tangents_of_points
from muskie_jax.reconstruction.point_metrics import MIN_POINTS, umeyama
from muskie_jax.viewer.page import Layer, viewer_page

POINTS = 150_000  # of each layer at most, of all views together


def geometry_page(title: str, computed: Computed, true: Float[np.ndarray, "V H W 3"]) -> str:
    """Returns a page that switches between predicted and true points and cameras, at the same pixels.

    The prediction is moved onto the true points by the best similarity. Without enough pixels of known
    depth, there is no page: the result is "".

    Args:
      title: title of the page.
      computed: a group, its views and the network's output.
      true: the point that each pixel shows, in the world frame.
    """
    views, output = computed.views, computed.output
    assert isinstance(output, ReconstructionOutput)
    chosen = choose_evenly(views.valid & (views.depth > 0), POINTS)
    if chosen.sum() < MIN_POINTS:
        return ""
    points = np.asarray(output.points, np.float64)[chosen]
    similarity = umeyama(points, true[chosen])
    cameras = np.asarray(output.camera_to_world, np.float64).copy()
    cameras[:, :3, 3] = similarity.apply(cameras[:, :3, 3])
    cameras[:, :3, :3] = similarity.rotation @ cameras[:, :3, :3]
    colours = views.images[chosen]
    predicted_tangents = tangents_of_points(np.asarray(output.local_points))
    true_tangents = tangents_of_intrinsics(views.intrinsics, views.depth.shape[1:])
    layers = [
        Layer("predicted", similarity.apply(points), colours, cameras, predicted_tangents),
        Layer("true", true[chosen], colours, np.linalg.inv(views.world_to_camera), true_tangents),
    ]
    names = [name.rsplit("/", 1)[-1] for name in computed.group.frames]
    return viewer_page(title, names, views.images, layers, reference=1)
