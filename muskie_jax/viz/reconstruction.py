"""Picture of a reconstruction: input, prediction, confidence and ground truth."""

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib import colormaps

from muskie_jax.viz.view_sheet import view_sheet

ROWS = ("input", "prediction", "confidence", "truth")
MASKED_GREY = 0.0  # in [-1, 1]


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
    masked = masked_pixels(mask, images.shape[2:4], patch)
    colours = 2 * colormaps["viridis"](conf.mean(-1))[..., :3] - 1
    rows = {
        "input": with_masked(images, mask, patch),
        "prediction": np.where(masked, pred, images),
        "confidence": np.where(masked, colours, images),
        "truth": images,
    }
    return view_sheet({name: to_pixels(row) for name, row in rows.items()})


def masked_pixels(
    mask: Bool[np.ndarray, "*views L"], size: tuple[int, ...], patch: int
) -> Bool[np.ndarray, "*views H W 1"]:
    """Returns which pixels of views of `size` (H, W) belong to masked patches."""
    grid = mask.reshape(*mask.shape[:-1], size[0] // patch, size[1] // patch)
    return grid.repeat(patch, axis=-2).repeat(patch, axis=-1)[..., None]


def with_masked(
    images: Float[np.ndarray, "*views H W 3"], mask: Bool[np.ndarray, "*views L"], patch: int
) -> Float[np.ndarray, "*views H W 3"]:
    """Returns images in [-1, 1] with grey in place of masked patches."""
    return np.where(masked_pixels(mask, images.shape[-3:-1], patch), MASKED_GREY, images)


def to_pixels(images: Float[np.ndarray, "*views H W 3"]) -> UInt8[np.ndarray, "*views H W 3"]:
    """Maps values in [-1, 1] to pixels from 0 to 255, and clips others; NaN is grey."""
    return np.round(127.5 * (np.clip(np.nan_to_num(images), -1, 1) + 1)).astype(np.uint8)
