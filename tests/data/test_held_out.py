"""Held-out scenes of a config's sources, as groups of views."""

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

from conftest import write_scene
from muskie_jax.config import folder, synthetic
from muskie_jax.data import held_out
from muskie_jax.data.held_out import held_out_rooms, held_out_scenes
from muskie_jax.data.mixture import build_mixture
from muskie_jax.data.sources import SyntheticSource
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.errors import UserError
from muskie_jax.evaluators.contexts import choose_targets, seen_by_context
from muskie_tests.runs import nano_config

SIZE = (32, 48)


def sets_of(config, views=4, groups=6):
    mixture = build_mixture(config)
    return mixture, held_out_scenes(mixture, views, groups)


def test_groups_are_of_held_out_scenes_and_have_no_view_twice(photo_folder):
    config = nano_config(photo_folder, holdout=0.5)
    mixture, (photos,) = sets_of(config, views=6)
    unseen = mixture.held_out[0].scenes
    assert photos.name == "photos" and len(unseen) == 2
    assert [group.label.rpartition("/")[0] for group in photos.groups[:2]] * 3 == [
        group.label.rpartition("/")[0] for group in photos.groups
    ], "scenes take turns"
    assert len({group.label for group in photos.groups}) == 6
    assert {len(group.frames) for group in photos.groups} == {5, 6}, "one scene has but five"
    for number, (label, frames) in enumerate(photos.groups):
        scene = unseen[unseen.names().index(label.rpartition("/")[0])]
        assert len(set(frames)) == len(frames) == min(6, len(scene.frames))
        assert set(frames) <= set(scene.frames)
        images = photos.load(number, SIZE).images
        assert images.shape == (len(frames), *SIZE, 3) and images.dtype == np.uint8
        # Photographs of 72x96 are 32x48 after a centred crop of 64x96, halved.
        whole = np.asarray(Image.open(photo_folder / frames[0]).convert("RGB"), float)[4:68]
        halved = whole.reshape(32, 2, 48, 2, 3).mean((1, 3))
        assert np.abs(images[0] - halved).mean() < 3

    config.seed, config.batch.groups = 7, 16  # no run's affair
    _, (again,) = sets_of(config, views=6)
    assert again.groups == photos.groups
    np.testing.assert_array_equal(again.load(3, SIZE).images, photos.load(3, SIZE).images)
    (targets,) = choose_targets([photos], (1, 2, 3), 6).values()
    assert all(photos.groups[i].label[:4] != photos.groups[n].label[:4]
               for i, (_, n) in zip(targets.groups, targets.distractors))  # fmt: skip


def test_another_photograph_stands_in_for_one_that_cannot_be_read(tmp_path):
    for number in range(2):
        write_scene(tmp_path / "all" / f"scene{number}", 5, number)
    _, (photos,) = sets_of(nano_config(tmp_path / "all", holdout=0.5), groups=1)
    before = photos.load(0, SIZE).images
    first = photos.groups[0].frames[0]
    (tmp_path / "all" / first).write_bytes(b"no image")
    after = photos.load(0, SIZE).images
    np.testing.assert_array_equal(after[:3], before[1:])
    assert not any((after[3] == view).all() for view in before)
    shutil.copy(tmp_path / "all" / first, tmp_path / "all" / photos.groups[0].frames[1])
    with pytest.raises(UserError, match=r"scene 'scene1' of photos: too few images for a group of 4 .*jpg"):
        photos.load(0, SIZE)


def test_every_source_that_is_evaluated_has_a_set(photo_folder, tmp_path, monkeypatch):
    write_scene(tmp_path / "one" / "scene", 4, 1)
    config = nano_config(photo_folder)
    config.sources.one = folder(root=str(tmp_path / "one"))  # nothing of it can be held out
    config.sources.rooms = synthetic(photos=str(tmp_path / "one"), num_boxes=3)
    monkeypatch.setattr(held_out, "held_out_rooms", lambda *arguments: arguments)
    mixture, (photos, rooms) = sets_of(config, views=2, groups=3)
    assert mixture.names == ("one", "photos", "rooms")
    assert photos.name == "photos" and len(photos.groups) == 3
    # The rooms are those of the config, with its photographs on their walls.
    source, textures, views, groups = rooms
    assert source.world.num_boxes == 3 and len(textures) == 4 and (views, groups) == (2, 3)


def test_rooms_have_their_geometry():
    world = dataclasses.replace(WorldConfig(), baseline=(0.0, 0.0), aim_jitter=0.0, roll_jitter=0.0)
    rooms = held_out_rooms(SyntheticSource("rooms", world), None, 2, 3)
    views, other = rooms.load(0, (32, 32)), rooms.load(1, (32, 32))
    assert views.images.shape == (2, 32, 32, 3) and views.images.dtype == np.uint8
    assert views.depth.shape == (2, 32, 32) and views.valid.all() and (views.depth > 0).all()
    assert views.intrinsics.dtype == views.world_to_camera.dtype == np.float64
    assert (views.images != other.images).mean() > 0.5
    np.testing.assert_array_equal(rooms.load(0, (32, 32)).images, views.images)
    assert seen_by_context(views, np.arange(2))[0] > 0.7, "two cameras in one place"
