"""A pack gives what its source gives, survives kills, and knows when it is damaged."""

import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, write_scene
from muskie_jax.config import dataset, folder, packed, validate
from muskie_jax.data.images import BadImage
from muskie_jax.data.packing.encoding import Encoding
from muskie_jax.data.packing.frames import frames_of
from muskie_jax.data.packing.pack import pack
from muskie_jax.data.packing.packed import load_pack
from muskie_jax.data.packing.remote import RemotePack
from muskie_jax.data.pipeline import Pipeline
from muskie_jax.errors import UserError
from muskie_jax.train import train
from muskie_tests.commands import complaint_of, run_module
from muskie_tests.packs import config_of, pack_of, sampler_of, whole
from muskie_tests.runs import nano_config
from muskie_tests.trees import TREES


@pytest.fixture(scope="module")
def sources(photo_folder, tmp_path_factory):
    """Sources of a config: plain scenes, object masks, fixed groups of views."""
    root = tmp_path_factory.mktemp("trees")
    for name in ("co3d", "megadepth"):
        TREES[name](root / name)
    rng = np.random.default_rng(0)
    for path in (root / "co3d").rglob("images/*.jpg"):  # a crop of one colour would look like any other
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(path)
    return {
        "photos": folder(root=str(photo_folder), window=4),
        "co3d": dataset("co3d", root=str(root / "co3d"), holdout=0.1),
        "megadepth": dataset("megadepth", root=str(root / "megadepth"), holdout=0.1),
    }


@pytest.fixture(scope="module")
def packs(sources, tmp_path_factory):
    """Each of them, packed without loss: (what was packed, the config of the packed source)."""
    made = {}
    for name, source in sources.items():
        out = tmp_path_factory.mktemp("packs") / name
        made[name] = pack_of(source, out)[0], packed(root=str(out), holdout=source.holdout)
    return made


def flip_bit(path):
    """Damages the last photograph of a shard."""
    data = bytearray(path.read_bytes())
    data[data.rindex(b"\xff\xd8\xff") + 300] ^= 1
    path.write_bytes(data)


def batches(sampler, workers=0, count=6):
    updates = itertools.islice(Pipeline(sampler, range(4), workers).updates(), count)
    return [(bucket, key, batch[key]) for u in updates for bucket, batch in u for key in sorted(batch)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["photos", "co3d", "megadepth"])
def test_a_lossless_pack_gives_the_same_batches_as_its_source(sources, packs, name, workers):
    pack, source = packs[name]
    assert pack.lossless and not pack.skipped
    expected = batches(sampler_of(sources[name]))
    found = batches(sampler_of(source), workers)
    assert len(expected) == len(found) == 36
    for (bucket, key, a), (other_bucket, other_key, b) in zip(expected, found):
        assert (bucket, key) == (other_bucket, other_key)
        np.testing.assert_array_equal(a, b)


def test_everything_else_of_the_source_is_packed_too(sources, packs):
    for name, source in sources.items():
        before, after = whole(source), whole(packs[name][1])
        assert list(before.scenes) == list(after.scenes)
        assert (before.scenes.sizes == after.scenes.sizes).all()
        assert (before.window, before.zoom) == (after.window, after.zoom)
        boxes = [
            [source.object_box(scene, frame) for scene in range(3) for frame in range(3)]
            for source in (before, after)
        ]
        assert boxes[0] == boxes[1] and any(boxes[0]) == (name == "co3d")
    assert packs["megadepth"][0].settings["groups"]
    # 3 groups of 8 views are of 8 + 4 different photographs of one place, and 8 of another.
    assert sum(shard["records"] for shard in packs["megadepth"][0].shards) == 20


def test_window_and_zoom_can_be_set_on_reading(packs):
    source = packs["co3d"][1].copy_and_resolve_references()
    assert (whole(source).window, whole(source).zoom) == (32, 0.5)
    source.window, source.zoom = 0, 0.0
    assert (whole(source).window, whole(source).zoom) == (None, 0.0)


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"root": ""}, "config.sources.photos.root is empty"),
        ({"window": -1}, "window=-1: write 0 or more, or None"),
        ({"zoom": 1.5}, "zoom=1.5: write a share from 0 to 1"),
    ],
)
def test_settings_of_packed_sources_are_checked(settings, expected):
    with pytest.raises(UserError, match=expected):
        validate(config_of(packed(**{"root": "pack"} | settings)))


def test_a_packed_source_is_pickled_as_a_path(packs):
    source = whole(packs["photos"][1])
    source.open(0, 0)
    data = pickle.dumps(source)
    assert len(data) < 2000
    assert (pickle.loads(data).open(1, 2).pixels() == source.open(1, 2).pixels()).all()


def test_training_from_a_pack_equals_training_from_the_folder(photo_folder, packs, tmp_path):
    digests = []
    for name, source in (("folder", None), ("pack", packs["photos"][1])):
        config = nano_config(photo_folder, window=4)
        config.sources.photos = source or config.sources.photos
        config.duration = "3 steps"
        config.buckets = {"resolutions": (((32, 48),),), "views": (4,)}
        result = train(config, tmp_path / name)
        digests.append((result["params_digest"], result["loss"]))
    assert digests[0] == digests[1]


def test_tfds_opens_a_pack_and_tensorflow_is_not_needed(packs):
    script = """
import sys
import tensorflow_datasets as tfds
examples = tfds.builder_from_directory(sys.argv[1]).as_data_source("train")
print(len(examples), examples[3]["image"].shape, examples[3]["frame"])
from muskie_jax.data.packing import command
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", script, packs["photos"][1].root], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "28 (72, 96, 3) b'attic/frame_3.jpg'"


# --- Unreadable images, other plans, kills ------------------------------------------------------------


def write_scenes(root, count, frames):
    for number in range(count):
        write_scene(root / f"scene{number}", frames, number)
    return folder(root=str(root), holdout=0.0)


def test_unreadable_images_and_empty_scenes_are_left_out_and_named(tmp_path):
    source = write_scenes(tmp_path / "photos", 3, 4)
    bad = tmp_path / "photos" / "scene0" / "frame_1.jpg"
    bad.write_bytes(bad.read_bytes()[:-300])  # only decoding shows it
    for path in (tmp_path / "photos" / "scene1").iterdir():
        path.write_text("no photograph")
    done, read = pack_of(source, tmp_path / "pack", max_bad_fraction=0.5)
    assert len(done.skipped) == 5 and "scene0/frame_1.jpg" in done.skipped[0]
    assert done.dropped == ["scene1"]
    assert [len(scene.frames) for scene in read.scenes] == [3, 4]
    original = whole(source)
    for scene, frame, from_scene, from_frame in ((0, 1, 0, 2), (1, 3, 2, 3)):
        expected = original.open(from_scene, from_frame).pixels()
        assert (read.open(scene, frame).pixels() == expected).all()
    with pytest.raises(UserError, match="3 of 12 images cannot be read, such as scene0/frame_1.jpg"):
        pack_of(source, tmp_path / "other", max_bad_fraction=0.1)


def test_names_that_are_not_utf_8_are_kept(tmp_path):
    write_scene(tmp_path / "photos" / "caf\udce9", 2, 0)
    _, read = pack_of(folder(root=str(tmp_path / "photos")), tmp_path / "pack")
    assert read.scenes[0] == ("caf\udce9", ("caf\udce9/frame_0.jpg", "caf\udce9/frame_1.jpg"))
    assert read.record(0, 1).frame == "caf\udce9/frame_1.jpg"


def test_nothing_readable_is_one_line(tmp_path):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "a" / "1.jpg").write_text("no photograph")
    with pytest.raises(UserError, match="none of 1 images can be read, such as a/1.jpg"):
        pack_of(folder(root=str(tmp_path / "photos")), tmp_path / "pack", shards=1, max_bad_fraction=1.0)


def test_another_plan_is_refused_unless_it_may_overwrite(tmp_path):
    source = write_scenes(tmp_path / "photos", 2, 4)
    out = tmp_path / "pack"
    pack_of(source, out)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    pack_of(source, out)
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    with pytest.raises(UserError, match="has a pack of size=0 instead of 32: write --overwrite"):
        pack_of(source, out, Encoding(size=32))
    with pytest.raises(UserError, match="has 2 shards: write that, or --overwrite"):
        pack_of(source, out, shards=3)
    elsewhere = write_scenes(tmp_path / "elsewhere", 2, 4)
    with pytest.raises(UserError, match="has a pack of other scenes"):
        pack_of(elsewhere, out)
    write_scene(tmp_path / "photos" / "scene2", 1, 2)
    with pytest.raises(UserError, match="has a pack of other scenes"):
        pack_of(source, out)
    done, read = pack_of(source, out, Encoding(size=32), overwrite=True)
    assert len(read.scenes) == 3 and not done.lossless
    assert sum("array_record" in path.name for path in out.iterdir()) == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(UserError, match="not empty, and no pack"):
        pack_of(source, tmp_path / "other", overwrite=True)
    assert (tmp_path / "other" / "thesis.txt").exists()


KILLED = """
import os, pathlib, signal, sys
from absl import flags
sys.path.insert(0, "tests/data"); sys.path.insert(0, "tests")
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


def test_a_killed_pack_goes_on_and_ends_the_same(tmp_path, capsys):
    source = write_scenes(tmp_path / "photos", 4, 4)
    out = tmp_path / "pack"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path / "photos", out, "10"], cwd=ROOT, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    shards = sorted(out.glob("muskie-train.array_record-*"))
    assert len(shards) == 2 and (out / "packing").is_dir()
    with pytest.raises(UserError, match="is not finished"):
        load_pack(out)
    times = [path.stat().st_mtime_ns for path in shards]
    done, _ = pack_of(source, out, shards=0)
    assert "2 of 4 shards are there" in capsys.readouterr().err
    assert [path.stat().st_mtime_ns for path in shards] == times, "finished shards are not written again"
    assert not (out / "packing").exists()
    uninterrupted, _ = pack_of(source, tmp_path / "whole", shards=4)
    assert done == uninterrupted
    assert (out / "metadata.json").read_bytes() == (tmp_path / "whole" / "metadata.json").read_bytes()


def test_processes_pack_what_one_packs(packs, sources, tmp_path):
    done = pack(frames_of(whole(sources["photos"])), tmp_path, Encoding(), shards=2, workers=2)
    assert done == packs["photos"][0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_is_one_line_and_leaves_no_rest(sources, tmp_path, workers):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"array_record-0000.* cannot be written: .*File too large"):
            pack(frames_of(whole(sources["photos"])), tmp_path, Encoding(), shards=2, workers=workers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.rglob("*.writing")) and not list(tmp_path.glob("*.array_record-*"))


def test_what_is_not_read_back_as_it_was_written_does_not_count(sources, tmp_path, monkeypatch):
    import muskie_jax.data.packing.shards as shards

    monkeypatch.setattr(shards, "_sync", flip_bit)
    with pytest.raises(UserError, match="cannot be written: "):
        pack(frames_of(whole(sources["photos"])), tmp_path, Encoding(), shards=1)
    assert not list(tmp_path.glob("*.array_record-*"))


# --- Damage -------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(sources, tmp_path):
    """A pack that may be damaged: its folder and the source."""
    return tmp_path, pack_of(sources["photos"], tmp_path, shards=1)[1]


def test_a_shard_that_is_missing_or_cut_off_is_refused(fresh):
    out, _ = fresh
    (shard,) = out.glob("*.array_record-*")
    data = shard.read_bytes()
    for cut in (len(data) // 2, 0):
        shard.write_bytes(data[:cut])
        with pytest.raises(UserError, match=rf"{shard.name} has {cut} bytes, not {len(data)}: copy"):
            load_pack(out)
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name} has 0 bytes"):
        load_pack(out)
    shard.write_bytes(data)
    load_pack(out)
    (out / "features.json").write_text("{")
    assert RemotePack(str(out)).damaged() == ["features.json"]
    (out / "features.json").unlink()
    assert RemotePack(str(out)).damaged() == ["features.json"]
    with pytest.raises(UserError, match="there is no .*features.json: copy or pack it again"):
        load_pack(out)


def test_a_damaged_record_is_a_bad_image(fresh):
    out, read = fresh
    (shard,) = out.glob("*.array_record-*")
    flip_bit(shard)
    bad = []
    for scene in range(len(read.scenes)):
        for frame in range(int(read.scenes.counts[scene])):
            try:
                read.open(scene, frame).pixels()
            except BadImage as error:
                bad.append(str(error))
    assert len(bad) == 1 and "record " in bad[0] and bad[0].endswith("is damaged")


def rewrite_metadata(out, change):
    values = json.loads((out / "metadata.json").read_text())
    change(values)
    (out / "metadata.json").write_text(json.dumps(values))


def test_other_versions_and_other_folders_are_refused_in_one_line(fresh):
    out, _ = fresh
    rewrite_metadata(out, lambda values: values["muskie_jax"].update(format=2))
    with pytest.raises(UserError, match="is a pack of format 2, this version reads 1"):
        load_pack(out)
    rewrite_metadata(out, lambda values: values.pop("muskie_jax"))
    with pytest.raises(UserError, match="was not packed by"):
        load_pack(out)
    (out / "metadata.json").unlink()
    with pytest.raises(UserError, match="no pack in"):
        load_pack(out)


# --- The command line ---------------------------------------------------------------------------------


def run(*arguments):
    return run_module("muskie_jax.data", *arguments)


def complaint(*arguments):
    return complaint_of(run(*arguments))


def test_pack_and_verify_by_command(sources, tmp_path):
    root = f"--config.sources.photos.root={sources['photos'].root}"
    done = run("pack", "--config", "configs/photos.py", root, "--out", tmp_path / "pack", "--shards=2")
    assert done.returncode == 0, done.stderr
    assert "4 scenes, 28 images, without depth and cameras" in done.stderr
    result = json.loads(done.stdout)
    assert (result["images"], result["scenes"], result["shards"]) == (28, 4, 2)
    good = run("verify", tmp_path / "pack")
    assert good.returncode == 0 and json.loads(good.stdout)["images"] == 28
    flip_bit(next((tmp_path / "pack").glob("*00001-of-00002")))
    assert "1 of " in (said := complaint("verify", tmp_path / "pack")) and "00001-of-00002" in said


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], "no command: write python -m muskie_jax.data with one of "),
        (["verify"], "write python -m muskie_jax.data verify <folder or address>"),
        (["pack", "--config", "configs/photos.py"], "--out is missing: write --out packs/photos"),
        (["pack", "--config", "configs/photos.py", "--out=x", "--config.sead=1"],
         "no setting 'sead'; did you mean 'seed'?"),
        (["pack", "--config", "configs/quickstart.py", "--out=x", "--size=9"], "rooms have --height and"),
        (["pack", "--config", "configs/photos.py", "--out=gs://b/x", "--config.sources.photos.root=tests"],
         "--out=gs://b/x is an address: pack to a folder"),
        (["groups", "/nowhere"], "no file /nowhere/all_metadata.npz"),
        (["pack", "--config", "configs/muskie_base.py", "--out=x", "--source=co3b"], "mean 'co3d'?"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(arguments, expected):
    assert expected in complaint(*arguments)


def test_ctrl_c_ends_workers_and_the_same_command_goes_on(tmp_path):
    big = tmp_path / "photos" / "scene"
    big.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (1500, 2000, 3), np.uint8)
    Image.fromarray(noise).save(big / "0.jpg", quality=95)
    for number in range(1, 24):
        os.link(big / "0.jpg", big / f"{number}.jpg")
    command = ["pack", "--config", "configs/photos.py", "--out", tmp_path / "pack", "--shards=4",
               f"--config.sources.photos.root={tmp_path / 'photos'}", "--workers=1"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "muskie_jax.data", *map(str, command)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # A test run in the background of a script has it ignored, and so would this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not list((tmp_path / "pack").glob("*.array_record-*")):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "same command goes on" in said, said
    assert len(list((tmp_path / "pack").glob("*.array_record-*"))) == 1, "the others were given up"
    again = run(*command)
    assert again.returncode == 0 and "1 of 4 shards are there" in again.stderr, again.stderr
    assert json.loads(again.stdout)["images"] == 24
