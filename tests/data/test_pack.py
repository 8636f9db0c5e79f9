"""A pack yields the same data as its source, and detects damage."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT
from muskie_jax.config import dataset, folder, packed, validate
from muskie_jax.data.images import BadImage
from muskie_jax.data.packing.pack_info import load_pack_info
from muskie_jax.data.packing.remote import RemotePack
from muskie_jax.errors import UserError
from muskie_jax.train import train
from muskie_tests.packs import all_scenes, batches, config_of, flip_bit, pack_of, sampler_of
from muskie_tests.runs import nano_config
from muskie_tests.trees import TREES


@pytest.fixture(scope="module")
def sources(photo_folder, tmp_path_factory):
    """Sources of a config: plain scenes, object masks, fixed groups of views."""
    root = tmp_path_factory.mktemp("trees")
    for name in ("co3d", "megadepth"):
        TREES[name](root / name)
    rng = np.random.default_rng(0)
    for path in (root / "co3d").rglob("images/*.jpg"):  # crops of a uniform image would all be equal
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(path)
    return {
        "photos": folder(root=str(photo_folder), window=4),
        "co3d": dataset("co3d", root=str(root / "co3d"), holdout=0.1),
        "megadepth": dataset("megadepth", root=str(root / "megadepth"), holdout=0.1),
    }


@pytest.fixture(scope="module")
def packs(sources, tmp_path_factory):
    """Each source, packed without loss: (the pack's description, the config of the packed source)."""
    described = {}
    for name, source in sources.items():
        out = tmp_path_factory.mktemp("packs") / name
        described[name] = pack_of(source, out)[0], packed(root=str(out), holdout=source.holdout)
    return described


@pytest.mark.parametrize("name, workers", [("photos", 0), ("photos", 2), ("co3d", 0), ("megadepth", 0)])
def test_a_lossless_pack_yields_the_same_batches_as_its_source(sources, packs, name, workers):
    info, source = packs[name]
    assert info.lossless and not info.skipped
    expected = batches(sampler_of(sources[name]))
    found = batches(sampler_of(source), workers)
    assert len(expected) == len(found) == 36
    for (bucket, key, a), (other_bucket, other_key, b) in zip(expected, found):
        assert (bucket, key) == (other_bucket, other_key)
        np.testing.assert_array_equal(a, b)


def test_scenes_settings_and_object_boxes_are_packed_too(sources, packs):
    for name, source in sources.items():
        before, after = all_scenes(source), all_scenes(packs[name][1])
        assert list(before.scenes) == list(after.scenes)
        assert (before.scenes.sizes == after.scenes.sizes).all()
        assert (before.window, before.zoom) == (after.window, after.zoom)
        boxes = [
            [source.object_box(scene, frame) for scene in range(3) for frame in range(3)]
            for source in (before, after)
        ]
        assert boxes[0] == boxes[1] and any(boxes[0]) == (name == "co3d")
    assert packs["megadepth"][0].settings["groups"]
    # 3 groups of 8 views: two of one location have 8 + 4 distinct photographs, the third has 8.
    assert sum(shard["records"] for shard in packs["megadepth"][0].shards) == 20


def test_window_and_zoom_can_be_overridden(packs):
    source = packs["co3d"][1].copy_and_resolve_references()
    assert (all_scenes(source).window, all_scenes(source).zoom) == (32, 0.5)
    source.window, source.zoom = 0, 0.0
    assert (all_scenes(source).window, all_scenes(source).zoom) == (None, 0.0)


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"root": ""}, "config.sources.photos.root is empty"),
        ({"window": -1}, "window=-1 must be "),
        ({"zoom": 1.5}, "zoom=1.5 must be from 0 to 1"),
    ],
)
def test_settings_of_packed_sources_are_checked(settings, expected):
    with pytest.raises(UserError, match=expected):
        validate(config_of(packed(**{"root": "pack"} | settings)))


def test_a_packed_source_is_pickled_as_a_path(packs):
    source = all_scenes(packs["photos"][1])
    source.open(0, 0)
    data = pickle.dumps(source)
    assert len(data) < 2000
    assert (pickle.loads(data).open(1, 2).pixels() == source.open(1, 2).pixels()).all()


@pytest.mark.slow
def test_training_from_a_pack_equals_training_from_the_folder(photo_folder, packs, tmp_path):
    digests = []
    for name, source in (("folder", None), ("pack", packs["photos"][1])):
        config = nano_config(photo_folder, window=4)
        config.sources.photos = source or config.sources.photos
        config.duration = "3 steps"
        config.buckets.update({"resolutions": (((32, 48),),), "views": (4,)})
        result = train(config, tmp_path / name)
        digests.append((result["params_digest"], result["loss"]))
    assert digests[0] == digests[1]


def test_tfds_reads_a_pack_and_tensorflow_is_not_imported(packs):
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


# --- Damage -------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(sources, tmp_path):
    """A pack to damage: its folder, and the packed source."""
    return tmp_path, pack_of(sources["photos"], tmp_path, shards=1)[1]


def test_a_missing_or_truncated_file_is_refused(fresh):
    out, _ = fresh
    (shard,) = out.glob("*.array_record-*")
    data = shard.read_bytes()
    for cut in (len(data) // 2, 0):
        shard.write_bytes(data[:cut])
        with pytest.raises(UserError, match=rf"{shard.name} has {cut} bytes, not {len(data)}: copy"):
            load_pack_info(out)
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name} is missing: copy"):
        load_pack_info(out)
    shard.write_bytes(data)
    load_pack_info(out)
    (out / "features.json").write_text("{")
    assert RemotePack(str(out)).damaged_files() == ["features.json"]
    (out / "features.json").unlink()
    assert RemotePack(str(out)).damaged_files() == ["features.json"]
    with pytest.raises(UserError, match="features.json is missing: copy or pack it again"):
        load_pack_info(out)


@pytest.mark.parametrize("cut", [0.1, 0])
def test_a_shard_that_is_truncated_while_it_is_open_is_named(fresh, cut):
    out, source = fresh
    (shard,) = out.glob("*.array_record-*")
    source.open(0, 0)
    size = shard.stat().st_size
    os.truncate(shard, int(cut * size))
    with pytest.raises(
        UserError, match=rf"{shard.name} has {int(cut * size)} bytes, not {size}: copy or pa"
    ):
        for scene in range(len(source.scenes)):
            for frame in range(int(source.scenes.counts[scene])):
                source.open(scene, frame)


def test_a_damaged_record_is_a_bad_image(fresh):
    out, source = fresh
    (shard,) = out.glob("*.array_record-*")
    flip_bit(shard)
    bad = []
    for scene in range(len(source.scenes)):
        for frame in range(int(source.scenes.counts[scene])):
            try:
                source.open(scene, frame).pixels()
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
    with pytest.raises(UserError, match="is a pack of format 2, but this version reads 1"):
        load_pack_info(out)
    rewrite_metadata(out, lambda values: values.pop("muskie_jax"))
    with pytest.raises(UserError, match="was not packed by"):
        load_pack_info(out)
    (out / "metadata.json").unlink()
    with pytest.raises(UserError, match="contains no pack "):
        load_pack_info(out)


def test_the_keys_of_the_metadata_do_not_change(fresh):
    """Packs are read by later versions of the code: a new key needs a default or a new FORMAT."""
    out, _ = fresh
    values = json.loads((out / "metadata.json").read_text())["muskie_jax"]
    assert set(values) == {
        "format", "version", "settings", "encoding", "lossless", "geometry", "upright", "shards", "index",
        "skipped", "dropped", "plan", "tfds", "checksum",
    }  # fmt: skip
    assert set(values["shards"][0]) == {"name", "bytes", "sha256", "records"}
    assert set(values["index"][0]) == {"name", "bytes", "sha256"}
    assert set(values["settings"]) == {"source", "window", "zoom", "groups"}
    assert set(values["encoding"]) == {"size", "quality", "format"}
