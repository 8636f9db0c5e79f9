"""The picture of a reconstruction: what the network saw, what it said, how sure it was, the truth."""

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

ROWS = ("input", "prediction", "confidence", "truth")
HIDDEN_GREY = 0.5
MARGIN = 4  # pixels between views
LABEL_WIDTH = 84
MIN_VIEW_SIDE = 128  # smaller views are enlarged


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
    scale = max(1, -(-MIN_VIEW_SIDE // min(height, width)))
    return _sheet(pixels, scale)


def _sheet(rows: dict[str, np.ndarray], scale: int) -> np.ndarray:
    groups, views, height, width, _ = next(iter(rows.values())).shape
    height, width = scale * height, scale * width
    group_height = len(rows) * (height + MARGIN) + 3 * MARGIN
    size = (LABEL_WIDTH + views * (width + MARGIN), groups * group_height)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for group in range(groups):
        for row, (name, images) in enumerate(rows.items()):
            top = group * group_height + row * (height + MARGIN)
            draw.text((6, top + height // 2), name, fill="black", anchor="lm", font=font)
            for view in range(views):
                tile = Image.fromarray(images[group, view])
                tile = tile.resize((width, height), Image.Resampling.NEAREST)
                sheet.paste(tile, (LABEL_WIDTH + view * (width + MARGIN), top))
    return np.asarray(sheet)
