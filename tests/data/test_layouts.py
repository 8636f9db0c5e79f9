"""The paper's ten datasets: scenes found in their folders, and samples drawn from them."""

import collections
import itertools
import json
import shutil
from typing import Any

import numpy as np
import pytest
from absl import flags
from PIL import Image

from muskie_jax.config import dataset, default_config, folder
from muskie_jax.data.images import BadImage
from muskie_jax.data.layouts import LAYOUTS
from muskie_jax.data.megadepth import read_groups
from muskie_jax.data.megadepth_groups import run_groups, write_groups
from muskie_jax.data.mixture import build_mixture, training_sampler
from muskie_jax.data.objects import object_box, zoom_region
from muskie_jax.data.pipeline import Pipeline
from muskie_jax.data.samples import draw_sample
from muskie_jax.data.scan import scan
from muskie_jax.data.scenes import split_scenes
from muskie_jax.data.sources import PhotographSource
from muskie_jax.errors import UserError
from muskie_tests.commands import run_module
from muskie_tests.trees import TREES, draw_mask, which

GROUPS, VIEWS = 4, 8
WINDOWS = {
    "arkitscenes": 32,
    "scannetpp": 32,
    "co3d": 32,
    "blendedmvg": 32,
    "hypersim": 16,
    "waymo": None,
    "megadepth": None,
    "dl3dv": 64,
    "re10k": 32,
    "wildrgbd": 32,
}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """A folder with a miniature of each dataset, and {dataset: {scene: number of frames}}."""
    root = tmp_path_factory.mktemp("datasets")
    contents = {}
    for name, tree in TREES.items():
        (root / name).mkdir()
        contents[name] = tree(root / name)
    return root, contents


def sampler_of(root, names, **settings):
    config = default_config()
    config.data.root = str(root)
    config.batch = {"groups": GROUPS, "views": VIEWS, "reuse": 1, "passes": 1}
    config.buckets.update({"resolutions": (((32, 32),),), "views": (8,)})
    for name in names:
        config.sources[name] = dataset(name, root=name, holdout=0.0)
        config.sources[name].update(settings)
    return training_sampler(config, build_mixture(config))


def drawn(sampler, count):
    """Yields a sampler's first groups: (source, [(scene, frame) per view]), from the images' colours."""
    for slot in range(count):
        group = sampler.photo_group(0, 0, slot)
        assert not group.error and not group.skipped
        yield int(group.source), [which(image) for image in group.images]


def test_every_dataset_of_the_paper_has_a_row_and_a_tree():
    assert LAYOUTS.keys() == TREES.keys() == WINDOWS.keys()
    assert {name: layout.window for name, layout in LAYOUTS.items()} == WINDOWS
    assert {name for name, layout in LAYOUTS.items() if layout.zoom} == {"co3d", "wildrgbd"}


@pytest.mark.parametrize("name", TREES)
def test_scenes_and_frames_are_found_in_natural_order(datasets, name):
    root, contents = datasets
    scenes = scan(root / name, LAYOUTS[name])
    assert [(scene.name, len(scene.frames)) for scene in scenes] == list(contents[name].items())
    assert list(scenes.counts) == list(contents[name].values())
    assert (scenes.sizes == (48, 64)).all()
    if name == "megadepth":
        return  # its frames are in the order of its groups, see the tests below
    numbers = {}
    for scene in scenes:
        seen = [which(np.asarray(Image.open(root / name / frame))) for frame in scene.frames]
        assert len({number for number, _ in seen}) == 1
        assert [frame for _, frame in seen] == list(range(len(seen)))
        numbers[scene.name] = seen[0][0]
    assert len(set(numbers.values())) == len(scenes)


@pytest.mark.parametrize("name", ["re10k", "hypersim", "waymo", "dl3dv"])
def test_views_come_from_a_window_without_repetition(datasets, name):
    root, contents = datasets
    width = WINDOWS[name] or 1000
    most = max(contents[name].values())
    assert most > (WINDOWS[name] or 40)
    spreads, starts = [], []
    for _, views in drawn(sampler_of(root, [name]), 60):
        (scene,) = {scene for scene, _ in views}
        frames = [frame for _, frame in views]
        if list(contents[name].values())[scene] >= VIEWS:
            assert len(set(frames)) == VIEWS
            spreads.append(max(frames) - min(frames))
            starts.append(min(frames))
        else:
            assert (
                max(collections.Counter(frames).values()) - min(collections.Counter(frames).values()) <= 1
            )
    assert min(width, most) * 0.7 < max(spreads) < width
    assert min(starts) <= 2


def test_groups_of_megadepth_are_drawn_unchanged(datasets):
    root, _ = datasets
    expected = {(0, frozenset(range(8))), (0, frozenset(range(4, 12))), (1, frozenset(range(2, 10)))}
    seen = set()
    for _, views in drawn(sampler_of(root, ["megadepth"]), 40):
        (scene,) = {scene for scene, _ in views}
        seen.add((scene, frozenset(frame for _, frame in views)))
    assert seen == expected


def test_groups_of_one_location_are_held_out_together(datasets):
    root, _ = datasets
    training, unseen = split_scenes(scan(root / "megadepth", LAYOUTS["megadepth"]), 0.5)
    assert {s.name[:4] for s in training} & {s.name[:4] for s in unseen} == set()
    assert len(training) + len(unseen) == 3 and len(training) and len(unseen)


class Command:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize("kind", ["command", "key", "range", "text"])
def test_a_bad_list_of_groups_is_one_line(tmp_path, capsys, kind):
    path = tmp_path / "all_metadata_8view.npz"
    arrays = {"pairs": np.array([(0, [0, 1])], object), "scenes": ["0 a"], "images": ["x", "y"]}
    if kind == "command":
        arrays["pairs"] = np.array([Command()], object)
    elif kind == "key":
        del arrays["images"]
    elif kind == "range":
        arrays["images"] = ["x"]
    np.savez(path, **arrays)
    if kind == "text":
        path.write_text("no archive")
    with pytest.raises(UserError, match="all_metadata_8view") as caught:
        list(read_groups(path))
    assert "\n" not in str(caught.value) and "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("structured", [False, True])
def test_groups_are_made_from_pairs(datasets, tmp_path, structured):
    root = shutil.copytree(datasets[0] / "megadepth", tmp_path / "megadepth")
    layout = LAYOUTS["megadepth"]
    with np.load(root / layout.groups, allow_pickle=True) as data:
        lists = {key: data[key] for key in ("scenes", "images")}
    with pytest.raises(UserError, match="exists: remove it"):
        write_groups(root, layout.groups, 0.2, 0.8)
    (root / layout.groups).unlink()
    with pytest.raises(UserError, match="all_metadata.npz"):
        write_groups(root, layout.groups, 0.2, 0.8)
    # In the first scene ten images overlap each other. Two more overlap one image each, which is too few.
    pairs = [(0, a, b, 0.5) for a in range(10) for b in range(a)] + [(0, 10, 0, 0.5), (0, 11, 1, 0.9)]
    if structured:
        pairs = np.array(pairs, [("s", "i4"), ("a", "i4"), ("b", "i4"), ("o", "f4")])
    np.savez(root / "all_metadata.npz", pairs=pairs, **lists)
    with pytest.raises(UserError, match="no image overlaps 7 others by 0.6 to 0.8"):
        write_groups(root, layout.groups, 0.6, 0.8)
    assert write_groups(root, layout.groups, 0.2, 0.8) == 10
    groups = scan(root, layout)
    assert [scene.name for scene in groups] == [f"0000/dense0#{number}" for number in range(10)]
    for number, scene in enumerate(groups):
        assert len(set(scene.frames)) == 8 and scene.frames[0] == f"0000/dense0/{number}_o.jpg"
        assert (root / scene.frames[7]).is_file() and "11_o" not in "".join(scene.frames)


def test_the_groups_command(tmp_path, monkeypatch):
    pairs = [(0, a, b, 0.5) for a in range(8) for b in range(a)]
    np.savez(tmp_path / "all_metadata.npz", pairs=pairs, scenes=["0 a"], images=list("abcdefgh"))
    done = run_module("muskie_jax.data", "groups", tmp_path)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "all_metadata_8view.npz"
    assert json.loads(done.stdout) == {"list": str(path), "groups": 8} and len(list(read_groups(path))) == 8
    monkeypatch.setattr(flags.FLAGS["overlap"], "value", ["half", "1"])
    with pytest.raises(UserError, match="--overlap=half,1 must be two fractions low,high, such as 0.2,1"):
        run_groups([str(tmp_path)])


def test_datasets_and_their_scenes_are_drawn_uniformly(datasets):
    root, contents = datasets
    counts = collections.Counter(
        (source, views[0][0]) for source, views in drawn(sampler_of(root, TREES), 1500)
    )
    sources = sampler_of(root, TREES).sources
    by_source = collections.Counter()
    for (source, _), count in counts.items():
        by_source[source] += count
    assert len(by_source) == len(TREES)
    expected = 1500 / len(TREES)
    assert max(abs(count - expected) for count in by_source.values()) < 50  # 4 standard deviations
    for number, source in enumerate(sources):
        scenes = [count for (s, _), count in counts.items() if s == number]
        if source.name == "megadepth":  # two of its three groups are of one location
            scenes = [count / 2 if count > 75 else count for count in scenes]
        else:
            assert len(scenes) == len(contents[source.name])
        assert max(scenes) < 1.8 * min(scenes), source.name


# --- Zoom ------------------------------------------------------------------------------------------------


def test_the_zoomed_region_is_the_object_grown_by_half_its_size(tmp_path):
    draw_mask(tmp_path / "mask.png", (20, 20, 28, 26))
    box = object_box(tmp_path / "mask.png")
    assert box is not None and zoom_region(box, 48, 64) == (16, 17, 32, 29)
    assert zoom_region(box, 96, 128) == (32, 34, 64, 58), "of an image of twice the mask's size"
    draw_mask(tmp_path / "corner.png", (0, 40, 10, 48))
    box = object_box(tmp_path / "corner.png")
    assert box is not None and zoom_region(box, 48, 64) == (0, 36, 15, 48)
    draw_mask(tmp_path / "empty.png", None)
    assert object_box(tmp_path / "empty.png") is None
    (tmp_path / "bad.png").write_bytes((tmp_path / "mask.png").read_bytes()[:50])
    with pytest.raises(BadImage, match="bad.png"):
        object_box(tmp_path / "bad.png")


@pytest.fixture
def gradients(tmp_path):
    """A CO3D tree whose pixels encode their coordinates: red is 4 times the column, green the row."""
    rows, columns = np.indices((48, 64))
    pixels = np.stack([4 * columns, 4 * rows, np.zeros_like(rows)], -1).astype(np.uint8)
    scene = tmp_path / "co3d" / "apple" / "1_2_3"
    (scene / "images").mkdir(parents=True)
    for frame in range(8):
        Image.fromarray(pixels).save(scene / "images" / f"{frame}.jpg", quality=100, subsampling=0)
        draw_mask(scene / "masks" / f"{frame}.png", (20, 20, 28, 26))
    return tmp_path


def widths(images):
    """The width of each view in columns of the original image."""
    return np.array([np.ptp(image[..., 0].astype(int)) / 4 for image in images])


def test_half_of_the_samples_are_zoomed_with_all_their_views(gradients):
    sampler = sampler_of(gradients, ["co3d"])
    spans = np.array([widths(sampler.photo_group(0, 0, slot).images) for slot in range(200)])
    zoomed = spans.max(1) < 20  # the region is 16 wide, the images 64
    assert zoomed.mean() == pytest.approx(0.5, abs=0.13)
    assert (spans[~zoomed].min(1) > 30).all(), "one choice for all views"
    always = sampler_of(gradients, ["co3d"], zoom=1.0)
    for slot in range(20):
        columns, rows = (always.photo_group(0, 0, slot).images[..., channel] / 4 for channel in (0, 1))
        assert columns.min() > 15 and columns.max() < 33 and rows.min() > 16 and rows.max() < 30


def test_views_without_an_object_are_not_zoomed_and_views_with_a_broken_mask_are_replaced(gradients):
    masks = gradients / "co3d" / "apple" / "1_2_3" / "masks"
    draw_mask(masks / "0.png", None)
    (masks / "1.png").unlink()
    (masks / "2.png").write_bytes(b"no mask")
    (source,) = sampler_of(gradients, ["co3d"], zoom=1.0).sources
    assert isinstance(source, PhotographSource)
    sample = draw_sample(np.random.default_rng(0), source, VIEWS, (32, 32), augmented=True)
    assert {frame: width > 30 for frame, width in zip(sample.frames, widths(sample.images))} == {
        0: True, 1: True, 3: False, 4: False, 5: False, 6: False, 7: False
    }  # fmt: skip
    (message,) = sample.skipped
    assert "masks/2.png" in message and not sample.error and sample.tried == 8


# --- Determinism -----------------------------------------------------------------------------------------


def batches(sampler, steps, rows=range(GROUPS), workers=0):
    updates = Pipeline(sampler, rows, workers).updates(steps.start, steps.stop)
    return [batch for ((_, batch),) in updates]


def assert_same(ours, others):
    assert len(ours) == len(others) > 0
    for a, b in zip(ours, others):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


@pytest.fixture(scope="module")
def all_datasets(datasets):
    return sampler_of(datasets[0], TREES)


@pytest.mark.parametrize("workers", [1, 4])
def test_batches_do_not_depend_on_workers(all_datasets, workers):
    assert_same(batches(all_datasets, range(3), workers=workers), batches(all_datasets, range(3)))


def of_hosts(sampler, steps, hosts):
    """The global batches, joined from those of each host."""
    rows = GROUPS // hosts
    parts = [batches(sampler, steps, range(h * rows, (h + 1) * rows)) for h in range(hosts)]
    return [{key: np.concatenate([p[key] for p in step]) for key in step[0]} for step in zip(*parts)]


@pytest.mark.parametrize("hosts", [2, 4])
def test_batches_do_not_depend_on_hosts_or_their_change_between_runs(all_datasets, hosts):
    expected = batches(all_datasets, range(6))
    assert len({int(s) for batch in expected for s in batch["source"]}) > 5
    assert_same(of_hosts(all_datasets, range(6), hosts), expected)
    resumed = of_hosts(all_datasets, range(3), 1) + of_hosts(all_datasets, range(3, 6), hosts)
    assert_same(resumed, expected)


# --- Mixtures, and missing datasets ----------------------------------------------------------------------


def mixture_of(root, allow_missing=False, **sources):
    config = default_config()
    config.data.root, config.data.allow_missing = str(root), allow_missing
    config.sources.update(sources)
    return build_mixture(config)


def test_a_missing_dataset_is_one_clear_error_or_left_out(datasets):
    root, _ = datasets
    sources: dict[str, Any] = {
        "co3d": dataset("co3d", root="co3d"),
        "waymo": dataset("waymo", root="elsewhere"),
    }
    with pytest.raises(UserError) as caught:
        mixture_of(root, **sources)
    message = str(caught.value)
    assert "\n" not in message and "config.sources.waymo: the folder" in message and "elsewhere" in message
    assert "--config.data.allow_missing" in message
    mixture = mixture_of(root, allow_missing=True, **sources)
    assert mixture.names == ("co3d",)
    assert any("waymo: LEFT OUT" in note for note in mixture.notes)
    with pytest.raises(UserError, match="config.sources has no source to train on"):
        mixture_of(root, allow_missing=True, waymo=sources["waymo"])


def test_the_error_for_a_root_of_another_dataset_has_the_expected_layout(datasets):
    with pytest.raises(
        UserError,
        match=r"no scene of WildRGB-D under .* expected at \*/scenes/scene_\*/rgb/\*.png, "
        r"but there is \w+/\w+/\w+/\w+\.(jpg|png)",
    ):
        scan(datasets[0] / "co3d", LAYOUTS["wildrgbd"])
    with pytest.raises(UserError, match="MegaDepth needs the list of groups"):
        scan(datasets[0] / "co3d", LAYOUTS["megadepth"])


def test_an_absolute_root_ignores_the_common_root(datasets, photo_folder):
    mixture = mixture_of(datasets[0], photos=folder(root=str(photo_folder)))
    (source,) = mixture.training
    assert isinstance(source, PhotographSource) and source.root == photo_folder


def test_views_repeat_only_after_all_were_drawn(datasets):
    for _, views in itertools.islice(drawn(sampler_of(datasets[0], ["arkitscenes"]), 20), 20):
        assert sorted(collections.Counter(frame for _, frame in views).values()) == [1, 1, 2, 2, 2]
