"""Groups of views from the held-out scenes of a config's sources."""

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
from muskie_jax.data.sources import PhotographSource, SyntheticSource
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.errors import UserError
from muskie_jax.evaluators.contexts import choose_targets, seen_by_context, view_order
from muskie_tests.runs import nano_config

SIZE = (32, 48)


def build_sets(config, views=4, groups=6):
    mixture = build_mixture(config)
    return mixture, held_out_scenes(mixture, views, groups)


def test_groups_show_held_out_scenes_without_repeated_views(photo_folder):
    config = nano_config(photo_folder, holdout=0.5)
    mixture, (photos,) = build_sets(config, views=6)
    source = mixture.held_out[0]
    assert isinstance(source, PhotographSource)
    unseen = source.scenes
    assert photos.name == "photos" and len(unseen) == 2
    assert [group.label.rpartition("/")[0] for group in photos.groups[:2]] * 3 == [
        group.label.rpartition("/")[0] for group in photos.groups
    ], "scenes do not alternate"
    assert len({group.label for group in photos.groups}) == 6
    assert {len(group.frames) for group in photos.groups} == {5, 6}, "one scene has only five frames"
    for number, (label, frames, _) in enumerate(photos.groups):
        scene = unseen[unseen.names().index(label.rpartition("/")[0])]
        assert len(set(frames)) == len(frames) == min(6, len(scene.frames))
        assert set(frames) <= set(scene.frames)
        images = photos.load(number, SIZE).images
        assert images.shape == (len(frames), *SIZE, 3) and images.dtype == np.uint8
        # The centred crop of a photograph of 72x96 is 64x96, which is twice the size of the views.
        crop = np.asarray(Image.open(photo_folder / frames[0]).convert("RGB"), float)[4:68]
        halved = crop.reshape(32, 2, 48, 2, 3).mean((1, 3))
        assert np.abs(images[0] - halved).mean() < 3

    config.seed, config.batch.groups = 7, 16  # settings of a run do not matter
    _, (again,) = build_sets(config, views=6)
    assert again.groups == photos.groups
    np.testing.assert_array_equal(again.load(3, SIZE).images, photos.load(3, SIZE).images)
    (targets,) = choose_targets([photos], (1, 2, 3), 6).values()
    assert all(photos.groups[i].label[:4] != photos.groups[n].label[:4]
               for i, (_, n) in zip(targets.groups, targets.distractors))  # fmt: skip


def test_draws_do_not_depend_on_names_of_folders(photo_folder, tmp_path):
    names = {"attic": "1", "barn": "2", "cave": "3", "dome": "4"}
    for name, other in names.items():
        shutil.copytree(photo_folder / name, tmp_path / "copies" / other)
    sets = [
        build_sets(nano_config(root, holdout=0.5))[1][0] for root in (photo_folder, tmp_path / "copies")
    ]
    for group, copy in zip(*(each.groups for each in sets), strict=True):
        assert group.label != copy.label and group.seed == copy.seed
        np.testing.assert_array_equal(view_order(group), view_order(copy))
    for number in (0, 3):
        np.testing.assert_array_equal(*(each.load(number, SIZE).images for each in sets))


def test_sources_without_a_holdout_are_evaluated_on_all_scenes(photo_folder, tmp_path):
    for number in range(3):
        write_scene(tmp_path / "others" / f"scene{number}", 4, number)
    config = nano_config(photo_folder, holdout=0.0)
    config.sources.others = folder(root=str(tmp_path / "others"), holdout=0.3)
    mixture = build_mixture(config)
    names = lambda whole: [each.name for each in held_out_scenes(mixture, 2, 8, whole)]
    assert names(()) == ["others"] and names(("photos",)) == ["others", "photos"]
    others, photos = held_out_scenes(mixture, 2, 8, ("photos",))
    assert len(set(photos.image_folders)) == 4 and len(set(others.image_folders)) == 1
    assert photos.image_folders[0] == photo_folder.resolve() / photos.groups[0].frames[0].split("/")[0]


def test_unreadable_photographs_are_replaced(tmp_path):
    for number in range(2):
        write_scene(tmp_path / "all" / f"scene{number}", 5, number)
    _, (photos,) = build_sets(nano_config(tmp_path / "all", holdout=0.5), groups=1)
    before = photos.load(0, SIZE).images
    first = photos.groups[0].frames[0]
    (tmp_path / "all" / first).write_bytes(b"no image")
    assert not photos.unreadable
    after = photos.load(0, SIZE).images
    photos.load(0, SIZE)  # again, as for another model: counted once
    assert photos.unreadable.startswith("photos: 1 of 5 images drawn were unreadable, such as ")
    assert first in photos.unreadable
    np.testing.assert_array_equal(after[:3], before[1:])
    assert not any((after[3] == view).all() for view in before)
    shutil.copy(tmp_path / "all" / first, tmp_path / "all" / photos.groups[0].frames[1])
    with pytest.raises(
        UserError, match=r"scene 'scene1' of photos has too few readable images for a group of 4 .*jpg"
    ):
        photos.load(0, SIZE)


def test_every_evaluated_source_has_a_set(photo_folder, tmp_path, monkeypatch):
    write_scene(tmp_path / "one" / "scene", 4, 1)
    config = nano_config(photo_folder)
    config.sources.one = folder(root=str(tmp_path / "one"))  # its only scene cannot be held out
    config.sources.rooms = synthetic(photos=str(tmp_path / "one"), num_boxes=3)
    calls = []
    monkeypatch.setattr(held_out, "held_out_rooms", lambda *arguments: calls.append(arguments))
    mixture, (photos, _) = build_sets(config, views=2, groups=3)
    assert mixture.names == ("one", "photos", "rooms")
    assert photos.name == "photos" and len(photos.groups) == 3
    # The rooms have the config's world and textures.
    ((source, textures, views, groups),) = calls
    assert source.world.num_boxes == 3 and len(textures) == 4 and (views, groups) == (2, 3)


def test_rooms_have_depth_and_cameras():
    world = dataclasses.replace(WorldConfig(), baseline=(0.0, 0.0), aim_jitter=0.0, roll_jitter=0.0)
    rooms = held_out_rooms(SyntheticSource("rooms", world), None, 2, 3)
    views, other = rooms.load(0, (32, 32)), rooms.load(1, (32, 32))
    assert views.images.shape == (2, 32, 32, 3) and views.images.dtype == np.uint8
    assert views.depth.shape == (2, 32, 32) and views.valid.all() and (views.depth > 0).all()
    assert views.intrinsics.dtype == views.world_to_camera.dtype == np.float64
    assert (views.images != other.images).mean() > 0.5
    np.testing.assert_array_equal(rooms.load(0, (32, 32)).images, views.images)
    assert seen_by_context(views, np.arange(2))[0] > 0.7, "the two cameras coincide"
