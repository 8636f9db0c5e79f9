"""Lists of scenes are cached beside the work directory, reused while valid, and small when pickled."""

import os
import pickle
import shutil

import numpy as np
import pytest

from conftest import write_scene
from muskie_jax.data import scan as scan_module
from muskie_jax.data.layouts import LAYOUTS, folder_layout
from muskie_jax.data.mixture import INDEX_FOLDER, build_mixture
from muskie_jax.data.scan import scan
from muskie_jax.data.scenes import Scene, SceneTable, StringTable
from muskie_jax.errors import UserError
from muskie_tests.runs import nano_config
from muskie_tests.trees import TREES

STRANGE = ("", "a", "ü/ß.jpg", os.fsdecode(b"not \xff utf-8"), "x" * 500, "")


@pytest.fixture
def root(tmp_path):
    for number in range(3):
        write_scene(tmp_path / "root" / f"scene{number}" / "images", 3, number)
    return tmp_path / "root"


LAYOUT = folder_layout("*/images/*", None)


def scan_scenes(root, cache, monkeypatch, layout=LAYOUT):
    """The scenes of a root, and whether they came from a cached list."""
    searches = []
    search = scan_module._Search.scenes
    monkeypatch.setattr(scan_module._Search, "scenes", lambda *a: searches.append(1) or search(*a))
    table = scan(root, layout, cache)
    monkeypatch.undo()
    return {scene.name: len(scene.frames) for scene in table}, not searches


def test_a_string_table_keeps_every_name():
    table = StringTable.of(STRANGE)
    assert list(table) == list(STRANGE) and table[-1] == "" and table[2] == STRANGE[2] == table[-4]
    with pytest.raises(IndexError):
        table[6]
    assert list(StringTable.of([])) == []


def test_a_scene_table_survives_saving_pickling_and_subsets(tmp_path):
    scenes = [Scene(f"s{i}", tuple(f"s{i}/{j}.jpg" for j in range(i + 1))) for i in range(5)]
    table = SceneTable.of(scenes, [(i, 2 * i) for i in range(5)], ["s0/a.heic", "s1/b.mp4"])
    (tmp_path / "cache").mkdir()
    table.save(tmp_path / "cache")
    mapped = SceneTable.load(tmp_path / "cache")
    for each in (table, mapped, pickle.loads(pickle.dumps(mapped)), pickle.loads(pickle.dumps(table))):
        assert list(each) == scenes and list(each.counts) == [1, 2, 3, 4, 5]
        assert each.sizes.tolist() == [[i, 2 * i] for i in range(5)]
        assert list(each.unread) == list(each.subset([3]).unread) == ["s0/a.heic", "s1/b.mp4"]
        part = pickle.loads(pickle.dumps(each.subset([4, 1]).subset([1])))
        assert list(part) == [scenes[1]] and list(part.counts) == [2] and part.names() == ["s1"]


def test_tables_without_unread_files_are_saved_as_in_older_packs(tmp_path):
    SceneTable.of([Scene("s", ("s/0.jpg",))]).save(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == set(SceneTable.PARTS)
    assert len(SceneTable.load(tmp_path).unread) == 0


def test_a_saved_table_is_pickled_as_a_path(tmp_path):
    table = SceneTable.of([Scene("long", tuple(f"long/{i:08d}.jpg" for i in range(50_000)))])
    (tmp_path / "cache").mkdir()
    table.save(tmp_path / "cache")
    assert len(pickle.dumps(SceneTable.load(tmp_path / "cache"))) < 1000 < len(pickle.dumps(table))


def test_a_cached_list_is_used_until_the_root_changes(root, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first, was_cached = scan_scenes(root, cache, monkeypatch)
    assert first == {f"scene{i}/images": 3 for i in range(3)} and not was_cached
    assert scan_scenes(root, cache, monkeypatch) == (first, True)
    changes = {
        "a frame added": lambda: shutil.copy(
            root / "scene0/images/frame_0.jpg", root / "scene0/images/frame_9.jpg"
        ),
        "a frame renamed": lambda: (root / "scene0/images/frame_9.jpg").rename(
            root / "scene0/images/frame_8.jpg"
        ),
        "a scene added": lambda: write_scene(root / "scene7" / "images", 2, 7),
        "a scene removed": lambda: shutil.rmtree(root / "scene7"),
        "images in an empty scene": lambda: write_scene(root / "scene8" / "images", 2, 8),
    }
    (root / "scene8").mkdir()
    scan_scenes(root, cache, monkeypatch)
    for what, change in changes.items():
        before = scan_scenes(root, cache, monkeypatch)
        assert before[1], what
        change()
        after = scan_scenes(root, cache, monkeypatch)
        fresh = {scene.name: len(scene.frames) for scene in scan(root, LAYOUT)}
        assert after == (fresh, False), what
    # Old lists are kept for a while, since other processes may still use them.
    old = [folder for folder in cache.iterdir() if len(SceneTable.load(folder)) != 5]
    assert len(list(cache.iterdir())) == 7 and old
    for folder in cache.iterdir():
        os.utime(folder, (0, 0))
    write_scene(root / "scene9" / "images", 2, 9)
    scan_scenes(root, cache, monkeypatch)
    assert len(list(cache.iterdir())) == 1


def test_each_layout_and_root_has_its_own_list(root, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    scan_scenes(root, cache, monkeypatch)
    assert scan_scenes(root, cache, monkeypatch, folder_layout("scene1/images/*", None)) == (
        {"scene1/images": 3},
        False,
    )
    assert scan_scenes(root, cache, monkeypatch)[1]
    other = shutil.copytree(root, tmp_path / "other")
    assert not scan_scenes(other, cache, monkeypatch)[1]


DAMAGE = {
    "truncated": lambda content: content[:-3],
    "empty": lambda content: b"",  # as after a power loss
    "zeros": lambda content: bytes(len(content)),
    "an archive": lambda content: b"PK\x03\x04" + content,
    "a pickle": lambda content: b"\x80\x04." + content,
    "a damaged header": lambda content: content.replace(b"'shape': (", b"'shape': {"),
    "too large a shape": lambda content: content.replace(b"'shape': (", b"'shape': (9999999999999,"),
    "missing": lambda content: None,
}


@pytest.mark.parametrize("part", ["frames", "paths", "path_ends", "times", "counts"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_list_is_replaced(root, tmp_path, monkeypatch, part, damage):
    cache = tmp_path / "cache"
    first, _ = scan_scenes(root, cache, monkeypatch)
    (folder,) = cache.iterdir()
    path = folder / f"{part}.npy"
    content = DAMAGE[damage](path.read_bytes())
    path.unlink() if content is None else path.write_bytes(content)
    assert scan_scenes(root, cache, monkeypatch) == (first, False)
    assert scan_scenes(root, cache, monkeypatch) == (first, True)


def test_a_changed_list_of_groups_invalidates_the_cache(tmp_path, monkeypatch):
    (tmp_path / "root").mkdir()
    TREES["megadepth"](tmp_path / "root")
    cache, layout = tmp_path / "cache", LAYOUTS["megadepth"]
    assert not scan_scenes(tmp_path / "root", cache, monkeypatch, layout)[1]
    assert scan_scenes(tmp_path / "root", cache, monkeypatch, layout)[1]
    path = tmp_path / "root" / layout.groups
    with np.load(path, allow_pickle=True) as data:
        arrays = dict(data)
    np.savez(path, **arrays | {"pairs": arrays["pairs"][:2]})
    assert scan_scenes(tmp_path / "root", cache, monkeypatch, layout) == (
        {"0000/dense0#0": 8, "0000/dense0#1": 8},
        False,
    )


def test_runs_cache_the_list_beside_their_work_directories_or_in_data_index(root, tmp_path):
    config = nano_config(root, glob="*/images/*")
    build_mixture(config, tmp_path / "runs" / "first")
    assert len(list((tmp_path / "runs" / INDEX_FOLDER).iterdir())) == 1
    config.data.index = str(tmp_path / "elsewhere")
    mixture = build_mixture(config, tmp_path / "runs" / "second")
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1
    assert len(pickle.dumps(mixture.training[0])) < 2000
    config.data.index = str(root / "scene0" / "images" / "frame_0.jpg")
    with pytest.raises(UserError, match="choose another folder with --config.data.index"):
        build_mixture(config, tmp_path)


def test_deep_patterns_do_not_follow_cyclic_links(root):
    (root / "scene0" / "again").symlink_to(root)
    assert len(scan(root, folder_layout("**/*", None))) == 3
    linked = root.parent / "linked"
    linked.mkdir()
    (linked / "kitchen").symlink_to(root / "scene1" / "images")
    assert [scene.name for scene in scan(linked)] == ["kitchen"]


def test_special_files_are_ignored_and_broken_links_are_kept_to_be_reported(root):
    os.mkfifo(root / "scene0" / "images" / "pipe.jpg")
    (root / "scene0" / "images" / "circle.jpg").symlink_to("circle.jpg")
    (root / "scene0" / "images" / "nothing.jpg").symlink_to("elsewhere.jpg")
    (root / "scene0" / "images" / "good.jpg").symlink_to("frame_0.jpg")
    names = {frame.rpartition("/")[2] for frame in scan(root, LAYOUT)[0].frames}
    assert names == {*(f"frame_{i}.jpg" for i in range(3)), "circle.jpg", "nothing.jpg", "good.jpg"}
