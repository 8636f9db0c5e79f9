"""The page of points and cameras: what is in the file."""

import base64
import hashlib
import html.parser
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from muskie_jax.viewer.page import FAR, FOLDER, STEPS, quantise, viewer_page
from muskie_tests.viewer_scenes import NAMES, TITLE, pictures, wall

THREE_DIGEST = "cb851d93fc8086a757545dd3403c4d936f4d7ad3cf127f8486e721043537d3e8"
LOADING = ("src", "href", "srcset", "data", "action", "poster")  # attributes that name something to load


class Elements(html.parser.HTMLParser):
    """All elements of a page, as [name, attributes, text]."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append([tag, dict(attrs), ""])
        self.is_open = True

    def handle_data(self, data):
        if self.found and self.is_open:
            self.found[-1][2] += data

    def handle_endtag(self, tag):
        self.is_open = False


def scene_of(page):
    (text,) = (text for _, attributes, text in Elements(page).found if attributes.get("id") == "scene")
    return json.loads(text)


def points_of(layer):
    numbers = np.frombuffer(base64.b64decode(layer["points"]), "<u2").reshape(-1, 3)
    return np.array(layer["low"]) + layer["step"] * numbers


@pytest.fixture(scope="module")
def page():
    return viewer_page(TITLE, NAMES, pictures(), [wall()])


def test_points_are_rounded_by_half_a_step_and_have_the_axes_of_viewers(page):
    (layer,) = scene_of(page)["layers"]
    found = points_of(layer)
    y, x = np.mgrid[-1.5:1.5:90j, -2:2:120j]
    expected = np.stack([x, -y, np.full_like(x, -4.0)], -1).reshape(-1, 3)  # y up, z backward
    assert layer["step"] == pytest.approx(4 / STEPS)
    assert np.abs(found - expected).max() <= 0.5001 * layer["step"]
    colours = np.frombuffer(base64.b64decode(layer["colours"]), np.uint8).reshape(-1, 3)
    np.testing.assert_array_equal(colours, wall().colours)
    first, second = np.array(layer["cameras"]).reshape(2, 4, 4)
    np.testing.assert_allclose(first, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(second[:3, 3], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(scene_of(page)["up"], [0, 1, 0], atol=1e-12)


def test_quantisation_of_any_points():
    random = np.random.default_rng(0).normal(0, 100, (1000, 3)) * (1, 0.01, 0)
    for points in (random, random[:1], np.zeros((0, 3))):
        numbers, low, step = quantise(points)
        assert numbers.dtype == np.uint16 and numbers.shape == points.shape
        np.testing.assert_allclose(low + step * numbers, points, atol=0.5001 * step)


def test_far_points_are_left_out_since_they_would_make_the_steps_coarse():
    layer = wall()
    far = layer.points[0] + [0, 0, 4 * FAR * 4.0]
    moved = np.concatenate([layer.points, far[None]])
    layer = layer._replace(points=moved, colours=np.concatenate([layer.colours, layer.colours[:1]]))
    (record,) = scene_of(viewer_page("x", NAMES, pictures(), [layer]))["layers"]
    assert len(points_of(record)) == len(moved) - 1 and record["step"] < 2 * 4 / STEPS
    assert len(base64.b64decode(record["colours"])) == 3 * (len(moved) - 1)


def test_layers_share_the_frame_of_the_first_camera_of_one():
    other = wall("true", depth=5.0)
    turned = other._replace(camera_to_world=other.camera_to_world @ np.diag([-1.0, -1, 1, 1]))
    scene = scene_of(viewer_page("x", NAMES, pictures(), [wall(), turned], reference=1))
    np.testing.assert_allclose(
        np.array(scene["layers"][1]["cameras"][0]).reshape(4, 4), np.eye(4), atol=1e-9
    )
    np.testing.assert_allclose(scene["centre"], [0, 0, -5], atol=1e-9)
    scene = scene_of(viewer_page("x", NAMES, pictures(), [wall(), other]))
    assert [layer["name"] for layer in scene["layers"]] == ["predicted", "true"]
    np.testing.assert_allclose(points_of(scene["layers"][1])[:, 2], -5, atol=1e-3)


def test_a_scene_without_points_has_a_page():
    empty = wall()._replace(points=np.zeros((0, 3)), colours=np.zeros((0, 3), np.uint8))
    (layer,) = scene_of(viewer_page("x", NAMES, pictures(), [empty]))["layers"]
    assert layer["points"] == "" and len(layer["cameras"]) == 2


def test_pictures_are_small(page):
    large = [np.zeros((600, 800, 3), np.uint8)] * 2
    for text, size in ((page, (64, 48)), (viewer_page("x", NAMES, large, [wall()]), (320, 240))):
        kind, data = scene_of(text)["views"][0]["picture"].split(",")
        assert kind == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == size


def test_nothing_is_loaded_and_only_its_scripts_run(page):
    elements = Elements(page).found
    for name, attributes, _ in elements:
        assert not set(attributes) & set(LOADING), (name, attributes)
    assert "link" not in {name for name, _, _ in elements}
    (style,) = (text for name, _, text in elements if name == "style")
    assert "url(" not in style and "@import" not in style
    scripts = [text for name, attributes, text in elements if name == "script" and not attributes]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    (policy,) = (each["content"] for _, each, _ in elements if "http-equiv" in each)
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digests[0]}' 'sha256-{digests[1]}'"
    )


def test_names_are_text(page):
    elements = Elements(page).found
    assert "b" not in {name for name, _, _ in elements}
    titles = [text.strip() for name, _, text in elements if name in ("title", "h1")]
    assert titles == [TITLE, TITLE]
    assert [view["name"] for view in scene_of(page)["views"]] == list(NAMES)


def test_three_js_is_the_pinned_version():
    content = (FOLDER / "three.min.js").read_bytes()
    assert hashlib.sha256(content).hexdigest() == THREE_DIGEST
    assert b'revision:"187"' in content
    assert "[three.js](https://threejs.org) 0.187.0" in (FOLDER / "README.md").read_text()
    assert "MIT" in (FOLDER / "three.LICENSE").read_text()
    exported = re.findall(r"\w+", (FOLDER / "three_entry.js").read_text().partition("export")[2])
    used = set(re.findall(r"THREE\.(\w+)", (FOLDER / "scene.js").read_text()))
    assert used <= set(exported)
