"""Files that are not read are counted and named, with what to do about them."""

import json
import pathlib
import shlex

import pytest

from conftest import write_scene
from muskie_jax.data import formats, scan
from muskie_jax.data.doctor import inspect
from muskie_jax.data.formats import INSTALL_HEIF, ffmpeg_command, is_image, is_unread, unread_lines
from muskie_jax.data.layouts import LAYOUTS
from muskie_jax.data.mixture import build_mixture
from muskie_jax.errors import UserError
from muskie_jax.evaluate import make_reconstruction
from muskie_tests.commands import complaint_of, run_in_process
from muskie_tests.runs import nano_config


@pytest.fixture(autouse=True)
def without_heif(monkeypatch):
    """Pretends that pillow-heif is not installed."""
    readable = tuple(suffix for suffix in formats.EXTENSIONS if suffix not in formats.HEIF)
    monkeypatch.setattr(formats, "EXTENSIONS", readable)
    monkeypatch.setattr(scan, "EXTENSIONS", readable)


@pytest.fixture
def root(tmp_path):
    """Two scenes of photographs, with files of other formats in them and next to them."""
    root = tmp_path / "root"
    for number, name in enumerate(("attic", "barn")):
        write_scene(root / name, 8, number)
    names = ("attic/2.HEIC", "attic/10.heic", "barn/walk.MP4", "barn/raw.dng", "barn/new.avif")
    for name in (*names, "barn/._a.heic", "barn/notes.txt", "garden tour.mov", "loose.jpg"):
        (root / name).write_bytes(b"not read")
    return root


def not_read(root, workdir):
    notes = build_mixture(nano_config(root, holdout=0), workdir).notes
    return [note.removeprefix("photos: NOT READ: ") for note in notes if "NOT READ" in note]


def test_unread_files_are_counted_and_named_by_remedy(root, tmp_path):
    heif, others, videos, outside = not_read(root, tmp_path / "run")
    assert heif == f"2 .heic files, such as attic/2.HEIC: {INSTALL_HEIF}"
    assert others == "1 .avif and 1 .dng files, such as barn/new.avif: convert to JPEG or PNG"
    assert videos.startswith("1 .mp4 and 1 .mov files, such as barn/walk.MP4: extract frames with ffmpeg")
    assert outside.startswith("1 .jpg file, loose.jpg, outside all scene folders: move to a folder per")
    cached = not_read(root, tmp_path / "run")
    assert cached == [heif, others, videos, outside]
    (root / "attic" / "2.HEIC").unlink()
    assert not_read(root, tmp_path / "run")[0].startswith("1 .heic file, attic/10.heic: ")


def test_inspect_names_all_unread_files(root, tmp_path, capsys):
    result = inspect(nano_config(root, holdout=0), tmp_path / "out", check=1)
    unread = result["sources"][0]["not_read"]
    assert unread == [
        "attic/2.HEIC", "attic/10.heic", "barn/new.avif", "barn/raw.dng", "barn/walk.MP4",
        "garden tour.mov", "loose.jpg",
    ]  # fmt: skip
    assert json.loads((tmp_path / "out" / "inspect.json").read_text())["sources"][0]["not_read"] == unread
    assert "NOT READ: 2 .heic files, such as attic/2.HEIC" in capsys.readouterr().err


def test_evaluation_names_unread_files(root, tmp_path, capsys):
    config = nano_config(root, holdout=0.5)
    make_reconstruction(config, tmp_path / "run", lambda views: [])
    assert "NOT READ: 2 .heic files, such as attic/2.HEIC" in capsys.readouterr().err


def test_folders_without_unread_files_need_no_note(tmp_path):
    write_scene(tmp_path / "root" / "attic", 8, 0)
    assert not_read(tmp_path / "root", tmp_path / "run") == []


def test_a_folder_of_videos_alone_gets_the_command(tmp_path):
    (tmp_path / "videos").mkdir()
    for name in ("kitchen.mp4", "hall.mp4"):
        (tmp_path / "videos" / name).touch()
    done = run_in_process(
        "muskie_jax", "train", "--config", "configs/photos.py", "--workdir", tmp_path / "run",
        f"--config.sources.photos.root={tmp_path / 'videos'}",
    )  # fmt: skip
    complaint = complaint_of(done)
    assert f"'{tmp_path}/videos'; not read: 2 .mp4 files, such as hall.mp4: extract" in complaint
    assert f"mkdir -p {tmp_path}/videos/hall && ffmpeg -i {tmp_path}/videos/hall.mp4" in complaint


@pytest.mark.parametrize(
    "video, pattern, frames",
    [
        ("attic/walk.mp4", "*/*", "r/attic/walk_%05d.jpg"),  # next to photographs of its scene
        ("my walk.mp4", "*/*", "r/my walk/my walk_%05d.jpg"),
        ("walk.mp4", "*", "r/walk_%05d.jpg"),
    ],
)
def test_frames_are_extracted_to_where_they_are_read(video, pattern, frames):
    (line,) = unread_lines([video], pathlib.Path("r"), pattern)
    command = shlex.split(line.partition("extract frames with ")[2])
    assert command[-1] == frames and f"r/{video}" in command and "fps=2" in command


def test_a_command_can_be_pasted_into_a_shell():
    video = pathlib.Path("it's/a; b.mp4")
    assert shlex.split(ffmpeg_command(video, video.parent))[:3] == ["ffmpeg", "-i", "it's/a; b.mp4"]


def test_files_that_a_pattern_excludes_are_not_unread(tmp_path):
    write_scene(tmp_path / "root" / "attic", 8, 0)
    (tmp_path / "root" / "attic" / "depth.heic").touch()
    table = scan.scan(tmp_path / "root", LAYOUTS["waymo"])
    assert len(table) == 1 and not table.unread


def test_hidden_and_unrelated_files_are_neither_read_nor_reported():
    for name in ("a/._IMG.jpg", "a/._IMG.heic", "a/.DS_Store", "a/notes.txt", "a/depth.exr", "heic"):
        assert not is_image(name) and not is_unread(name), name
    for name in ("a/IMG.JPG", "scan.tif", "b/scan.TIFF", "c.bmp"):
        assert is_image(name) and not is_unread(name), name


def test_an_unread_folder_names_what_it_has(tmp_path):
    (tmp_path / "root" / "attic").mkdir(parents=True)
    (tmp_path / "root" / "attic" / "IMG_1.heic").touch()
    with pytest.raises(UserError, match=r"no image .* not read: 1 .heic file, attic/IMG_1.heic: install"):
        scan.scan(tmp_path / "root")
