"""`muskie match` and `muskie track` as a user runs them."""

import csv
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from muskie_jax.photographs.matching import Matches, match_warnings
from muskie_tests.commands import complaint_of, run_in_process
from muskie_tests.photographs import texture, write_photograph, write_pixel_network

SIZE, SHIFT = 192, (48, 32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_pixel_network(tmp_path_factory.mktemp("model") / "pixels.safetensors")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a.png, a shifted view b.jpg, another scene c.png, and nothing else."""
    world, (x, y) = texture(400, 400), SHIFT
    write_photograph(tmp_path / "a.png", world[:SIZE, :SIZE])
    write_photograph(tmp_path / "views_b.png", world[y : y + SIZE, x : x + SIZE], orientation=6)
    write_photograph(tmp_path / "views_c.png", texture(SIZE, SIZE, seed=9))
    return tmp_path


def run(*arguments):
    done = run_in_process("muskie_jax", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def arrays_of(path):
    with np.load(path) as file:
        return dict(file)


def test_match_writes_a_picture_a_table_and_arrays(folder, model):
    out = folder / "matches.png"
    flags = ("--model", model, "--size", SIZE, "--out", out)
    result, log = run("match", folder / "a.png", folder, *flags)
    related, unrelated = result["matches"]
    assert [path.rpartition("/")[2] for path in result["out"]] == [
        "matches.png",
        "matches.csv",
        "matches.npz",
    ]
    assert (related["few"], unrelated["few"]) == (False, True)
    assert f"views_b.png: {related['muskie']} of 144 patches match\n" in log
    name = folder / "views_c.png"
    assert log.count("few matches") == 1
    assert f"1 of 2 photographs ({name}) has few matches, as different scenes have;" in log
    arrays = arrays_of(folder / "matches.npz")
    assert len(arrays["score"]) == related["muskie"] + unrelated["muskie"]
    assert arrays["photographs"].tolist() == [str(folder / name) for name in ("views_b.png", "views_c.png")]
    chosen = arrays["photograph"] == 0
    errors = np.abs(arrays["second"] + SHIFT - arrays["first"])[chosen]
    assert chosen.sum() == related["muskie"] and np.median(errors) < 1
    rows = rows_of(folder / "matches.csv")
    assert list(rows[0]) == ["x1", "y1", "x2", "y2", "score", "photograph"]
    written = np.array([[float(row[name]) for name in ("x1", "y1", "x2", "y2")] for row in rows])
    np.testing.assert_allclose(written, np.hstack([arrays["first"], arrays["second"]]), atol=0.006)
    assert rows[0]["photograph"] == str(folder / "views_b.png")
    with Image.open(out) as picture:
        assert picture.width > picture.height / 2


def test_track_writes_what_was_found(folder, model):
    flags = ("--model", model, "--size", SIZE, "--points", "120,100; 20,20", "--out", folder / "tracks.png")
    result, log = run("track", folder / "a.png", folder, *flags)
    assert result["found"] == [1, 0]
    assert "Point 1 at 120,100: found in 1 of 2 photographs" in log
    rows = rows_of(folder / "tracks.csv")
    assert list(rows[0]) == ["point", "photograph", "x", "y", "confidence", "visible"]
    assert [row["visible"] for row in rows] == ["True", "False", "False", "False"]
    np.testing.assert_allclose([float(rows[0]["x"]), float(rows[0]["y"])], (72, 68), atol=3)
    document = json.loads((folder / "tracks.json").read_text())
    assert document["points"] == [[120, 100], [20, 20]] and document["query"] == str(folder / "a.png")
    assert [str(found["x"]) for found in document["found"]] == [row["x"] for row in rows]
    arrays = arrays_of(folder / "tracks.npz")
    assert arrays["positions"].shape == (2, 2, 2) and arrays["visible"].tolist() == [
        [True, False],
        [False] * 2,
    ]
    assert (folder / "tracks.png").is_file()


def test_files_are_replaced_on_request_only_and_photographs_never(folder, model):
    arguments = (
        "match",
        folder / "a.png",
        folder / "views_b.png",
        "--model",
        model,
        "--size",
        96,
    )
    run(*arguments, "--out", folder / "m.png")
    assert "exists: choose another path, or pass --force" in complaint_of(
        run_in_process("muskie_jax", *arguments, "--out", folder / "m.png")
    )
    run(*arguments, "--out", folder / "m.png", "--force")
    before = (folder / "a.png").read_bytes()
    complaint = complaint_of(run_in_process("muskie_jax", *arguments, "--out", folder / "a.png", "--force"))
    assert "is one of the photographs: choose another name" in complaint
    assert (folder / "a.png").read_bytes() == before


def test_warnings_are_one_line_for_all_photographs():
    few = Matches(np.zeros((1, 2)), np.zeros((1, 2)), np.ones(1), 100, np.zeros(1))
    many = Matches(np.zeros((95, 2)), np.zeros((95, 2)), np.ones(95), 100, np.full(95, 3.0))
    still = many._replace(moved=np.r_[np.full(90, 0.5), np.full(5, 4.0)])
    names = [pathlib.Path(f"{number}.jpg") for number in range(6)]
    pairs = list(zip(names, [few, many, few, few, few, many]))
    line = "4 of 6 photographs (0.jpg, 2.jpg, 3.jpg, ...) have few matches, as different scenes have"
    assert match_warnings(pairs, turned=True) == [line]
    assert match_warnings(pairs) == [f"{line}; if a camera was turned, try --turned"]
    (line,) = match_warnings(list(zip(names, [many, still])))
    assert line.startswith("1 of 2 photographs (1.jpg) has nearly all patches matched at the same position")
    assert line.endswith("it is the same photograph, or the camera hardly moved: by less than a patch")
    (line,) = match_warnings([(names[0], still._replace(predictor="attention"))])
    assert line.startswith("0.jpg has nearly all") and line.endswith("too little; try --predictor=features")
    assert match_warnings([(names[0], many), (names[1], many._replace(moved=None))]) == []


MATCH, TRACK = ("match", "{a}", "{b}", "--out", "{out}"), ("track", "{a}", "{b}", "--out", "{out}")


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (("match",), "muskie match needs files: run muskie match 1.jpg 2.jpg <flags>"),
        (("match", "--out={out}"), "muskie match needs files: run muskie match 1.jpg 2.jpg <flags>"),
        (("match", "--out", "{out}"), "muskie match needs files: run muskie match 1.jpg 2.jpg <flags>"),
        (("match", "{a}", "{b}"), "--out is missing: pass --out matches.png"),
        (("match", "{a}", "--out", "{out}"), "there is no other photograph than {a}: pass at least two"),
        (("match", "{a}", "{a}", "--out", "{out}"), "there is no other photograph than"),
        (
            ("match", "{a}", "{b}", "--out", "x"),
            "--out=x must be a picture: a name that ends with one of .png",
        ),
        (("match", "{a}", "no.jpg", "--out", "{out}", "--model={model}"), "no.jpg: No such file"),
        ((*MATCH, "--model=no/such/model"), "'no/such/model' does not exist: choose small or tiny, a work"),
        ((*MATCH, "--model={model}", "--size=9"), "--size=9 pixels must be at least the patch size 16"),
        (("match", "no/", "--out", "{out}"), "no: No such file"),
        (("match", "{a}", "{b}", "no", "--out", "{out}"), "no: No such file"),
        (("track", "{a}", "{b}", "no", "--points=1,2", "--out", "{out}"), "no: No such file"),
        (
            ("match", "{a}", "{b}", "--out", "{b}/o.png"),
            "{b} is a file, not a folder: choose",
        ),
        (("match", "{a}", "{b}", "--out", "/proc/o.png"), "--out=/proc/o.png cannot be written"),
        ((*MATCH, "--max=0"), "max"),
        ((*MATCH, "--baseline=orb"), "baseline"),
        ((*MATCH, "--points=1,2"), "Unknown command line flag 'points'"),
        (TRACK, '--points is missing: pass --points "812,430; 96,310"'),
        ((*TRACK, "--points=1,2,3"), "--points=1,2,3 must be x,y in pixels, separated by semicolons"),
        ((*TRACK, "--points=-1,2"), "point -1,2 is outside {a}: x must be from 0 to 192, y from 0 to 192"),
    ],
)
def test_mistakes_are_one_line(arguments, expected, folder, model):
    paths = {"a": folder / "a.png", "b": folder / "views_b.png", "out": folder / "o.png", "model": model}
    fill = lambda text: text.format(**paths)
    assert fill(expected) in complaint_of(run_in_process("muskie_jax", *map(fill, arguments)))
    assert len(list(folder.iterdir())) == 3, "nothing was written"


def test_help_says_what_is_written():
    texts = [run_in_process("muskie_jax", name, "--help").stdout for name in ("match", "track", "inpaint")]
    texts.append(run_in_process("muskie_jax", "features", "--help").stdout)
    for text, expected in zip(
        texts, ("a .csv and a .npz file", ".json files", "Picture to write.", ".npz; a")
    ):
        assert expected in text and "python -m" not in text and "on the Hugging Face hub" in text
    assert "How patches are compared" in texts[0]


def test_sift_without_opencv_says_what_to_install(folder, model, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    out = ("--out", folder / "o.png", "--model", model, "--baseline", "sift")
    done = run_in_process("muskie_jax", "match", folder / "a.png", folder / "views_b.png", *out)
    assert (
        '--baseline sift needs OpenCV: install it with python -m pip install -e ".[opencv]"'
        in complaint_of(done)
    )


@pytest.mark.extras
def test_sift_is_drawn_and_written_beside(folder, model):
    pytest.importorskip("cv2")
    from muskie_jax.photographs.sift import sift_matches

    x, y = SHIFT
    world = texture(800, 800, seed=3)
    first = write_photograph(folder / "first.png", world[:400, :400])
    second = write_photograph(
        folder / "second.png", world[y : y + 400, x : x + 400], enlarge=2, orientation=6
    )
    matches = sift_matches(first, second)
    errors = np.linalg.norm(matches.second / 2 + SHIFT - matches.first, axis=-1)
    assert len(errors) > 100 and np.median(errors) < 0.5 and (np.diff(matches.score) <= 0).all()
    assert len(np.unique(matches.second, axis=0)) > 0.9 * len(matches.second)
    plain = write_photograph(folder / "plain.png", np.full((64, 64, 3), 100, np.uint8))
    assert len(sift_matches(first, plain).score) == 0 == len(sift_matches(plain, first).score)
    out = ("--out", folder / "o.png", "--model", model, "--size", 96, "--baseline", "sift")
    result, log = run("match", first, second, *out)
    assert result["matches"][0]["sift"] == len(matches.score) and "; SIFT: " in log
    assert len(rows_of(folder / "o.sift.csv")) == len(arrays_of(folder / "o.sift.npz")["score"]) > 100
    assert len(rows_of(folder / "o.csv")) == result["matches"][0]["muskie"]
