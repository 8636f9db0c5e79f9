"""Picture of a reconstruction: input, prediction, confidence and ground truth."""

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib import colormaps

from muskie_jax.viz.view_sheet import view_sheet

ROWS = ("input", "prediction", "confidence", "truth")
MASKED_GREY = 0.5


def reconstruction_sheet(
    images: Float[np.ndarray, "B V H W 3"],
    mask: Bool[np.ndarray, "B V L"],
    pred: Float[np.ndarray, "B V H W 3"],
    conf: Float[np.ndarray, "B V H W 3"],
    patch: int,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws one sheet with four rows per group and one column per view.

    Args:
      images, pred: pixels in [-1, 1].
      mask: True = masked. Visible patches show the ground truth, since the loss ignores predictions there.
      conf: confidence in (0, 1), drawn from 0 (dark) to 1 (bright).
      patch: side of a patch, pixels.
    """
    groups, views, height, width, _ = images.shape
    grid = mask.reshape(groups, views, height // patch, width // patch)
    masked = grid.repeat(patch, axis=2).repeat(patch, axis=3)[..., None]
    truth = (images + 1) / 2
    rows = {
        "input": np.where(masked, MASKED_GREY, truth),
        "prediction": np.where(masked, np.clip((pred + 1) / 2, 0, 1), truth),
        "confidence": np.where(masked, colormaps["viridis"](conf.mean(-1))[..., :3], truth),
        "truth": truth,
    }
    pixels = {name: np.round(255 * np.clip(row, 0, 1)).astype(np.uint8) for name, row in rows.items()}
    return view_sheet(pixels)
