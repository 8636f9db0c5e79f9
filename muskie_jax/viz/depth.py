"""Picture of depth maps: true and predicted depth below the views they belong to."""

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps

from muskie_jax.viz.view_sheet import view_sheet

ENDS = (2, 98)  # percentiles of true depth at the ends of the colour scale


def depth_sheet(
    images: UInt8[np.ndarray, "V H W 3"],
    true: Float[np.ndarray, "V H W"],
    predicted: Float[np.ndarray, "V H W"],
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws a column per view: its image, its true depth and its predicted depth.

    One scale of colours serves all views: near is red, far is blue. Unknown depth, 0, is black.
    """
    low, high = np.percentile(true[true > 0], ENDS) if (true > 0).any() else (0.0, 1.0)
    rows = {"views": images} | {
        name: _colours(depth, low, high) for name, depth in (("true", true), ("predicted", predicted))
    }
    return view_sheet({name: pixels[None] for name, pixels in rows.items()})


def _colours(depth: Float[np.ndarray, "V H W"], low: float, high: float) -> UInt8[np.ndarray, "V H W 3"]:
    nearness = 1 - np.clip((depth - low) / max(high - low, 1e-9), 0, 1)
    colours = (255 * colormaps["turbo"](nearness)[..., :3]).astype(np.uint8)
    return np.where((depth > 0)[..., None], colours, np.uint8(0))
