"""The demo page in a headless browser: upload, click, results, and no error in the console."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, python_path, write_scene, xla_flags
from muskie_jax import save_pretrained
from muskie_jax.interop.names import Network
from muskie_jax.interop.weights import Weights, write_weights
from muskie_jax.models.muskie import build_model
from muskie_tests import golden_reconstruction as golden
from muskie_tests.browser import CHROMIUM, Browser
from muskie_tests.networks import random_variant

pytest.importorskip("gradio")
pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]
TABS = "[...document.querySelectorAll('button[role=tab]')]"
INPUT = "#m-files input[type=file]"


@pytest.fixture(scope="module")
def address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    """The folder for temporary files of the server."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def server(tmp_path_factory, address, temporary):
    weights = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    write_weights(weights, Weights(Network.of(build_model("nano")), random_variant("nano", 0)[1]))
    decoder = tmp_path_factory.mktemp("weights") / "decoder"
    save_pretrained(decoder, golden.model(), golden.params())
    environment = {"TMPDIR": str(temporary), "PYTHONPATH": python_path(ROOT), "XLA_FLAGS": xla_flags(1)}
    process = subprocess.Popen(
        [sys.executable, "-m", "muskie_jax.demo", "--model", weights, "--reconstruction", decoder,
         "--size=64", f"--port={address[1]}"],
        env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    end = time.monotonic() + 120
    while not reachable(address):
        assert process.poll() is None and time.monotonic() < end, process.stdout.read()
        time.sleep(0.2)
    yield process
    process.kill()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos") / "scene"
    write_scene(folder, 3, seed=3)
    return sorted(folder.iterdir())


@pytest.fixture
def browser(server, address, tmp_path):
    with Browser(tmp_path) as page:
        page.open(f"http://127.0.0.1:{address[1]}")
        page.wait_for(f"document.querySelector('{INPUT}')")
        yield page


def reachable(address):
    with socket.socket() as probe:
        return probe.connect_ex(address) == 0


def uploaded(temporary: pathlib.Path):
    return [path for path in temporary.rglob("*") if path.is_file() and path.stat().st_size]


def test_upload_and_click(browser, photographs, temporary, address):
    browser.choose_files(INPUT, photographs)
    browser.wait_for("document.querySelectorAll('.m-points figure').length === 3")
    assert "3 views" in browser.evaluate("document.querySelector('#m-line').innerText")
    assert uploaded(temporary) == [], "photographs are deleted once they are read"

    browser.click('.m-points figure[data-view="1"] .m-frame', 0.25, 0.75)
    browser.wait_for("document.querySelector('.m-query .m-mark:not(.m-waiting)')")
    mark = browser.evaluate(
        "(({left, top}) => [left, top])(document.querySelector('.m-query .m-mark').style)"
    )
    assert [round(float(each.rstrip("%"))) for each in mark] == [25, 75]
    assert browser.evaluate("document.querySelector('.m-query').dataset.view") == "1"
    notes = browser.evaluate("[...document.querySelectorAll('.m-points .m-found')].map((e) => e.innerText)")
    assert notes[1] == "your point"
    assert all(note == "not found here" or note.startswith("confidence 0.") for note in notes[::2]), notes

    browser.evaluate(f"{TABS}[1].click()")
    browser.wait_for("document.querySelectorAll('#m-features .m-colours').length === 3")
    browser.evaluate(f"{TABS}[2].click()")
    browser.wait_for("document.querySelectorAll('#m-painting figure').length === 4")
    before = browser.evaluate("document.querySelector('#m-painting img').src")
    browser.click("#m-again")
    browser.wait_for(f"(document.querySelector('#m-painting img') || {{}}).src !== {before!r}")
    assert "painted with 2 others" in browser.evaluate("document.querySelector('#m-painting').innerText")

    assert browser.problems == []
    hosts = browser.evaluate(
        "performance.getEntriesByType('resource').map((each) => new URL(each.name).host)"
    )
    assert set(hosts) <= {f"127.0.0.1:{address[1]}", ""}, "nothing is loaded from elsewhere"


def await_picture(browser, box, folder, condition):
    """Returns the middle of a box of the page, without the panels of the scene, once a condition holds."""
    x, _, width, height, top = map(round, box)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        browser.screenshot(folder / "scene.png")
        with Image.open(folder / "scene.png") as image:
            pixels = np.asarray(image.convert("L")).astype(int)[top : top + height, x : x + width]
        pixels = pixels[height // 5 : height * 7 // 10, width // 5 : width * 4 // 5]
        if condition(pixels):
            return pixels
        time.sleep(0.5)
    raise AssertionError("the scene does not change as expected")


def test_reconstruction(browser, photographs, temporary, tmp_path):
    browser.choose_files(INPUT, photographs)
    browser.wait_for("document.querySelectorAll('.m-points figure').length === 3")
    browser.evaluate(f"{TABS}[3].click()")
    assert "The network predicts the camera" in browser.evaluate("document.body.innerText")
    assert browser.evaluate("document.querySelector('#m-download').disabled")
    browser.click("#m-reconstruct")
    browser.wait_for("document.querySelector('#m-scene iframe')")
    browser.evaluate("document.querySelector('#m-scene iframe').scrollIntoView({block: 'center'})")
    box = browser.evaluate(
        "(({x, y, width, height}) => [x, y, width, height, y + scrollY])"
        "(document.querySelector('#m-scene iframe').getBoundingClientRect())"
    )
    has_points = lambda pixels: (pixels > 80).mean() > 0.0005  # before the dark background
    first = await_picture(browser, box, tmp_path, has_points)
    x, y, width, height, _ = box
    browser.drag((x + 0.4 * width, y + 0.5 * height), (x + 0.5 * width, y + 0.7 * height))
    await_picture(browser, box, tmp_path, lambda turned: (np.abs(turned - first) > 8).mean() > 0.0005)

    pytest.importorskip("trimesh")
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.click("#m-download")
    end = time.monotonic() + 30
    while not (tmp_path / "scene.glb").exists():
        assert time.monotonic() < end, browser.problems
        time.sleep(0.2)
    assert (tmp_path / "scene.glb").read_bytes()[:4] == b"glTF"
    assert uploaded(temporary) == [] and browser.problems == []

    browser.choose_files(INPUT, photographs[:2])
    browser.wait_for("document.querySelectorAll('.m-points figure').length === 2")
    assert browser.evaluate("document.querySelector('#m-scene iframe')") is None, "of other photographs"


def test_unusable_photographs_are_explained(browser, photographs, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    for chosen, expected in (
        (photographs[:1], "One photograph has nothing to be compared with"),
        (photographs * 3, "9 photographs are too many"),
        ([photographs[0], bad], "bad.jpg: not one of JPEG"),
    ):
        browser.wait_for(f"document.querySelector('{INPUT}')")
        browser.choose_files(INPUT, chosen)
        browser.wait_for(f"document.querySelector('.m-error')?.innerText.includes({expected!r})")
    assert browser.evaluate("document.querySelector('.m-points')") is None and browser.problems == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [500, 1280])
def test_the_page_fits_its_window(server, address, photographs, tmp_path, width, dark):
    with Browser(tmp_path / "profile", (width, 900), dark) as page:
        page.open(f"http://127.0.0.1:{address[1]}")
        page.wait_for(f"document.querySelector('{INPUT}')")
        page.choose_files(INPUT, photographs)
        page.wait_for("document.querySelectorAll('.m-points figure').length === 3")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        corner = image.convert("L").getpixel((2, 2))
    assert (corner < 60) == dark


def test_only_this_machine_is_served(server, address):
    assert reachable(address) and not reachable(("127.0.0.2", address[1]))


def test_the_upload_folder_is_deleted_at_the_end(server, browser, photographs, temporary):
    """The last test: it ends the server, while the features of two photographs are computed."""
    assert list(temporary.glob("muskie-demo-*"))
    browser.choose_files(INPUT, photographs[:2])
    browser.wait_for("document.querySelector('#m-line').innerText.match(/Looking|2 views/)")
    server.send_signal(signal.SIGTERM)
    output, _ = server.communicate(timeout=60)
    assert server.returncode == 0, output
    assert not list(temporary.glob("muskie-demo-*")) and "Traceback" not in output
