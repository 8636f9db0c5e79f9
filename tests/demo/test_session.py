"""What the demo page computes, without a browser and without Gradio."""

import importlib.util
import socket

import numpy as np
import pytest
from PIL import Image

from conftest import write_scene
from muskie_jax.data.load_images import load_images
from muskie_jax.demo import markup
from muskie_jax.demo.address import check_port
from muskie_jax.demo.session import (
    MAX_VIEWS,
    PageNetwork,
    colours,
    open_session,
    paint,
    reconstruct,
    search,
)
from muskie_jax.errors import UserError
from muskie_jax.photographs.reconstructing import ReconstructionNetwork
from muskie_jax.viz.reconstruction import to_pixels
from muskie_tests import golden_reconstruction as golden
from muskie_tests.commands import complaint_of, run_in_process
from muskie_tests.networks import random_variant


@pytest.fixture(scope="module")
def network():
    return PageNetwork("nano", *random_variant("nano", 0), can_paint=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos") / "scene"
    write_scene(folder, 3, seed=3)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def session(network, files):
    return open_session(network, files, ["a <b>", "b", "c"], 48)


def test_session(session, files, network):
    loaded = load_images(files, 48)
    np.testing.assert_array_equal(session.images, loaded.images)
    assert session.pictures.shape == (3, 96, 128, 3) and session.size == (48, 64)
    assert [tokens.shape for tokens in session.tokens] == [(3, 3, 4, 48)] * network.model.depth
    smaller = session.pictures.reshape(3, 48, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(smaller - loaded.pixels()).mean() < 3, "the same part of the photographs"


def test_photographs_that_are_cropped_are_named(network, session, files, tmp_path):
    tall = tmp_path / "tall.png"
    Image.effect_noise((60, 120), 80).convert("RGB").save(tall)
    mixed = open_session(network, [files[0], tall, files[1]], ["a", "mine", "b"], 48)
    assert (
        mixed.note.startswith("1 of 3 photographs has another aspect ratio") and "38% of mine" in mixed.note
    )
    assert session.note == ""


def test_positions_are_fractions_of_the_view(session):
    found = search(session, 1, 0.25, 0.5)
    np.testing.assert_allclose(found.positions[1], (0.25, 0.5))
    assert (found.positions > -0.2).all() and (found.positions < 1.2).all()


def test_panels(session, network):
    points = markup.point_panel(session)
    assert points.count("<figure") == 3 and "a &lt;b&gt;" in points and "<b>" not in points
    features = markup.feature_panel(session, colours(session, 2))
    assert features.count("data:image/png") == 3 and features.count("data:image/jpeg") == 3
    painting = paint(network, session, 0, "random", 0.5, 0)
    panel = markup.painting_panel(painting, 2)
    assert panel.count("<figure") == 4 and "painted with 2 others" in panel
    assert f"off by {painting.levels['with_others']:.0f} of 255 grey levels" in panel
    same = (painting.hidden == painting.truth).all(-1)
    assert abs(same.mean() - 0.5) < 0.05 and len(np.unique(painting.hidden[~same], axis=0)) == 1
    assert "m-busy" in markup.status("x", is_busy=True) and "m-error" in markup.status("x", is_error=True)


def test_views_are_reconstructed(session):
    decoder = ReconstructionNetwork("decoder", golden.model(), golden.params())
    found = reconstruct(decoder, session._replace(names=("a", "b", "c")))
    assert found.camera_to_world.shape == (3, 4, 4) and len(found.points) > 100
    np.testing.assert_array_equal(found.pictures, to_pixels(session.images))
    panel = markup.scene_panel(found)
    assert panel.startswith("<iframe") and panel.count("<") == 2, "the page is text of an attribute"
    assert 'sandbox="allow-scripts"' in panel


def test_without_a_decoder_the_tab_says_how_to_get_one():
    assert "start the demo with --reconstruction=NETWORK" in markup.scene_hint(False, True)
    with_decoder = markup.scene_hint(True, True)
    assert "--reconstruction" not in with_decoder and "trimesh" not in with_decoder
    assert "install it with" in markup.scene_hint(True, False)


def test_unusable_photographs(network, files, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    for chosen, expected in (
        (files[:1], "One photograph has nothing to be compared with"),
        ([], "There are no photographs"),
        (files * 3, f"9 photographs are too many for this page: choose at most {MAX_VIEWS}"),
        ([files[0], bad], r"^mine\.jpg: not one of JPEG"),
    ):
        with pytest.raises(UserError, match=expected):
            open_session(network, chosen, ["first.jpg", "mine.jpg", *"abcdefg"][: len(chosen)], 48)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["photos/"], "'photos/' is not a flag: leave it out"),
        (["--port=0"], "--port"),
        (["--reconstruction=tiny"], "--reconstruction=tiny is a backbone without a decoder of cameras"),
        (["--model=nowhere.pth"], "'nowhere.pth' does not exist"),
    ],
)
def test_mistakes_are_one_line(arguments, expected, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", _with_gradio)
    assert expected in complaint_of(run_in_process("muskie_jax.demo", *arguments))


def test_a_port_in_use_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(
            UserError, match=f"--port={port} cannot be opened on 127.0.0.1: Address already in"
        ):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)


def test_without_gradio_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", _without_gradio)
    assert 'the demo needs Gradio: python -m pip install -e ".[demo]"' in complaint_of(
        run_in_process("muskie_jax.demo")
    )


_find_spec = importlib.util.find_spec


def _with_gradio(name, package=None):
    return object() if name == "gradio" else _find_spec(name, package)


def _without_gradio(name, package=None):
    return None if name == "gradio" else _find_spec(name, package)
