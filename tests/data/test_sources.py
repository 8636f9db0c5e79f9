"""Scenes are found in folders, and split into training and held-out scenes."""

import pytest

from conftest import write_scene
from muskie_jax.config import default_config, folder
from muskie_jax.data.layouts import folder_layout
from muskie_jax.data.mixture import build_mixture
from muskie_jax.data.scan import natural_key, scan
from muskie_jax.data.scenes import Scene, SceneTable, split_scenes
from muskie_jax.errors import UserError


def config_with(**sources):
    config = default_config()
    config.sources.update(sources)
    return config


def test_scenes_and_frames_in_natural_order(tmp_path):
    for name in ("scene10", "scene2", "Scene1"):
        write_scene(tmp_path / name, 12, 0)
    (tmp_path / "scene2" / "notes.txt").write_text("no image")
    (tmp_path / "scene2" / "._frame_1.jpg").write_text("no image either")
    (tmp_path / "scene2" / "frame_3.jpg").rename(tmp_path / "scene2" / "frame_3.JPG")
    scenes = scan(tmp_path)
    assert [scene.name for scene in scenes] == ["Scene1", "scene2", "scene10"]
    names = [frame.lower() for frame in scenes[1].frames]
    assert names == [f"scene2/frame_{i}.jpg" for i in range(12)]


def test_nested_layouts_by_glob(tmp_path):
    write_scene(tmp_path / "town" / "a" / "images", 3, 0)
    write_scene(tmp_path / "town" / "b" / "images", 2, 1)
    write_scene(tmp_path / "town" / "b" / "masks", 2, 1)
    scenes = scan(tmp_path, folder_layout("*/*/images/*", None))
    assert [(s.name, len(s.frames)) for s in scenes] == [("town/a/images", 3), ("town/b/images", 2)]
    with pytest.raises(UserError, match=r"use glob='\*/\*/\*/\*'"):
        scan(tmp_path)
    single = scan(tmp_path / "town" / "a" / "images", folder_layout("*", None))
    assert [scene.name for scene in single] == ["."]


def test_a_missing_or_empty_folder_is_an_error_of_one_line(tmp_path):
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError) as caught:
            scan(root)
        assert str(root) in str(caught.value) and "\n" not in str(caught.value)


def test_natural_key_handles_mixed_names():
    names = ["b", "2", "a10", "10", "a2", "a"]
    assert sorted(names, key=natural_key) == ["2", "10", "a", "a2", "a10", "b"]
    assert natural_key("1.jpg") != natural_key("01.jpg") and natural_key("x²") is not None


@pytest.mark.parametrize(
    "count, holdout, held", [(10, 0.1, 1), (100, 0.1, 10), (3, 0.01, 1), (1, 0.5, 0), (9, 0.0, 0)]
)
def test_holdout(count, holdout, held):
    scenes = [Scene(str(i), ("x",)) for i in range(count)]
    training, unseen = split_scenes(SceneTable.of(scenes), holdout)
    assert len(unseen) == held and sorted((*training, *unseen)) == sorted(scenes)
    again = split_scenes(SceneTable.of(scenes), holdout)
    assert [list(part) for part in again] == [list(training), list(unseen)]


def test_short_scenes_are_reported_and_sources_without_held_out_scenes_are_not_evaluated(tmp_path):
    for number in range(4):
        write_scene(tmp_path / "many" / f"s{number}", 8 if number else 3, number)
    write_scene(tmp_path / "one" / "only", 9, 5)
    mixture = build_mixture(
        config_with(many=folder(root=str(tmp_path / "many")), one=folder(root=str(tmp_path / "one")))
    )
    assert any("fewer than 8 images" in note and "s0 (3)" in note for note in mixture.notes)
    assert [s.weight for s in mixture.training] == [1, 1] and [s.weight for s in mixture.held_out] == [1, 0]
    assert mixture.truly_held_out
    single = build_mixture(config_with(one=folder(root=str(tmp_path / "one"))))
    assert not single.truly_held_out and any("no scene is held out" in note for note in single.notes)
