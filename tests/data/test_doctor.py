"""`python -m muskie_jax.data inspect`: counts, unreadable files, and the contact sheet."""

import dataclasses
import json
import os

import numpy as np
import pytest
from PIL import Image

from conftest import write_scene
from muskie_jax.config import dataset, default_config, posed, synthetic
from muskie_jax.data.doctor import inspect, photo_rows, rendered_rows
from muskie_jax.data.mixture import build_mixture, training_sampler
from muskie_jax.data.sources import PhotographSource, SyntheticSource
from muskie_jax.errors import UserError
from muskie_jax.viz.contact_sheet import LABEL_HEIGHT, MARGIN, VIEW_HEIGHT, SheetRow, contact_sheet
from muskie_tests import posed_trees
from muskie_tests.commands import run_module
from muskie_tests.runs import nano_config
from muskie_tests.trees import TREES


@pytest.fixture
def root(tmp_path):
    for number in range(4):
        write_scene(tmp_path / "root" / f"scene{number}", 6 + number, number)
    return tmp_path / "root"


@pytest.mark.slow
def test_a_report_counts_scenes_and_images(root, tmp_path, capsys):
    (tmp_path / "wild").mkdir()
    TREES["wildrgbd"](tmp_path / "wild")
    config = nano_config(root)
    config.sources.wild = dataset("wildrgbd", root=str(tmp_path / "wild"), holdout=0)
    config.sources.rooms = synthetic()
    result = inspect(config, tmp_path / "out", check=0)
    photos, rooms, wild = result["sources"]
    assert (photos["scenes"], photos["held_out"], photos["images"]) == (4, 1, 6 + 7 + 8 + 9)
    assert photos["per_scene"] == [6, 7, 9] and photos["checked"] == 6 + 7 + 8 + 9
    assert photos["first_image"] == {"height": 72, "width": 96, "share": 1.0}
    assert (wild["scenes"], wild["held_out"], wild["images"], wild["checked"]) == (3, 0, 12, 12)
    low, median, high = rooms["view_differences"]["angle"]
    assert rooms["kind"] == "synthetic" and 1 < low < median < high < 60
    assert not photos["unreadable"] + wild["unreadable"]
    speeds = [photos["views_per_second"], wild["views_per_second"]]
    assert min(speeds) < result["views_per_second"] < max(speeds)
    printed = capsys.readouterr()
    assert f"50th  {rooms['view_differences']['overlap'][1]:13.0%}  {median:14.0f}" in printed.out
    assert "6 - 7 - 9" in printed.err and "96x72" in printed.err and "rooms" not in printed.err
    assert "views per second" in printed.out and str(tmp_path / "out" / "contact_sheet.png") in printed.out
    assert json.loads((tmp_path / "out" / "inspect.json").read_text()) == result
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert sheet.height > 12 * 224, "two groups of each source, each in two rows"
        assert len(set(np.asarray(sheet)[:, 100].tobytes()[::3])) > 20


def test_unreadable_files_are_named_and_too_many_are_an_error(root, tmp_path, capsys):
    bad = root / "scene1" / "frame_2.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    config = nano_config(root, holdout=0)
    result = inspect(config, tmp_path / "out", check=0)
    assert len(result["sources"][0]["unreadable"]) == 1
    assert str(bad) in capsys.readouterr().out
    config.data.max_bad_fraction = 0.01
    with pytest.raises(UserError, match=r"photos: 1 of 30 images are unreadable, more than"):
        inspect(config, tmp_path / "out", check=0)
    assert (tmp_path / "out" / "inspect.json").exists()


def test_a_scene_without_a_readable_image_is_an_error(root, tmp_path):
    for path in (root / "scene2").iterdir():
        path.write_bytes(b"no image")
    config = nano_config(root, holdout=0)
    config.data.max_bad_fraction = 1.0
    with pytest.raises(UserError, match="scene 'scene2' of photos"):
        inspect(config, tmp_path / "out", check=3)


def test_held_out_scenes_are_checked_and_any_file_name_can_be_printed(root, tmp_path, capsys):
    config = nano_config(root)
    held_out = build_mixture(config).held_out[0]
    assert isinstance(held_out, PhotographSource)
    name = os.fsdecode(b"a new\nline \xff.jpg")
    (root / held_out.scenes[0].name / name).write_bytes(b"no image")
    result = inspect(config, tmp_path / "out", check=0)
    assert len(result["sources"][0]["unreadable"]) == 1
    printed = capsys.readouterr().out
    printed.encode("utf-8")
    assert "a new\\nline \\udcff.jpg" in printed


def test_the_number_of_checked_images_is_limited(root, tmp_path):
    result = inspect(nano_config(root), tmp_path / "out", check=5)
    assert result["sources"][0]["checked"] == 5


def test_the_command(root, tmp_path):
    arguments = ["--config", "configs/photos.py", f"--config.sources.photos.root={root}"]
    done = run_module("muskie_jax.data", "inspect", *arguments, "--workdir", tmp_path / "out", "--check=3")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["job"] == "inspect" and result["sources"][0]["checked"] == 3


def test_rooms_are_drawn_with_their_settings_and_photographs(root):
    config = default_config()
    config.batch.views, config.buckets.views = 2, (2,)
    config.buckets.resolutions = (((32, 32),),)
    config.sources.rooms = synthetic(photos=str(root), num_boxes=1, num_ellipsoids=0, num_cylinders=0)
    mixture = build_mixture(config)
    sampler = training_sampler(config, mixture)

    def rows(photos=None, **settings):
        (source,) = mixture.training
        assert isinstance(source, SyntheticSource)
        source = dataclasses.replace(source, world=dataclasses.replace(source.world, **settings))
        return list(rendered_rows(sampler, source, photos, 3))

    plain, bare, *others = rows()
    assert len(others) == 4 and bare.mask is not None and plain.mask is None
    np.testing.assert_array_equal(plain.images, bare.images)
    assert (
        plain.images.shape == (1, 2, 32, 32, 3)
        and plain.label == bare.label.partition(",")[0] + ", rendered"
        and plain.label.startswith("rooms: seed ")
    )
    for changed in (rows(mixture.photos[0]), rows(vignetting=1.0)):
        assert np.abs(changed[0].images.astype(int) - plain.images).mean() > 3


def test_rooms_alone_have_no_table_of_photographs(tmp_path, capsys):
    config = default_config()
    config.batch.views, config.buckets.views = 2, (2,)
    config.buckets.resolutions = (((32, 32),),)
    config.sources.rooms = synthetic(num_boxes=1, num_ellipsoids=0, num_cylinders=0)
    result = inspect(config, tmp_path, check=1, draw=1)
    printed = capsys.readouterr()
    assert "unreadable" not in printed.err and "-  " not in printed.err
    (line,) = [line for line in printed.out.splitlines() if line.lstrip().startswith("50th")]
    overlap, angle = (result["sources"][0]["view_differences"][key][1] for key in ("overlap", "angle"))
    assert line.split()[1:3] == [f"{overlap:.0%}", f"{angle:.0f}"]


def test_hidden_patches_are_dimmed_and_visible_ones_are_not():
    images = np.full((1, 2, 32, 32, 3), 200, np.uint8)
    mask = np.array([[[False] * 4, [True, False, False, False]]])
    sheet = contact_sheet([SheetRow("scene", images, mask)], patch=16)
    top, left = MARGIN + LABEL_HEIGHT, MARGIN + VIEW_HEIGHT + MARGIN
    first, second = sheet[top + 10, MARGIN + 10], sheet[top + 10, left + 10]
    assert (first == 200).all() and (second < 140).all()
    assert (sheet[top + 200, left + 200] == 200).all()


def test_photographs_are_drawn_as_they_are_above_their_augmentation(tmp_path):
    """The photographs are dark on the left, bright on the right, and have a red stripe on top."""
    image = np.zeros((72, 96, 3), np.uint8)
    image[:, 48:], image[:12] = 200, (250, 0, 0)
    (tmp_path / "root" / "scene").mkdir(parents=True)
    for number in range(8):
        Image.fromarray(image).save(tmp_path / "root" / "scene" / f"{number}.png")
    config = nano_config(tmp_path / "root", holdout=0)
    sampler = training_sampler(config, build_mixture(config))
    group = sampler.photo_group(0, 0, 0)
    plain, augmented = photo_rows(sampler, 0, group)
    assert plain.label == "photos: scene, centre crops of the files"
    assert "cropped and flipped" in augmented.label
    assert plain.mask is None and augmented.mask is not None
    assert plain.images.shape[2] >= VIEW_HEIGHT > augmented.images.shape[2] == 32
    assert plain.images.shape[:2] == augmented.images.shape[:2]
    upright = lambda views: (views[..., 0, -1, 0] > views[..., -1, -1, 0]).all()
    mirrored = lambda views: views[..., 16, 2, 0] > views[..., 16, -2, 0]
    assert upright(plain.images) and not upright(augmented.images)
    assert not mirrored(plain.images).any() and 0 < mirrored(augmented.images).mean() < 1


def posed_config(root, **settings):
    config = default_config()
    config.job = "evaluate"
    config.posed.desk = posed("cameras", str(root), select="rotation", **settings)
    config.evaluate.update({"models": ("still",), "views": (3,)})
    return config


def test_posed_data_has_a_row_and_a_picture_of_warped_views(tmp_path, capsys):
    posed_trees.cameras(tmp_path / "recordings")
    result = inspect(posed_config(tmp_path / "recordings"), tmp_path / "out", check=0)
    (desk,) = result["posed"]
    assert (desk["sequences"], desk["frames"], desk["groups"]) == (1, 6, 6)
    assert desk["valid_depth"] == 1 and not desk["problems"] and "sources" not in result
    for name, better in (("depth_agrees", 1), ("difference", -1)):
        given, still = desk[name]
        assert better * given > better * still
    assert desk["depth_agrees"][0] > 0.9 and desk["difference"][0] < 10
    printed = capsys.readouterr()
    assert "100%" in printed.err and str(tmp_path / "out" / "warps.png") in printed.out
    with Image.open(tmp_path / "out" / "warps.png") as sheet:
        pixels = np.asarray(sheet)
    first, _, warped, difference = (pixels[60:200, x + 60 : x + 260] for x in (4, 328, 652, 976))
    seen = (warped != 128).any(-1)
    assert seen.mean() > 0.5 and np.abs(first.astype(int) - warped)[seen].mean() < 12
    assert difference.mean() < 20, "drawn twice as bright"


def test_geometry_that_does_not_fit_is_shown_and_is_an_error(tmp_path, capsys):
    posed_trees.cameras(tmp_path / "recordings")
    (path,) = tmp_path.rglob("cameras.json")
    contents = json.loads(path.read_text())
    for frame in contents["frames"]:
        frame["world_to_camera"] = np.linalg.inv(frame["world_to_camera"]).tolist()
    path.write_text(json.dumps(contents))
    with pytest.raises(UserError, match="config.posed.desk: desk: the poses look like camera_to_world"):
        inspect(posed_config(tmp_path / "recordings"), tmp_path / "out", check=0)
    assert (tmp_path / "out" / "warps.png").exists()
    result = inspect(posed_config(tmp_path / "recordings", check=False), tmp_path / "insisting", check=0)
    assert "invert each pose" in result["posed"][0]["problems"][0]
    assert "invert each pose" in capsys.readouterr().out


def test_posed_data_without_depth(tmp_path, capsys):
    posed_trees.cameras(tmp_path / "recordings")
    (path,) = tmp_path.rglob("cameras.json")
    contents = json.loads(path.read_text())
    for frame in contents["frames"]:
        del frame["depth"]
    path.write_text(json.dumps(contents))
    result = inspect(posed_config(tmp_path / "recordings"), tmp_path / "out", check=0)
    (desk,) = result["posed"]
    assert not desk["has_depth"] and desk["groups"] == 6 and desk["difference"] == [None, None]
    assert "none" in capsys.readouterr().err and "warps" not in result
