"""Packing survives kills and full disks, skips unreadable images, and never overwrites unasked."""

import signal
import subprocess
import sys

import pytest

from conftest import ROOT, write_scene
from muskie_jax.config import folder
from muskie_jax.data.packing.encoding import Encoding
from muskie_jax.data.packing.frames import frames_from_source
from muskie_jax.data.packing.pack import pack
from muskie_jax.data.packing.pack_info import load_pack_info
from muskie_jax.errors import UserError
from muskie_tests.packs import all_scenes, flip_bit, pack_of, write_scenes


def test_unreadable_images_and_empty_scenes_are_skipped_and_named(tmp_path):
    source = write_scenes(tmp_path / "photos", 3, 4)
    bad = tmp_path / "photos" / "scene0" / "frame_1.jpg"
    bad.write_bytes(bad.read_bytes()[:-300])  # detected by decoding only
    for path in (tmp_path / "photos" / "scene1").iterdir():
        path.write_text("no photograph")
    info, packed_source = pack_of(source, tmp_path / "pack", max_bad_fraction=0.5)
    assert len(info.skipped) == 5 and "scene0/frame_1.jpg" in info.skipped[0]
    assert info.dropped == ["scene1"]
    assert [len(scene.frames) for scene in packed_source.scenes] == [3, 4]
    original = all_scenes(source)
    for scene, frame, original_scene, original_frame in ((0, 1, 0, 2), (1, 3, 2, 3)):
        expected = original.open(original_scene, original_frame).pixels()
        assert (packed_source.open(scene, frame).pixels() == expected).all()
    with pytest.raises(UserError, match="3 of 12 images cannot be read, such as scene0/frame_1.jpg"):
        pack_of(source, tmp_path / "other", max_bad_fraction=0.1)


def test_names_that_are_not_utf_8_are_kept(tmp_path):
    write_scene(tmp_path / "photos" / "caf\udce9", 2, 0)
    _, source = pack_of(folder(root=str(tmp_path / "photos")), tmp_path / "pack")
    assert source.scenes[0] == ("caf\udce9", ("caf\udce9/frame_0.jpg", "caf\udce9/frame_1.jpg"))
    assert source.record(0, 1).frame == "caf\udce9/frame_1.jpg"


def test_a_source_without_a_readable_image_is_refused(tmp_path):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "a" / "1.jpg").write_text("no photograph")
    with pytest.raises(UserError, match="none of 1 images can be read, such as a/1.jpg"):
        pack_of(folder(root=str(tmp_path / "photos")), tmp_path / "pack", shards=1, max_bad_fraction=1.0)


def test_a_different_pack_is_replaced_only_with_overwrite(tmp_path):
    source = write_scenes(tmp_path / "photos", 2, 4)
    out = tmp_path / "pack"
    pack_of(source, out)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    pack_of(source, out)
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    with pytest.raises(UserError, match="contains a pack with size=0 instead of 32: pass --overwrite"):
        pack_of(source, out, Encoding(size=32))
    with pytest.raises(UserError, match="has 2 shards, not 3: leave out --shards, or pass --overwrite"):
        pack_of(source, out, shards=3)
    elsewhere = write_scenes(tmp_path / "elsewhere", 2, 4)
    with pytest.raises(UserError, match="contains a pack with other scenes"):
        pack_of(elsewhere, out)
    write_scene(tmp_path / "photos" / "scene2", 1, 2)
    with pytest.raises(UserError, match="contains a pack with other scenes"):
        pack_of(source, out)
    info, packed_source = pack_of(source, out, Encoding(size=32), overwrite=True)
    assert len(packed_source.scenes) == 3 and not info.lossless
    assert sum("array_record" in path.name for path in out.iterdir()) == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(UserError, match="is not empty and is not a pack"):
        pack_of(source, tmp_path / "other", overwrite=True)
    assert (tmp_path / "other" / "thesis.txt").exists()


KILLED = """
import os, pathlib, signal, sys
from absl import flags
sys.path.insert(0, "tests")
import muskie_jax.data.packing.frames as frames
from muskie_tests.packs import pack_of
from muskie_jax.config import folder
record, left = frames.FolderFrames.record, [int(sys.argv[3])]
def counted(*args):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return record(*args)
frames.FolderFrames.record = counted
flags.FLAGS(["pack"])
pack_of(folder(root=sys.argv[1], holdout=0.0), pathlib.Path(sys.argv[2]), shards=4)
"""


def test_a_killed_pack_continues_and_ends_the_same(tmp_path, capsys):
    source = write_scenes(tmp_path / "photos", 4, 4)
    out = tmp_path / "pack"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path / "photos", out, "10"], cwd=ROOT, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    shards = sorted(out.glob("muskie-train.array_record-*"))
    assert len(shards) == 2 and (out / "packing").is_dir()
    with pytest.raises(UserError, match="is not finished"):
        load_pack_info(out)
    times = [path.stat().st_mtime_ns for path in shards]
    with pytest.raises(
        UserError, match="--shards=3, but the unfinished pack in .* has 4 shards: pass --shards=4"
    ):
        pack_of(source, out, shards=3)
    continued, _ = pack_of(source, out, shards=0)
    assert "2 of 4 shards are finished" in capsys.readouterr().err
    assert [path.stat().st_mtime_ns for path in shards] == times, "finished shards are not written again"
    assert not (out / "packing").exists()
    uninterrupted, _ = pack_of(source, tmp_path / "at_once", shards=4)
    assert continued == uninterrupted
    assert (out / "metadata.json").read_bytes() == (tmp_path / "at_once" / "metadata.json").read_bytes()


@pytest.fixture(scope="module")
def photos(photo_folder):
    return folder(root=str(photo_folder), window=4)


def test_worker_processes_write_the_same_pack(photos, tmp_path):
    serial, _ = pack_of(photos, tmp_path / "serial")
    parallel, _ = pack_of(photos, tmp_path / "parallel", workers=2)
    assert parallel == serial


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_is_one_line_and_leaves_no_partial_files(photos, tmp_path, workers):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"array_record-0000.* cannot be written: .*File too large"):
            pack_of(photos, tmp_path, workers=workers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.rglob("*.writing")) and not list(tmp_path.glob("*.array_record-*"))


def test_a_shard_that_reads_back_differently_does_not_count(photos, tmp_path, monkeypatch):
    import muskie_jax.data.packing.shards as shards

    monkeypatch.setattr(shards, "_fsync", flip_bit)
    with pytest.raises(UserError, match="cannot be written: "):
        pack(frames_from_source(all_scenes(photos)), tmp_path, Encoding(), shards=1)
    assert not list(tmp_path.glob("*.array_record-*"))
