"""HTML of the page's panels. All pictures are data URLs, so nothing is written to disk."""

import base64
from html import escape
from xml.etree import ElementTree

import numpy as np
from jaxtyping import UInt8

from muskie_jax.demo.session import Painting, Session
from muskie_jax.photographs.reconstructing import Scene
from muskie_jax.photographs.scene_files import TRIMESH_MISSING, point_cloud, scene_page
from muskie_jax.report.markup import Element, tag
from muskie_jax.viz.data_url import data_url

SCENE_HINT = (
    "The network predicts the camera of every photograph, and the point that every pixel shows. "
    "Their scale is arbitrary."
)
NO_DECODER = (
    "To see photographs in 3D, start the demo with --reconstruction=NETWORK, a network with a decoder of "
    "cameras and points. docs/reconstruction.md says how to get one."
)
NO_FILE = f"There is no file to download, since {TRIMESH_MISSING}."
COLUMNS = {1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 6: 3, 7: 4, 8: 4}  # of a grid, by the number of views


def html(element: Element) -> str:
    """Serialises an element."""
    return ElementTree.tostring(element, encoding="unicode", method="html")


def status(message: str, is_error: bool = False, is_busy: bool = False) -> str:
    """Returns the line below the uploads."""
    kind = "m-status" + " m-error" * is_error + " m-busy" * is_busy
    return html(tag("p", message, class_=kind, role="alert" if is_error else "status"))


def point_panel(session: Session) -> str:
    """Returns all views; a click on one is an event, and the page's script marks the answer."""
    figures = [
        tag(
            "figure",
            tag(
                "div",
                tag("img", src=data_url(pixels), alt=name, draggable="false"),
                tag("div", class_="m-marks"),
                class_="m-frame",
                style=f"aspect-ratio: {pixels.shape[1]} / {pixels.shape[0]}",
            ),
            tag("figcaption", tag("span", name, class_="m-name"), tag("span", class_="m-found")),
            data_view=view,
        )
        for view, (pixels, name) in enumerate(zip(session.pictures, session.names))
    ]
    return html(_grid(figures, "m-points", COLUMNS[len(figures)]))


def feature_panel(session: Session, colours: UInt8[np.ndarray, "V h w 3"]) -> str:
    """Returns all views with their features as colours over them; the page's script sets the opacity."""
    figures = [
        tag(
            "figure",
            tag(
                "div",
                tag("img", src=data_url(pixels), alt=name),
                tag("img", src=data_url(shades, lossless=True), alt="", class_="m-colours"),
                class_="m-frame",
                style=f"aspect-ratio: {pixels.shape[1]} / {pixels.shape[0]}",
            ),
            tag("figcaption", tag("span", name, class_="m-name")),
        )
        for pixels, shades, name in zip(session.pictures, colours, session.names)
    ]
    return html(_grid(figures, "m-features", COLUMNS[len(figures)]))


def painting_panel(painting: Painting, others: int) -> str:
    """Returns the hidden view, both paintings and the truth, with their errors."""
    off = lambda name: f"off by {painting.levels[name]:.0f} of 255 grey levels"
    tiles = [
        ("hidden", f"mean colour: {off('visible_mean')}", painting.hidden),
        ("painted alone", off("alone"), painting.alone),
    ]
    if painting.together is not None:
        title = "painted with the other view" if others == 1 else f"painted with {others} others"
        tiles.append((title, off("with_others"), painting.together))
    tiles.append(("truth", "", painting.truth))
    figures = [
        tag(
            "figure",
            tag("div", tag("img", src=data_url(pixels), alt=title), class_="m-frame"),
            tag("figcaption", tag("span", title, class_="m-name"), tag("span", note, class_="m-found")),
        )
        for title, note, pixels in tiles
    ]
    return html(_grid(figures, "m-painting", len(figures)))


def scene_hint(has_decoder: bool, can_save: bool) -> str:
    """Returns the line above a reconstruction, or how to get one without a decoder."""
    text = SCENE_HINT if can_save else f"{SCENE_HINT} {NO_FILE}"
    return html(tag("p", text if has_decoder else NO_DECODER, class_="m-hint"))


def scene_panel(scene: Scene) -> str:
    """Returns the page of a reconstruction in a frame of its own, which can load nothing."""
    page = escape(scene_page(scene, "Reconstruction"))  # `tag` would escape its line breaks too
    return (
        f'<iframe class="m-scene" title="Reconstruction" sandbox="allow-scripts" srcdoc="{page}"></iframe>'
    )


def scene_file(scene: Scene) -> dict[str, str]:
    """Returns the name and the content, in base64, of the reconstruction's file for other programs."""
    return {"name": "scene.glb", "content": base64.b64encode(point_cloud(scene, ".glb")).decode()}


def _grid(figures: list[Element], kind: str, columns: int) -> Element:
    return tag("div", *figures, class_=f"m-grid {kind}", style=f"--m-columns: {columns}")
