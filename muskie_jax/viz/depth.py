"""Picture of predicted depth: views, predicted depth, true depth."""

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib import colormaps

from muskie_jax.viz.view_sheet import view_sheet

COLOURS = "turbo"
RANGE = (2, 98)  # percentiles of a group's true depth at the ends of the colours


def depth_sheet(
    images: UInt8[np.ndarray, "B V H W 3"],
    predicted: Float[np.ndarray, "B V H W"],
    true: Float[np.ndarray, "B V H W"],
    valid: Bool[np.ndarray, "B V H W"],
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws one sheet with three rows per group and one column per view.

    The colours of a group have one range, of inverse depth. Each group's prediction is multiplied by the
    median ratio of truth and prediction, since its scale is arbitrary.

    Args:
      images: the views.
      predicted, true: depth, in any unit.
      valid: where the truth is known; other pixels of it are black.
    """
    rows = {"view": images, "predicted": np.zeros_like(images), "true": np.zeros_like(images)}
    for group, known in enumerate(valid):
        if not known.any():
            continue
        scale = np.median(true[group][known] / predicted[group][known])
        near, far = (1 / np.percentile(true[group][known], percent) for percent in RANGE)
        for name, depth in (("predicted", scale * predicted[group]), ("true", true[group])):
            inverse = 1 / np.where(depth > 0, depth, np.inf)
            shade = np.clip((inverse - far) / max(near - far, 1e-9), 0, 1)
            rows[name][group] = np.round(255 * colormaps[COLOURS](shade)[..., :3]).astype(np.uint8)
        rows["true"][group] *= known[..., None]
    return view_sheet(rows)
