"""The page: self-contained, names escaped, and free of errors in a real browser."""

import base64
import html
import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT
from muskie_jax.report.results_file import FigureFile, append
from muskie_jax.report.write import write_report
from muskie_tests.commands import run_module
from muskie_tests.results import (
    EARLY,
    LATE,
    NAVI,
    SHOWN,
    STILL,
    UNTRAINED,
    correspondence,
    make_results,
    reconstruction,
    unit,
)

SCREENSHOT = ROOT / ".cache" / "report.png"  # kept for a person to look at
VOID = {"meta", "img"}
CHROMIUM = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of results with their report."""
    folder = tmp_path_factory.mktemp("report") / "evaluation"
    make_results(folder)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def text(folder):
    return (folder / "report.html").read_text()


class Page(html.parser.HTMLParser):
    """Parses a page, whose tags must all close, into (tag, attributes, text) in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))
        if tag not in VOID:
            self._open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, text):
        for element in self._open:
            element[2].append(text)

    def all(self, *tags):
        return [(tag, attributes, "".join(text)) for tag, attributes, text in self.elements if tag in tags]


def test_page_is_self_contained(text, folder):
    page = Page(text)
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", text)
    for _, attributes, _ in page.elements:
        assert not {"onclick", "onerror", "srcset", "ping"} & set(attributes)
        assert attributes.get("href", "#").startswith("#")
        assert attributes.get("src", "data:image/").startswith("data:image/")
    assert not page.all("link", "iframe", "object", "image", "use")
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"][1:] for _, attributes, _ in page.all("a")}
    assert targets == set(ids)


def test_page_embeds_pictures_of_the_folder_only(text, folder):
    images = [attributes for _, attributes, _ in Page(text).all("img")]
    found = [base64.b64decode(attributes["src"].partition(",")[2]) for attributes in images]
    names = ["tracks.jpg", "features.png", "early.png", "reconstruction.jpg"]
    assert found == [(folder / "figures" / name).read_bytes() for name in names]
    assert {(attributes["width"], attributes["height"]) for attributes in images} == {("240", "60")}
    assert images[1]["src"].startswith("data:image/png;") and "must not be there" not in text
    # Collapsed: layers of two datasets, all rows of reconstruction, earlier pictures.
    collapsed = [text for _, _, text in Page(text).all("details")]
    assert ["of an earlier checkpoint" in text for text in collapsed] == [False, False, False, True]


def test_names_are_escaped(text):
    page = Page(text)
    assert len(page.all("script")) == 1 and "nope" not in page.all("script")[0][2]
    assert not page.all("x", "device")
    assert sum(SHOWN in cell for _, _, cell in page.all("td")) >= 10
    assert any(f"A caption, {SHOWN}" in caption for _, _, caption in page.all("figcaption"))
    assert "a <b>device</b>" in [fact for _, _, fact in page.all("dd")]


def test_best_values_are_marked(text):
    best = [cell for _, attributes, cell in Page(text).all("td") if "best" in attributes.get("class", "")]
    assert best[:9] == ["20.00", "25.00", "50.00", "20.00", "25.00", "50.00", "6.00", "3.33", "8.33"]


def test_summary_and_facts(text):
    page = Page(text)
    sentences = [text for _, _, text in page.all("li")]
    late = f"{SHOWN} at 400"
    assert (
        f"navi, 8 views of 512x512: DINOv2 has the lowest mean error, 20.0 px, with 50% of points within "
        f"10 px; next is {late} at 20.0 px. Baselines: untrained (small) at 80.0 px, did not move at "
        f"100.0 px." in sentences
    )
    assert (
        f"kitchen, 96x128, mask random 0.9: with 4 views, 1 of them unmasked, the error on masked patches "
        f"is 75% lower ({late}), 33% lower (untrained (small)) when the other views show the same scene "
        f"rather than another one. The lowest error is 0.0150 ({late}), 81% below that of the mean colour."
        in sentences
    )
    facts = [text for _, _, text in page.all("dd")]
    assert "12 groups, 8 views, 512x512 pixels, up to 700 pairs of a point and a view" in facts


@pytest.mark.parametrize("trivial", [29.0, 30.2])  # a lead below 1% does not count
def test_summary_reports_that_no_model_beats_the_baselines(tmp_path, trivial):
    rows = [correspondence(NAVI, "attention", "all", 30.0)]
    append(tmp_path / "results.jsonl", unit(0, LATE, "correspondence", rows))
    rows = [correspondence(NAVI, "still", "all", trivial)]
    append(tmp_path / "results.jsonl", unit(1, STILL, "correspondence", rows))
    text = write_report(tmp_path)["html"].read_text()
    expected = "no trained model beats the baselines: did not move has the lowest mean error, "
    expected += f"{trivial} px; the best trained model is {SHOWN} at 400 at 30.0 px, "
    expected += "with 33% of points within 10 px."
    assert [item for _, _, item in Page(text).all("li") if expected in item]
    assert f"{SHOWN} at 400 has the lowest" not in html.unescape(text)


def test_summary_reports_that_no_model_gains_from_other_views(tmp_path):
    """With the most reference views, in any order of rows."""
    rows = [
        reconstruction(mse, views, context, references=references)
        for references, views, own in ((2, 4, 0.2), (1, 4, 0.1), (2, 3, 0.1), (0, 8, 0.1))
        for context, mse in (("own", own), ("distractor", 0.16))
    ]
    append(tmp_path / "results.jsonl", unit(0, LATE, "reconstruction", rows))
    _, _, sentence = Page(write_report(tmp_path)["html"].read_text()).all("li")[0]
    assert "with 4 views, 2 of them unmasked, " in sentence and f" 25% higher ({SHOWN} at 400) " in sentence
    assert "No model gains from other views here. The lowest error is 0.2000 " in sentence
    assert sentence.endswith("no lower than that of the mean colour, 0.0800.")


def test_parts_without_measurements_are_omitted(tmp_path):
    rows = [correspondence(NAVI, "attention", "all", 30.0)]
    append(tmp_path / "results.jsonl", unit(0, LATE, "correspondence", rows))
    page = Page(write_report(tmp_path)["html"].read_text())
    assert [title for _, _, title in page.all("h2")] == ["What was measured", "Correspondence"]
    charts = [text for _, attributes, text in page.all("svg") if attributes["class"] == "chart"]
    assert len(charts) == 1 and charts[0].startswith("Points within a distance (%)")
    assert not page.all("details", "figcaption", "nav", "img")
    append(tmp_path / "results.jsonl", unit(1, EARLY, "another"))
    assert Page(write_report(tmp_path)["html"].read_text()).all("h1")


def test_curves_over_training(text):
    """Two checkpoints on one curve, horizontal lines for other models; all on one scale."""
    chart = text.split('id="part0"')[1].split("kitchen, 4 views")[0]
    chart = next(part for part in chart.split("<svg") if ">Mean error (px) by training step" in part)
    chart = chart.split("</svg>")[0]
    texts = [float(x) for x in re.findall(r'<text x="(.*?)"', chart)]
    assert min(texts) >= 0 and max(texts) <= 440 and ">0</text>" in chart
    groups = re.findall(r'<g class="(\w+)">.*?<polyline points="(.*?)"', chart)
    assert [style[0] for style, _ in groups] == ["g", "g", "c", "c"]  # baselines are grey
    ys = []
    for _, points in groups:
        (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in points.split())
        assert x0 < x1
        ys.append((y0, y1))
    assert ys[2][0] > ys[1][0] > ys[0][0]  # less error is lower on the page
    zero, hundred = ys[0][0] + (ys[0][0] - ys[1][0]) * -5, ys[0][0]  # from the lines at 100 and 80
    scaled = lambda y: 100 * (zero - y) / (zero - hundred)
    np.testing.assert_allclose(
        [scaled(y) for y in np.ravel(ys)], [100, 100, 80, 80, 20, 20, 40, 20], atol=0.5
    )


def chart_of(text, title):
    """Returns (class, coordinates of points) of each curve of the first chart with this title."""
    chart = next(part for part in text.split("<svg") if f"<title>{title}" in part).split("</svg>")[0]
    groups = re.findall(r'<g class="(\w+)">.*?<polyline points="(.*?)"', chart)
    return [
        (style, [tuple(map(float, coords.split(","))) for coords in points.split()])
        for style, points in groups
    ]


@pytest.mark.parametrize(
    "source, starts", [("untrained, as runs/hostile", True), ("untrained, as runs/other", False)]
)
def test_training_curve_starts_at_its_untrained_model(tmp_path, source, starts):
    start = UNTRAINED._replace(source=source)
    for number, (model, px) in enumerate(((start, 80.0), (EARLY, 40.0), (LATE, 20.0))):
        rows = [correspondence(NAVI, "attention", "all", px)]
        append(tmp_path / "results.jsonl", unit(number, model, "correspondence", rows))
    text = write_report(tmp_path)["html"].read_text()
    curves = chart_of(text, "Mean error (px) by training step")
    (run,) = (points for style, points in curves if style == "c0")
    assert len(run) == (3 if starts else 2) and len(curves) == (1 if starts else 2)
    assert run[0][0] == (52.0 if starts else 145.5)  # the left end; step 100 of 400
    curves = chart_of(text, "Points within a distance (%)")
    assert [style for style, _ in curves] == ["g0", "c0"]  # there, both are drawn


def test_one_checkpoint_and_its_untrained_model_are_no_curve(tmp_path):
    """A line between both would look like the course of a training."""
    start = UNTRAINED._replace(source="untrained, as runs/hostile")
    for number, (model, px) in enumerate(((start, 80.0), (LATE, 20.0))):
        rows = [correspondence(NAVI, "attention", "all", px)]
        append(tmp_path / "results.jsonl", unit(number, model, "correspondence", rows))
    assert "Mean error (px) by training step" not in write_report(tmp_path)["html"].read_text()


def test_reconstruction_curves_start_at_the_target_alone(text):
    curves = chart_of(text, "MSE on masked patches, 1 reference view by views")
    (baseline,) = (points for style, points in curves if style == "g2")
    assert len(baseline) == 2 and baseline[0][1] == baseline[1][1], "the mean colour is a horizontal line"
    curves = [(style, points) for style, points in curves if style != "g2"]
    assert len(curves) == 4 and {len(points) for _, points in curves} == {3}  # 1, 2 and 4 views
    for style in ("g0", "c0"):
        same_scene, distractors = (points for found, points in curves if found == style)
        assert same_scene[0] == distractors[0] and same_scene[2] != distractors[2]
    heights = {points[0][1] for _, points in curves}
    assert len(heights) == 2  # one start per model


@pytest.mark.parametrize(
    "source, drawn", [("untrained, as runs/hostile", ["c0", "g1"]), ("untrained", ["c0", "g0", "g1"])]
)
def test_reconstruction_chart_omits_the_untrained_model_of_a_trained_one(tmp_path, source, drawn):
    rows = [reconstruction(0.2, 1, "none", references=0), reconstruction(0.1, 2, "own")]
    for number, model in enumerate((UNTRAINED._replace(source=source), LATE)):
        append(tmp_path / "results.jsonl", unit(number, model, "reconstruction", rows))
    text = write_report(tmp_path)["html"].read_text()
    curves = chart_of(text, "MSE on masked patches, 1 reference view by views")
    assert sorted(style for style, _ in curves) == drawn


def test_angle_chart_has_ticks_at_the_edges_of_ranges(text):
    chart = next(part for part in text.split("<svg") if "two views (degrees)" in part).split("</svg>")[0]
    labels = re.findall(r">([^<]*)</text>", chart)
    assert labels[-5:-2] == ["0", "10", "20"] and "at 10-20" in chart


def test_captions_do_not_repeat_labels(tmp_path, folder):
    shutil.copytree(folder / "figures", tmp_path / "figures")
    labels = NAVI | {"group": "a/b", "predictor": "attention", "layer": "all", "num_reference": 2}
    caption = "did not move: where its attention finds them (navi, a/b)"
    figures = [FigureFile("figures/tracks.jpg", "tracks", labels, caption)]
    append(tmp_path / "results.jsonl", unit(0, STILL, "correspondence", figures=figures))
    captions = Page(write_report(tmp_path)["html"].read_text()).all("figcaption")
    expected = (
        "did not move: where its attention finds them (navi, a/b) [8 views, 2 reference views, 512x512]"
    )
    assert [caption for _, _, caption in captions] == [expected]


def test_pages_of_figures_are_linked(tmp_path, folder):
    shutil.copytree(folder / "figures", tmp_path / "figures")
    inside = "figures/a b.html"
    for path in (tmp_path / inside, tmp_path / "figures/a.svg", tmp_path.parent / "outside.html"):
        path.write_text("a page")
    pages = ["", inside, "../outside.html", "figures/missing.html", "figures/a.svg"]
    figures = [
        FigureFile("figures/tracks.jpg", "geometry", NAVI | {"layer": 1}, "a", page) for page in pages
    ]
    for number, figure in enumerate(figures):  # one figure of a file is shown
        append(tmp_path / "results.jsonl", unit(number, STILL, "geometry", figures=[figure]))
        links = re.findall(r'<a href="([^#]*?)">', write_report(tmp_path)["html"].read_text())
        assert links == (["figures/a%20b.html"] if figure.page == inside else [])


def browse(page, *options):
    """Returns (document after its scripts ran, console lines) of a page in a headless browser."""
    profile = page.parent / "profile"
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--enable-logging=stderr", "--v=0", "--virtual-time-budget=3000", "--hide-scrollbars",
         f"--user-data-dir={profile}", *options, "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def without_policy(text):
    """Returns a page that lets scripts of a test run too."""
    return re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", text)


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")


@needs_browser
def test_browser_reports_no_error(folder):
    SCREENSHOT.parent.mkdir(exist_ok=True)
    SCREENSHOT.unlink(missing_ok=True)
    document, console = browse(
        folder / "report.html", "--window-size=1280,4000", f"--screenshot={SCREENSHOT}"
    )
    assert console == []
    assert "</html>" in document
    with Image.open(SCREENSHOT) as image:
        assert image.size == (1280, 4000)
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert (pixels == pixels[0]).all(-1).mean() < 0.98  # not blank


@needs_browser
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: without_policy(text).replace("<script>", "<script>nope();"), "nope is not defined"),
        (
            lambda text: text.replace("<h1>", "<script>document.title = 'in'</script><h1>"),
            "Content Security",
        ),
    ],
    ids=["failing script", "foreign script"],
)
def test_browser_would_report_an_error(folder, tmp_path, change, message):
    path = tmp_path / "broken.html"
    path.write_text(change((folder / "report.html").read_text()))
    document, console = browse(path)
    assert any(message in line for line in console) and "<title>Evaluation</title>" in document


@needs_browser
def test_click_sorts_and_page_fits_the_window(folder, tmp_path):
    """Uses a copy without the policy, which would block the test's script."""
    probe = """<script>
      const table = document.querySelectorAll("table")[2];  // protocol published
      const cells = (body, column) => [...body.rows].map((row) => row.cells[column].dataset.value);
      const names = () => [...table.tBodies].map((body) => cells(body, 2));
      const button = table.tHead.rows[0].cells[2].firstChild, seen = [names()];
      button.click(); seen.push(names());
      button.click(); seen.push(names());
      table.tHead.rows[0].cells[5].firstChild.click();
      seen.push(cells(table.tBodies[0], 5));
      table.tHead.rows[0].cells[5].firstChild.click();
      seen.push(cells(table.tBodies[0], 5));
      table.tHead.rows[0].cells[0].firstChild.click();
      seen.push(cells(table.tBodies[0], 0).map((name) => name.slice(0, 3)));
      seen.push([document.documentElement.scrollWidth, innerWidth]);
      const pre = document.createElement("pre"); pre.id = "seen";
      pre.textContent = JSON.stringify(seen); document.body.append(pre);
    </script>"""
    text = without_policy((folder / "report.html").read_text())
    path = tmp_path / "copy.html"
    path.write_text(text.replace("</body>", f"{probe}</body>"))
    document, console = browse(path, "--window-size=500,900")
    assert console == []
    before, up, down, cm_up, cm_down, named, (width, window) = json.loads(
        html.unescape(re.search(r'<pre id="seen">(.*?)</pre>', document)[1])
    )
    for bodies in (before, up, down):
        assert len(bodies[0]) == 4 and len(bodies[1]) == 5  # ours, and the paper's
    numbers = lambda bodies: [[float(value) for value in body] for body in bodies]
    assert numbers(up) == [sorted(body) for body in numbers(before)] != numbers(before)
    assert numbers(down) == [body[::-1] for body in numbers(up)]
    assert (cm_up, cm_down) == (["6.0", "30.0", "50.0", ""], ["50.0", "30.0", "6.0", ""])
    assert named == ["</t", "did", "DIN", "unt"]
    assert width <= window == 500


def test_command(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    (folder / "report.html").unlink()
    done = run_module("muskie_jax.report", "--workdir", folder)
    assert done.returncode == 0, done.stderr
    paths = json.loads(done.stdout)
    names = {"csv": "results.csv", "markdown": "tables.md", "latex": "tables.tex", "html": "report.html"}
    assert paths == {kind: str(folder / name) for kind, name in names.items()}
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
