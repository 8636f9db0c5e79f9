"""The picture of a reconstruction: what the network saw, what it said, how sure it was, the truth."""

import numpy as np
from matplotlib import colormaps

from muskie_jax.viz.view_sheet import view_sheet

ROWS = ("input", "prediction", "confidence", "truth")
HIDDEN_GREY = 0.5


def reconstruction_sheet(
    images: np.ndarray, mask: np.ndarray, pred: np.ndarray, conf: np.ndarray, patch: int
) -> np.ndarray:
    """One sheet: four rows for each group, a column for each view.

    Args:
      images, pred: float (B, V, H, W, 3) in [-1, 1].
      conf: float (B, V, H, W, 3) in (0, 1), drawn from 0 (dark) to 1 (bright).
      mask: bool (B, V, L), True = hidden. Predictions of visible patches are not part of the
        objective: the truth is shown in their place.

    Returns:
      uint8 (height, width, 3).
    """
    groups, views, height, width, _ = images.shape
    grid = mask.reshape(groups, views, height // patch, width // patch)
    hidden = grid.repeat(patch, axis=2).repeat(patch, axis=3)[..., None]
    truth = (images + 1) / 2
    rows = {
        "input": np.where(hidden, HIDDEN_GREY, truth),
        "prediction": np.where(hidden, np.clip((pred + 1) / 2, 0, 1), truth),
        "confidence": np.where(hidden, colormaps["viridis"](conf.mean(-1))[..., :3], truth),
        "truth": truth,
    }
    pixels = {name: np.round(255 * np.clip(row, 0, 1)).astype(np.uint8) for name, row in rows.items()}
    return view_sheet(pixels)
