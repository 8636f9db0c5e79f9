"""Takes a picture of the demo page with photographs and a point that was clicked in the first of them.

    PYTHONPATH=tests python -m muskie_tests.demo_picture page.jpg 0.5,0.5 1.jpg 2.jpg

The point is x and y as fractions of the first photograph. Needs Chromium, and the extra `demo`.
"""

import io
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

from PIL import Image

from muskie_tests.browser import Browser

SECONDS = 120  # until the page is served, and until features are computed


def take_picture(out: pathlib.Path, point: tuple[float, float], photographs: list[pathlib.Path]) -> None:
    """Writes the picture. Raises AssertionError if the page reports an error, or does not answer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host, port = probe.getsockname()
    server = subprocess.Popen([sys.executable, "-m", "muskie_jax", "demo", f"--port={port}"])
    try:
        end = time.monotonic() + SECONDS
        while not _reachable(host, port):
            assert server.poll() is None and time.monotonic() < end, "the page is not served"
            time.sleep(0.2)
        with tempfile.TemporaryDirectory() as profile, Browser(pathlib.Path(profile)) as page:
            page.open(f"http://{host}:{port}")
            page.wait_for("document.querySelector('#m-files input[type=file]')")
            page.choose_files("#m-files input[type=file]", photographs)
            views = f"document.querySelectorAll('.m-points figure').length === {len(photographs)}"
            page.wait_for(views, SECONDS)
            page.click('.m-points figure[data-view="0"] .m-frame', *point)
            page.wait_for("document.querySelector('.m-query .m-mark:not(.m-waiting)')")
            page.evaluate("scrollTo(0, 0)")
            time.sleep(1)  # animations end
            shot = pathlib.Path(profile) / "page.png"
            page.screenshot(shot)
            picture = Image.open(io.BytesIO(shot.read_bytes())).convert("RGB")
            assert page.problems == []
    finally:
        server.terminate()
        server.wait()
    picture.save(out, quality=88)


def _reachable(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


if __name__ == "__main__":
    out, point, *files = sys.argv[1:]
    x, y = map(float, point.split(","))
    take_picture(pathlib.Path(out), (x, y), list(map(pathlib.Path, files)))
