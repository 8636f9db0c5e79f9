"""The page of points and cameras in a headless browser."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from muskie_jax.viewer.page import viewer_page
from muskie_tests.browser import CHROMIUM, Browser
from muskie_tests.viewer_scenes import BRIGHT, NAMES, TITLE, pictures, wall

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]
MIDDLE = (500, 350)
STILL = 0.4  # seconds after which a picture no longer changes, on a slow machine after several tries


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "scene.html"
    path.write_text(viewer_page(TITLE, NAMES, pictures(), [wall(), wall("true", depth=5.0)]))
    return path


@pytest.fixture
def browser(page, tmp_path):
    with Browser(tmp_path) as opened:
        still = {"name": "prefers-reduced-motion", "value": "reduce"}  # it comes to rest at once
        opened.call("Emulation.setEmulatedMedia", features=[still])
        opened.open(page.as_uri())
        opened.wait_for("document.querySelectorAll('#views img').length === 2")
        yield opened
        assert opened.problems == []


def shown(browser, tmp_path):
    """Returns the scene's pixels, without panels, once they no longer change."""
    before = None
    for _ in range(30):
        browser.screenshot(tmp_path / "shot.png")
        with Image.open(io.BytesIO((tmp_path / "shot.png").read_bytes())) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)[90:650, 20:1050]
        if before is not None and np.array_equal(before, pixels):
            return pixels
        before = pixels
        time.sleep(STILL)
    raise AssertionError("the page does not come to rest")


def changed(a, b):
    """The fraction of pixels that differ."""
    return float((np.abs(a - b).max(-1) > 8).mean())


def test_the_scene_is_shown_and_turned_by_a_drag(browser, tmp_path):
    first = shown(browser, tmp_path)
    bright = (first.max(-1) > 90).mean()
    assert 0.05 < bright < 0.95, "a wall before a dark background"
    assert browser.evaluate("document.title") == TITLE
    assert browser.evaluate("document.querySelector('#counts').innerText") == "2 views, 10,800 points"
    browser.drag(MIDDLE, (700, 400))
    turned = shown(browser, tmp_path)
    assert changed(first, turned) > 0.05
    browser.press("r")
    assert changed(first, shown(browser, tmp_path)) < 0.01, "R returns to the start"
    assert browser.evaluate("performance.getEntriesByType('resource').length") == 0, "nothing is loaded"


def test_fingers_turn_and_the_wheel_zooms(browser, tmp_path):
    first = shown(browser, tmp_path)
    touch = lambda kind, *at: browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=list(at))
    touch("touchStart", {"x": 500, "y": 350})
    for x in range(520, 701, 20):
        touch("touchMove", {"x": x, "y": 350})
    touch("touchEnd")
    turned = shown(browser, tmp_path)
    assert changed(first, turned) > 0.05
    browser.call("Input.dispatchMouseEvent", type="mouseWheel", x=500, y=350, deltaX=0, deltaY=-300)
    nearer = shown(browser, tmp_path)
    assert (nearer.max(-1) > 90).mean() > 1.1 * (turned.max(-1) > 90).mean()


def test_controls_change_what_is_shown(browser, tmp_path):
    first = shown(browser, tmp_path)
    browser.click("#cameras")
    without = shown(browser, tmp_path)
    assert 0.001 < changed(first, without) < 0.2
    grey = lambda pixels: (np.abs(pixels - BRIGHT).max(-1) < 4).sum()  # the second view's picture
    assert grey(first) > 500 and grey(without) == 0
    browser.press("c")
    assert changed(first, shown(browser, tmp_path)) == 0
    view = "document.querySelector('#views button')"
    browser.evaluate(f"{view}.dispatchEvent(new Event('pointerenter'))")
    assert 0 < changed(first, shown(browser, tmp_path)) < 0.01, "the lines of its camera become white"
    browser.evaluate(f"{view}.dispatchEvent(new Event('pointerleave'))")
    for _ in range(4):
        browser.press("-")
    assert changed(first, shown(browser, tmp_path)) > 0.02, "smaller points"
    for _ in range(4):
        browser.press("+")
    assert changed(first, shown(browser, tmp_path)) == 0
    browser.evaluate("document.querySelectorAll('#layers input')[1].click()")
    assert changed(first, shown(browser, tmp_path)) > 0.02, "the wall is farther away"


def test_a_view_is_seen_from_its_camera(browser, tmp_path):
    browser.click("#views button:nth-child(1)")
    pixels = shown(browser, tmp_path)
    # The wall fills the view of the first camera, which is as high as the window; x and y set its colours.
    red, green = pixels[..., 0], pixels[..., 1]
    assert (pixels.max(-1) > 60).mean() > 0.8
    assert np.median(red[:, -200:]) > np.median(red[:, :400]) + 20 and np.median(green[-100:]) > np.median(
        green[:100]
    )
    assert browser.evaluate("document.querySelector('#views button').ariaPressed") == "true"
    browser.press("ArrowRight")
    moved = shown(browser, tmp_path)
    assert changed(pixels, moved) > 0.05
    assert browser.evaluate("document.querySelectorAll('#views button')[1].ariaPressed") == "true"


def test_a_flight_ends_where_a_jump_does(browser, page, tmp_path):
    browser.click("#views button:nth-child(2)")
    jumped = shown(browser, tmp_path)
    with Browser(tmp_path / "profile") as moving:
        moving.open(page.as_uri())
        start = shown(moving, tmp_path)
        moving.click("#views button:nth-child(2)")
        time.sleep(3)
        flown = shown(moving, tmp_path)
    assert changed(start, flown) > 0.1 and changed(jumped, flown) < 0.001


def test_a_camera_is_clicked_in_the_scene(browser, tmp_path):
    shown(browser, tmp_path)
    browser.evaluate("document.querySelector('#views').style.pointerEvents = 'none'")
    found = browser.evaluate("""(() => {
      for (let y = 600; y > 100; y -= 6) for (let x = 100; x < 1000; x += 6) {
        document.querySelector('#canvas').dispatchEvent(
          new PointerEvent('pointermove', {clientX: x, clientY: y, buttons: 0}));
        if (document.querySelector('.over-camera')) return [x, y];
      }
    })()""")
    assert found, "a camera is in the window"
    browser.drag(found, found, steps=1)
    browser.wait_for("document.querySelector('#views button[aria-pressed=true]')")


@pytest.mark.parametrize("width", [500, 1280])
def test_panels_fit_the_window(page, tmp_path, width):
    with Browser(tmp_path / "profile", (width, 900)) as opened:
        opened.open(page.as_uri())
        boxes = opened.evaluate(
            "['header', '#controls', '#views'].map((each) => document.querySelector(each))"
            ".map((each) => (({left, right, top, bottom}) => [left, right, top, bottom])"
            "(each.getBoundingClientRect())).concat([[innerWidth, innerHeight]])"
        )
    *panels, (right, bottom) = boxes
    for number, (x0, x1, y0, y1) in enumerate(panels):
        assert 0 <= x0 < x1 <= right and 0 <= y0 < y1 <= bottom
        for a0, a1, b0, b1 in panels[:number]:
            assert x1 <= a0 or a1 <= x0 or y1 <= b0 or b1 <= y0, "panels do not overlap"
