"""The page: photographs in, then three panels, for points, features and inpainting."""

import contextlib
import functools
import importlib.util
import os
import pathlib
import signal
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import gradio as gr
from gradio.themes import Base

from muskie_jax.demo import markup
from muskie_jax.demo.session import (
    MAX_VIEWS,
    PageNetwork,
    Session,
    colours,
    open_room,
    open_session,
    paint,
    reconstruct,
    search,
)
from muskie_jax.demo.style import HEAD, ON_POINT, SAVE_FILE, SET_OPACITY, SHOW_POINT, STYLE
from muskie_jax.errors import UserError, end_process
from muskie_jax.masking import MODES
from muskie_jax.photographs.features import drawn_block
from muskie_jax.photographs.reconstructing import Scene

MAX_MEGABYTES = 20  # of one photograph
KEPT_SECONDS = 1800  # a visitor's features are forgotten after this time
VISITORS = 16  # whose features are kept; the features of the others are forgotten
TYPES = [".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".heic"]
TITLE = "Muskie"
ABOUT = (
    "A network that looks at several photographs of a scene at once. Drop photographs that show the same "
    "things. Then click a point and see it found in the others, look at the features, and let the network "
    "paint what is hidden."
)
DROP = f"Photographs of one scene: 2 to {MAX_VIEWS}, at most {MAX_MEGABYTES} MB each"
POINT_HINT = (
    "Click anywhere in a photograph. The point is found in the others by its features, and checked by "
    "searching back. Confidence is from 0 to 1; it is not a probability."
)
FEATURE_HINT = (
    "Red, green and blue are the three strongest directions of the features, shared by all photographs. "
    "Where colours are similar, features are."
)
PAINT_HINT = (
    "A part of one photograph is hidden. The network paints it from the rest of that photograph alone, and "
    "with the others. This is what it was trained to do."
)


def build(network: PageNetwork, size: int) -> gr.Blocks:
    """Builds the page.

    Args:
      network: the network that answers.
      size: the views' shorter side in pixels.
    """
    depth = network.model.depth
    shown_block = drawn_block(range(1, depth + 1), depth)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, 60)) as page:
        gr.HTML(f"<h1>{TITLE}</h1><p>{ABOUT}</p>", elem_id="m-head")
        with gr.Row():
            files = gr.File(
                file_count="multiple", file_types=TYPES, label=DROP, elem_id="m-files", height=170
            )
            with gr.Column(elem_id="m-room", min_width=200):
                gr.HTML("<p>No photographs at hand?</p>")
                room = gr.Button("Render a room", elem_id="m-try", size="md")
        status = gr.HTML(markup.status(""), elem_id="m-line")
        session = gr.State(None, time_to_live=KEPT_SECONDS)
        seed = gr.State(0)
        answer = gr.JSON(visible=False)
        with gr.Column(visible=False) as results, gr.Tabs():
            with gr.Tab("Find a point"):
                gr.HTML(f'<p class="m-hint">{POINT_HINT}</p>')
                points = gr.HTML(elem_id="m-points", js_on_load=ON_POINT, apply_default_css=False)
            with gr.Tab("Features"):
                gr.HTML(f'<p class="m-hint">{FEATURE_HINT}</p>')
                with gr.Row():
                    block = gr.Slider(
                        1,
                        depth,
                        value=shown_block,
                        step=1,
                        label="Block of the network",
                    )
                    opacity = gr.Slider(0, 100, value=85, step=1, label="Opacity of the colours, %")
                features = gr.HTML(elem_id="m-features")
            with gr.Tab("Inpainting", visible=network.can_paint):
                gr.HTML(f'<p class="m-hint">{PAINT_HINT}</p>')
                with gr.Row():
                    view = gr.Slider(1, 2, value=1, step=1, label="Photograph")
                    ratio = gr.Slider(5, 95, value=40, step=1, label="Hidden part, %")
                    shape = gr.Dropdown(list(MODES), value="rectangle", label="Shape")
                    again = gr.Button("Hide another part", elem_id="m-again", size="md")
                painting = gr.HTML(elem_id="m-painting")
            with gr.Tab("Reconstruction"):
                has_decoder = network.reconstruction is not None
                can_save = importlib.util.find_spec("trimesh") is not None
                gr.HTML(markup.scene_hint(has_decoder, can_save))
                with gr.Row(visible=has_decoder):
                    start = gr.Button("Reconstruct", variant="primary", elem_id="m-reconstruct", size="md")
                    download = gr.Button(
                        "Download .glb", interactive=False, elem_id="m-download", size="md"
                    )
                scene_view = gr.HTML(elem_id="m-scene")
                scene = gr.State(None, time_to_live=KEPT_SECONDS)
                scene_file = gr.JSON(visible=False)

        def show(opened: Session, chosen: int) -> dict[Any, Any]:
            count = len(opened.images)
            return {
                status: markup.status(
                    f"{count} views. Click a point in one of them. {opened.note}".strip()
                ),
                files: None,  # ready for other photographs
                session: opened,
                results: gr.Column(visible=True),
                points: markup.point_panel(opened),
                features: markup.feature_panel(opened, colours(opened, chosen)),
                view: gr.Slider(1, count, value=1),
                painting: "",
                answer: None,
                scene: None,
                scene_view: "",
                download: gr.Button(interactive=False),
            }

        shown = [status, files, session, results, points, features, view, painting, answer]
        shown += [scene, scene_view, download]

        def refuse(message: str) -> dict[Any, Any]:
            return {status: markup.status(message, is_error=True), files: None}

        def load(uploaded: list[str] | None, chosen: int) -> Iterator[dict[Any, Any]]:
            paths = [pathlib.Path(path) for path in uploaded or []]
            yield {status: markup.status("Looking at the photographs together", is_busy=True)}
            try:
                yield show(open_session(network, paths, [path.name for path in paths], size), chosen)
            except UserError as error:
                yield refuse(str(error))
            finally:
                for path in paths:  # the features are enough
                    path.unlink(missing_ok=True)

        def render(number: int, chosen: int) -> Iterator[dict[Any, Any]]:
            yield {status: markup.status("Rendering a room; the first one takes a while", is_busy=True)}
            yield show(open_room(network, number), chosen) | {seed: number + 1}

        def find(opened: Session | None, event: gr.EventData) -> dict[str, Any] | None:
            if opened is None:
                return None
            found = search(opened, event.view, event.x, event.y)
            arrays = zip(found.positions.tolist(), found.confidence.tolist(), found.visible.tolist())
            return {
                "view": event.view,
                "found": [
                    {"view": number, "x": x, "y": y, "confidence": confidence, "visible": visible}
                    for number, ((x, y), confidence, visible) in enumerate(arrays)
                ],
            }

        def colour(opened: Session | None, chosen: int) -> str:
            return "" if opened is None else markup.feature_panel(opened, colours(opened, chosen))

        def hide(opened: Session | None, number: int, mode: str, percent: float, drawn: int) -> str:
            if opened is None or not network.can_paint:
                return ""
            return markup.painting_panel(
                paint(network, opened, number - 1, mode, percent / 100, drawn), len(opened.images) - 1
            )

        def build_scene(opened: Session | None) -> Iterator[dict[Any, Any]]:
            if opened is None or network.reconstruction is None:
                return
            yield {scene_view: markup.status("Reconstructing", is_busy=True)}
            try:
                found = reconstruct(network.reconstruction, opened)
            except UserError as error:
                yield {scene_view: markup.status(str(error), is_error=True)}
            else:
                yield {
                    scene: found,
                    scene_view: markup.scene_panel(found),
                    download: gr.Button(interactive=can_save),
                }

        def make_file(found: Scene | None) -> dict[str, str] | None:
            return None if found is None else markup.scene_file(found)

        quiet: dict[str, Any] = {"show_progress": "hidden"}
        masked = ([session, view, shape, ratio, seed], painting)
        painted = functools.partial(dict, fn=hide, inputs=masked[0], outputs=masked[1])
        for event, inputs, function in (
            (files.upload, [files, block], load),
            (room.click, [seed, block], render),
        ):
            event(function, inputs, [*shown, seed], **quiet).then(**painted(), **quiet)
        points.click(find, session, answer, **quiet).then(None, answer, None, js=SHOW_POINT)
        start.click(build_scene, session, [scene, scene_view, download], **quiet)
        download.click(make_file, scene, scene_file, **quiet).then(None, scene_file, None, js=SAVE_FILE)
        block.release(colour, [session, block], features, **quiet)
        opacity.change(None, opacity, None, js=SET_OPACITY)
        for control in (view.release, ratio.release, shape.change):
            control(**painted())
        again.click(lambda drawn: drawn + 1, seed, seed, **quiet).then(**painted())
    return page


def serve(network: PageNetwork, size: int, host: str, port: int, in_browser: bool) -> None:
    """Serves the page until it is interrupted, and ends the process.

    Uploads lie in a folder that is deleted before.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that the folder is deleted then too
    with (
        contextlib.suppress(SystemExit),
        tempfile.TemporaryDirectory(prefix="muskie-demo-", ignore_cleanup_errors=True) as uploads,
    ):
        os.environ["GRADIO_TEMP_DIR"] = uploads
        page = build(network, size)
        page.queue(max_size=32, api_open=False).launch(
            server_name=host,
            server_port=port,
            inbrowser=in_browser,
            quiet=True,
            show_error=True,
            share=False,
            max_file_size=f"{MAX_MEGABYTES}mb",
            state_session_capacity=VISITORS,
            footer_links=[],
            theme=Base(
                primary_hue="blue",
                neutral_hue="slate",
                font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"],
                font_mono=["ui-monospace", "monospace"],
            ),
            css=STYLE,
            head=HEAD,
        )
    sys.stdout.flush()
    end_process(0)  # a usual exit crashes if one of the server's threads is still computing
