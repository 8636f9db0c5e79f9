"""Lists of scenes: kept beside the work directory, used while they are true, and small to hand on."""

import os
import pickle
import shutil

import numpy as np
import pytest

from conftest import write_scene
from muskie_jax.data import scan as scan_module
from muskie_jax.data.layouts import LAYOUTS, photographs
from muskie_jax.data.mixture import INDEX_FOLDER, build_mixture
from muskie_jax.data.scan import scan
from muskie_jax.data.scenes import Scene, SceneTable, Texts
from muskie_jax.errors import UserError
from muskie_tests.runs import nano_config
from muskie_tests.trees import TREES

STRANGE = ("", "a", "ü/ß.jpg", os.fsdecode(b"not \xff utf-8"), "x" * 500, "")


@pytest.fixture
def root(tmp_path):
    for number in range(3):
        write_scene(tmp_path / "root" / f"scene{number}" / "images", 3, number)
    return tmp_path / "root"


LAYOUT = photographs("*/images/*", None)


def found(root, kept, monkeypatch, layout=LAYOUT):
    """The scenes of a root, and whether they came from a kept list."""
    looked = []
    search = scan_module._Search.scenes
    monkeypatch.setattr(scan_module._Search, "scenes", lambda *a: looked.append(1) or search(*a))
    table = scan(root, layout, kept)
    monkeypatch.undo()
    return {scene.name: len(scene.frames) for scene in table}, not looked


def test_texts_keep_every_name():
    texts = Texts.of(STRANGE)
    assert list(texts) == list(STRANGE) and texts[-1] == "" and texts[2] == STRANGE[2] == texts[-4]
    with pytest.raises(IndexError):
        texts[6]
    assert list(Texts.of([])) == []


def test_a_table_is_a_sequence_of_scenes_that_can_be_saved_and_mapped(tmp_path):
    scenes = [Scene(f"s{i}", tuple(f"s{i}/{j}.jpg" for j in range(i + 1))) for i in range(5)]
    table = SceneTable.of(scenes, [(i, 2 * i) for i in range(5)])
    (tmp_path / "kept").mkdir()
    table.save(tmp_path / "kept")
    mapped = SceneTable.load(tmp_path / "kept")
    for each in (table, mapped, pickle.loads(pickle.dumps(mapped)), pickle.loads(pickle.dumps(table))):
        assert list(each) == scenes and list(each.counts) == [1, 2, 3, 4, 5]
        assert each.sizes.tolist() == [[i, 2 * i] for i in range(5)]
        part = pickle.loads(pickle.dumps(each.subset([4, 1]).subset([1])))
        assert list(part) == [scenes[1]] and list(part.counts) == [2] and part.names() == ["s1"]


def test_a_table_of_many_frames_is_handed_on_as_a_path(tmp_path):
    table = SceneTable.of([Scene("long", tuple(f"long/{i:08d}.jpg" for i in range(50_000)))])
    (tmp_path / "kept").mkdir()
    table.save(tmp_path / "kept")
    assert len(pickle.dumps(SceneTable.load(tmp_path / "kept"))) < 1000 < len(pickle.dumps(table))


def test_a_kept_list_is_used_until_something_in_the_root_changes(root, tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    first, was_kept = found(root, kept, monkeypatch)
    assert first == {f"scene{i}/images": 3 for i in range(3)} and not was_kept
    assert found(root, kept, monkeypatch) == (first, True)
    changes = {
        "a frame more": lambda: shutil.copy(
            root / "scene0/images/frame_0.jpg", root / "scene0/images/frame_9.jpg"
        ),
        "a frame renamed": lambda: (root / "scene0/images/frame_9.jpg").rename(
            root / "scene0/images/frame_8.jpg"
        ),
        "a scene more": lambda: write_scene(root / "scene7" / "images", 2, 7),
        "a scene less": lambda: shutil.rmtree(root / "scene7"),
        "images of a scene that had none": lambda: write_scene(root / "scene8" / "images", 2, 8),
    }
    (root / "scene8").mkdir()
    found(root, kept, monkeypatch)
    for what, change in changes.items():
        before = found(root, kept, monkeypatch)
        assert before[1], what
        change()
        after = found(root, kept, monkeypatch)
        fresh = {scene.name: len(scene.frames) for scene in scan(root, LAYOUT)}
        assert after == (fresh, False), what
    # Lists that others may still use stay for a while.
    old = [folder for folder in kept.iterdir() if len(SceneTable.load(folder)) != 5]
    assert len(list(kept.iterdir())) == 7 and old
    for folder in kept.iterdir():
        os.utime(folder, (0, 0))
    write_scene(root / "scene9" / "images", 2, 9)
    found(root, kept, monkeypatch)
    assert len(list(kept.iterdir())) == 1


def test_another_layout_or_root_has_a_list_of_its_own(root, tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    found(root, kept, monkeypatch)
    assert found(root, kept, monkeypatch, photographs("scene1/images/*", None)) == (
        {"scene1/images": 3},
        False,
    )
    assert found(root, kept, monkeypatch)[1]
    other = shutil.copytree(root, tmp_path / "other")
    assert not found(other, kept, monkeypatch)[1]


@pytest.mark.parametrize("part", ["frames", "times", "counts"])
def test_a_damaged_list_is_made_anew(root, tmp_path, monkeypatch, part):
    kept = tmp_path / "kept"
    first, _ = found(root, kept, monkeypatch)
    (folder,) = kept.iterdir()
    path = folder / f"{part}.npy"
    path.write_bytes(path.read_bytes()[:-3])
    assert found(root, kept, monkeypatch) == (first, False)
    assert found(root, kept, monkeypatch) == (first, True)


def test_the_list_of_groups_counts_as_a_change(tmp_path, monkeypatch):
    (tmp_path / "root").mkdir()
    TREES["megadepth"](tmp_path / "root")
    kept, layout = tmp_path / "kept", LAYOUTS["megadepth"]
    assert not found(tmp_path / "root", kept, monkeypatch, layout)[1]
    assert found(tmp_path / "root", kept, monkeypatch, layout)[1]
    path = tmp_path / "root" / layout.groups
    with np.load(path, allow_pickle=True) as data:
        arrays = dict(data)
    np.savez(path, **arrays | {"pairs": arrays["pairs"][:2]})
    assert found(tmp_path / "root", kept, monkeypatch, layout) == (
        {"0000/dense0#0": 8, "0000/dense0#1": 8},
        False,
    )


def test_runs_keep_the_list_beside_their_work_directories_or_where_they_are_told(root, tmp_path):
    config = nano_config(root, glob="*/images/*")
    build_mixture(config, tmp_path / "runs" / "first")
    assert len(list((tmp_path / "runs" / INDEX_FOLDER).iterdir())) == 1
    config.data.index = str(tmp_path / "elsewhere")
    mixture = build_mixture(config, tmp_path / "runs" / "second")
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1
    assert len(pickle.dumps(mixture.training[0])) < 2000
    config.data.index = str(root / "scene0" / "images" / "frame_0.jpg")
    with pytest.raises(UserError, match=r"write another folder for it, --config.data.index"):
        build_mixture(config, tmp_path)


def test_deep_patterns_do_not_follow_links_in_circles(root):
    (root / "scene0" / "again").symlink_to(root)
    assert len(scan(root, photographs("**/*", None))) == 3
    linked = root.parent / "linked"
    linked.mkdir()
    (linked / "kitchen").symlink_to(root / "scene1" / "images")
    assert [scene.name for scene in scan(linked)] == ["kitchen"]


def test_what_is_no_file_is_passed_over_and_broken_links_are_left_to_be_named(root):
    os.mkfifo(root / "scene0" / "images" / "pipe.jpg")
    (root / "scene0" / "images" / "circle.jpg").symlink_to("circle.jpg")
    (root / "scene0" / "images" / "nothing.jpg").symlink_to("elsewhere.jpg")
    (root / "scene0" / "images" / "good.jpg").symlink_to("frame_0.jpg")
    names = {frame.rpartition("/")[2] for frame in scan(root, LAYOUT)[0].frames}
    assert names == {*(f"frame_{i}.jpg" for i in range(3)), "circle.jpg", "nothing.jpg", "good.jpg"}
