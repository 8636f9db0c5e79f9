"""Pictures inside HTML."""

import base64
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

JPEG_QUALITY = 90


def data_url(pixels: UInt8[np.ndarray, "H W 3"], lossless: bool = False) -> str:
    """Returns an image as a data URL: a JPEG, or a PNG if it must be `lossless`."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if lossless:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
