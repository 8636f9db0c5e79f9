"""Sheet of views: labelled rows, one column per view."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

MARGIN = 4  # pixels between views
LABEL_WIDTH = 84
MIN_VIEW_SIDE = 128  # pixels; smaller views are enlarged


def view_sheet(rows: dict[str, UInt8[np.ndarray, "B V H W 3"]]) -> UInt8[np.ndarray, "height width 3"]:
    """Draws one sheet: all rows of the first group, then all rows of the next group.

    Args:
      rows: label (at most about twelve letters) -> images of B groups with V views each.
    """
    groups, views, height, width, _ = next(iter(rows.values())).shape
    scale = max(1, -(-MIN_VIEW_SIDE // min(height, width)))
    height, width = scale * height, scale * width
    group_height = len(rows) * (height + MARGIN) + 3 * MARGIN
    size = (LABEL_WIDTH + views * (width + MARGIN), groups * group_height)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for group in range(groups):
        for row, (label, images) in enumerate(rows.items()):
            top = group * group_height + row * (height + MARGIN)
            draw.text((6, top + height // 2), label, fill="black", anchor="lm", font=font)
            for view in range(views):
                tile = Image.fromarray(images[group, view])
                tile = tile.resize((width, height), Image.Resampling.NEAREST)
                sheet.paste(tile, (LABEL_WIDTH + view * (width + MARGIN), top))
    return np.asarray(sheet)
