"""The page: HTML, style, script, three.js and a scene in one file, which loads nothing."""

import base64
import hashlib
import html
import json
import pathlib
import string
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8, UInt16
from PIL import Image

from muskie_jax.errors import printable
from muskie_jax.viz.cameras import CAMERA_SIZE, TO_VIEWER, camera_colours, scene_size
from muskie_jax.viz.data_url import data_url

FOLDER = pathlib.Path(__file__).parent
FAR = 10  # points farther from the middle than this multiple of the scene's size are left out
PICTURE = 320  # longer side of a view's picture at most, pixels
STEPS = 2**16 - 1  # of a coordinate
SMALLEST_STEP = 1e-30
TANGENTS = 0.02, 5.0  # smallest and largest x / z at the border of a view


class Layer(NamedTuple):
    """Points and cameras of a scene, of which a page shows one or switches between several.

    Attributes:
      name: what it is, such as "predicted".
      points: surface points. All layers have one frame and unit.
      colours: their RGB colours.
      camera_to_world: camera poses, with OpenCV axes (x right, y down, z forward).
      tangents: x / z and y / z at the right and lower border of each view.
    """

    name: str
    points: Float[np.ndarray, "N 3"]
    colours: UInt8[np.ndarray, "N 3"]
    camera_to_world: Float[np.ndarray, "V 4 4"]
    tangents: Float[np.ndarray, "V 2"]


class Quantised(NamedTuple):
    """Points as whole numbers: they are low + step * numbers."""

    numbers: UInt16[np.ndarray, "N 3"]
    low: Float[np.ndarray, " 3"]
    step: float


def viewer_page(
    title: str,
    names: Sequence[str],
    pictures: Iterable[UInt8[np.ndarray, "_ _ 3"]],
    layers: Sequence[Layer],
    reference: int = 0,
) -> str:
    """Returns a page on which a person turns points and cameras, as HTML.

    Coordinates are rounded to 1/65535 of the extent of a layer's points. Points that are farther than FAR
    times the scene's size from its middle are left out, since they would make that step coarse.

    Args:
      title: title of the page.
      names: names of the V views.
      pictures: pictures of the views, which are made smaller; of the parts that the tangents describe.
      layers: one or more; the page starts with the first.
      reference: number of the layer whose size and cameras determine where the person starts.
    """
    to_viewer = np.eye(4)
    to_viewer[:3, :3] = TO_VIEWER
    first_camera = layers[reference].camera_to_world[0].astype(np.float64)
    moved = [_in_viewer(layer, to_viewer @ np.linalg.inv(first_camera)) for layer in layers]
    _, points, _, cameras, _ = moved[reference]
    size = scene_size(points, cameras)
    centre = np.median(points, axis=0) if len(points) else np.array([0, 0, -size / 2])
    up = cameras[:, :3, 1].mean(0)
    up = up / np.linalg.norm(up) if np.linalg.norm(up) > 1e-3 else np.array([0.0, 1, 0])
    scene = {
        "views": [
            {"name": printable(name), "picture": data_url(_smaller(picture)), "colour": colour}
            for name, picture, colour in zip(names, pictures, camera_colours(len(names)).tolist())
        ],
        "layers": [_record(layer, centre, size) for layer in moved],
        "centre": centre.tolist(),
        "size": size,
        "camera_depth": CAMERA_SIZE * size,
        "up": up.tolist(),
    }
    three, script = _source("three.min.js"), _source("scene.js")
    return string.Template(_source("scene.html")).substitute(
        title=html.escape(printable(title)),
        policy=_policy(three, script),
        style=_source("scene.css"),
        scene=json.dumps(scene, allow_nan=False).replace("<", "\\u003c"),  # no end of the element
        three=three,
        script=script,
    )


def _smaller(picture: UInt8[np.ndarray, "_ _ 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    image = Image.fromarray(picture)
    image.thumbnail((PICTURE, PICTURE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _source(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    """Returns a content security policy: only these scripts run, and nothing is loaded."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"


def _in_viewer(layer: Layer, from_world: Float[np.ndarray, "4 4"]) -> Layer:
    """Returns a layer with the axes of viewers, for its points and in its cameras.

    Fields of view that an untrained network predicts are replaced by the nearest that can be shown.
    """
    poses = from_world @ layer.camera_to_world.astype(np.float64)
    poses[:, :3, :3] = poses[:, :3, :3] @ TO_VIEWER
    points = layer.points.astype(np.float64) @ from_world[:3, :3].T + from_world[:3, 3]
    tangents = np.abs(layer.tangents).clip(*TANGENTS)
    return layer._replace(points=points, camera_to_world=poses, tangents=tangents)


def _record(layer: Layer, centre: Float[np.ndarray, " 3"], size: float) -> dict[str, Any]:
    near = np.linalg.norm(layer.points - centre, axis=1) <= FAR * size
    numbers, low, step = quantise(layer.points[near])
    return {
        "name": layer.name,
        "points": base64.b64encode(numbers.astype("<u2").tobytes()).decode(),
        "colours": base64.b64encode(layer.colours[near].tobytes()).decode(),
        "low": low.tolist(),
        "step": step,
        "spacing": _spacing(layer, centre),
        "cameras": layer.camera_to_world.reshape(-1, 16).tolist(),
        "tangents": layer.tangents.tolist(),
    }


def quantise(points: Float[np.ndarray, "N 3"]) -> Quantised:
    """Rounds points to whole numbers of 16 bits, with one step for all axes."""
    if not len(points):
        return Quantised(np.zeros((0, 3), np.uint16), np.zeros(3), 1.0)
    low = points.min(0)
    step = max(float((points.max(0) - low).max()) / STEPS, SMALLEST_STEP)
    return Quantised(np.rint((points - low) / step).astype(np.uint16), low, step)


def _spacing(layer: Layer, centre: Float[np.ndarray, " 3"]) -> float:
    """Returns the typical distance of neighbouring points, if each view has an equal number of them."""
    distance = np.median(np.linalg.norm(layer.camera_to_world[:, :3, 3] - centre, axis=1))
    area = 4 * np.prod(layer.tangents, axis=1).mean() * distance**2  # that a view shows
    return float(np.sqrt(area * len(layer.tangents) / max(len(layer.points), 1)))
