"""Files of features: their values, what they say about themselves, and mistakes."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from muskie_jax.data.load_images import load_images
from muskie_jax.errors import UserError
from muskie_jax.interop.load import load_pretrained, open_weights
from muskie_jax.interop.names import Network
from muskie_jax.interop.weights import Weights, write_weights
from muskie_jax.photographs import feature_file
from muskie_jax.photographs.feature_file import FeatureOptions, write_features
from muskie_jax.photographs.features import drawn_block, split_into_groups
from muskie_jax.viz.features import feature_sheet, patch_centres
from muskie_tests.commands import complaint_of, run_in_process
from muskie_tests.networks import random_network

MODULE = "muskie_jax.features"
SIZE = 48


@pytest.fixture
def write(tmp_path, weights):
    """Returns a function that writes features and returns the summary and the file's arrays."""

    def run(paths, **options):
        out = tmp_path / "features.npz"
        summary = write_features(
            paths, out, weights, FeatureOptions(**{"size": SIZE} | options), force=True
        )
        with np.load(out, allow_pickle=False) as file:
            return summary, dict(file)

    return run


def tokens_of(weights, files):
    """Tokens of every block of one group, (V, L, width), computed without the code under test."""
    model, params = load_pretrained(weights)
    images = load_images(files, (SIZE, 64)).images
    apply = jax.jit(functools.partial(model.apply, method="features"))
    return [np.asarray(block[0]) for block in apply({"params": params}, images[None])]


def test_tokens_are_those_of_groups_of_neighbours(scene, weights, write):
    files = sorted(scene.iterdir())
    summary, file = write(scene, views=3)
    assert file["groups"].tolist() == [0, 0, 1, 1, 1]
    for group in (slice(0, 2), slice(2, 5)):
        for block, expected in enumerate(tokens_of(weights, files[group]), 1):
            stored = file[f"block_{block}"][group]
            assert stored.shape == (len(expected), 3, 4, 48) and stored.dtype == np.float32
            np.testing.assert_allclose(stored.reshape(expected.shape), expected, atol=1e-5)
    assert summary["shape"] == [5, 3, 4, 48] and summary["groups"] == 2 and summary["blocks"] == [1, 2]
    # Views of another group are another context.
    together = write(scene, views=5)[1]["block_2"]
    assert np.abs(together - file["block_2"]).max() > 1e-3


def test_blocks_and_float16(scene, write):
    _, full = write(scene)
    summary, half = write(scene, blocks=(2,), float16=True)
    assert "block_1" not in half and half["block_2"].dtype == np.float16
    np.testing.assert_allclose(half["block_2"], full["block_2"], rtol=1e-3, atol=1e-3)
    assert summary["blocks"] == [2] and summary["dtype"] == "float16"


def test_values_too_large_for_float16(scene, write, monkeypatch):
    compute = feature_file.group_features
    monkeypatch.setattr(
        feature_file, "group_features", lambda *a, **k: [1e5 * tokens for tokens in compute(*a, **k)]
    )
    write(scene)
    with pytest.raises(
        UserError, match=r"block 1 has values up to .*, too large for 16 bits: leave out --fl"
    ):
        write(scene, float16=True)


def test_positions_are_pixels_of_the_upright_photographs(tmp_path, scene, write):
    turned, wide = tmp_path / "turned.jpg", tmp_path / "wide.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.effect_noise((96, 144), 80).convert("RGB").save(turned, exif=exif)  # upright: 144 x 96
    Image.effect_noise((300, 100), 80).convert("RGB").save(wide)
    files = [*sorted(scene.iterdir()), turned, wide]
    _, file = write(files)
    loaded = load_images(files, SIZE)
    assert file["sizes"].tolist() == loaded.sizes.tolist() and file["sizes"][5:].tolist() == [
        [96, 144],
        [100, 300],
    ]
    np.testing.assert_allclose(file["crops"], loaded.crops)
    count, rows, columns, _ = file["block_1"].shape
    for photograph in range(count):
        expected = loaded.to_photograph(photograph, patch_centres((rows, columns), 16))
        np.testing.assert_allclose(file["centres"][photograph].reshape(-1, 2), expected, rtol=1e-6)
    assert file["photographs"].tolist() == list(map(str, files))


def test_the_file_describes_itself(scene, weights, write):
    summary, file = write(scene, views=3)
    about, metadata = str(file["about"]), json.loads(str(file["metadata"]))
    for name in set(file) - {"about", "metadata"}:
        assert f"{name} " in about and str(file[name].shape) in about, name
    assert "3 rows and 4\ncolumns of patches, 16 x 16 pixels" in about
    assert "into 2 groups of 2 to 3" in about and open_weights(weights).params_digest in about
    assert metadata["params_digest"] == summary["params_digest"] == open_weights(weights).params_digest
    assert metadata["group_sizes"] == [2, 3] and metadata["view_size"] == [48, 64]
    assert "{" not in about and max(map(len, about.splitlines())) < 120


def test_equal_features_make_equal_files(scene, tmp_path, weights):
    for name in ("a", "b"):
        write_features(scene, tmp_path / f"{name}.npz", weights, FeatureOptions(SIZE))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_at_most_one_group_is_in_memory(scene, write, monkeypatch):
    opened = []
    load = feature_file.load_images
    monkeypatch.setattr(
        feature_file, "load_images", lambda files, *a: opened.append(len(files)) or load(files, *a)
    )
    write(scene, views=2)
    assert opened == [1, 2, 2]


@pytest.mark.parametrize("count, views", [(1, 8), (8, 8), (9, 8), (300, 8), (7, 1)])
def test_groups_are_few_and_of_similar_size(count, views):
    groups = split_into_groups(count, views)
    assert [i for group in groups for i in group] == list(range(count))
    sizes = list(map(len, groups))
    assert max(sizes) <= views and max(sizes) - min(sizes) <= 1 and len(sizes) == -(-count // views)


def test_a_full_disk_is_noticed_before_computing(scene, tmp_path, weights, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: usage._replace(free=50_000_000 + 3 * 5 * 12 * 48 * 4 - 1)
    )
    monkeypatch.setattr(feature_file, "group_features", None)  # a call would be an error
    with pytest.raises(
        UserError, match=r"features.npz needs 50.0 MB .* has 50.0 MB free: pass fewer --blocks"
    ):
        write_features(scene, tmp_path / "features.npz", weights, FeatureOptions(SIZE))


def test_damaged_pixels_leave_nothing_behind(scene, tmp_path, weights):
    files = [tmp_path / f"{number}.png" for number in range(2)]
    for path in files:
        Image.effect_noise((96, 72), 80).save(path)
    files[1].write_bytes(files[1].read_bytes()[:3000])  # the header is intact
    with pytest.raises(UserError, match=r"1\.png: "):
        write_features(files, tmp_path / "out" / "features.npz", weights, FeatureOptions(SIZE, views=1))
    assert list((tmp_path / "out").iterdir()) == []


def test_unusual_photographs_are_named(scene, tmp_path, write, capsys):
    write(sorted(scene.iterdir())[0])
    assert "One photograph: its features come from this view alone" in capsys.readouterr().err
    tall = tmp_path / "tall.png"
    Image.effect_noise((60, 120), 80).save(tall)
    write([scene, tall])
    assert "1 of 6 photographs has another aspect ratio: its view shows only a part, 38% of " in (
        capsys.readouterr().err
    )
    write(scene)
    assert (
        capsys.readouterr().err.splitlines()[0].startswith("5 photographs at 48x64 pixels, in one group; ")
    )


def test_sheet_has_a_line_for_each_group():
    images = np.arange(7, dtype=np.uint8)[:, None, None, None] * np.ones((1, 128, 128, 3), np.uint8)
    names, one = [f"{number}.jpg" for number in range(7)], np.zeros(7, int)
    sheet = feature_sheet(images, images + 100, names, one, "block 4")
    assert sheet.shape[1] == 84 + 4 * 132, "4 and 3 views"
    shown = {value for value in range(7) if (sheet == value).all(-1).sum() > 128 * 128 / 2}
    assert shown == set(range(7)) == {v - 100 for v in range(100, 107) if (sheet == v).all(-1).any()}
    grouped = feature_sheet(images, images + 100, names, np.array([0, 0, 0, 0, 1, 1, 2]), "block 4")
    assert grouped.shape[0] == sheet.shape[0] // 2 * 3, "three lines instead of two"
    top = lambda value: np.nonzero((grouped == value).all(-1).sum(1) >= 128)[0][0]
    assert top(100) == top(103) < top(104) == top(105) < top(106)
    unnamed = feature_sheet(images, images + 100, [""] * 7, one, "block 4")
    assert (sheet != unnamed).any()


def test_the_drawn_block_is_near_five_sixths_of_the_depth():
    assert (
        drawn_block(range(1, 13), 12) == 10
        and drawn_block([2, 4, 9], 12) == 9
        and drawn_block([1], 12) == 1
    )


def test_command(scene, weights, tmp_path):
    out = tmp_path / "new" / "features.npz"
    flags = ("--model", weights, "--out", out, "--size=48", "--blocks=2", "--float16")
    done = run_in_process(MODULE, scene, *flags)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["photographs"] == 5 and summary["bytes"] == out.stat().st_size
    with Image.open(summary["picture"]) as picture:
        assert picture.size[0] > 5 * 64
    assert "exists: choose another path, or pass --force" in complaint_of(
        run_in_process(MODULE, scene, *flags)
    )


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], "muskie_jax.features needs files: run python -m muskie_jax.features photos/ <flags>"),
        (["{scene}", "--out", "x.npy"], "--out=x.npy must end with .npz"),
        (["{scene}", "--out=/proc/f.npz"], "--out=/proc/f.npz cannot be written"),
        (["{scene}", "--out={scene}/frame_0.jpg/f.npz"], "frame_0.jpg is a file, not a folder: choose"),
        (["{scene}", "--views=0"], "--views=0 must be at least 1"),
        (["{scene}", "--blocks=3"], "--blocks=3: the network has blocks 1 to 2"),
        (["{scene}", "--blocks=0"], "--blocks=0: the network has blocks 1 to 2"),
        (["{scene}", "--blocks=first"], "--blocks=first must be block numbers such as 2,4, or all"),
        (["{scene}", "--size=8"], "size=8 pixels must be at least the patch size 16"),
        (["{scene}/nothing.jpg"], "nothing.jpg: No such file"),
        (
            ["{tmp}/a.png", "--out={tmp}/a.npz", "--force"],
            "a.png is one of the photographs: choose another",
        ),
        (["{scene}", "--model={tmp}/embedded.safetensors"], "--views=8: the network takes at most 4 views"),
        (["{tmp}/empty"], "no image in '"),
        (["{scene}", "--model=nowhere.pth"], "'nowhere.pth' does not exist"),
    ],
)
def test_mistakes_are_one_line(arguments, expected, scene, weights, tmp_path):
    (tmp_path / "empty").mkdir()
    Image.effect_noise((96, 72), 80).save(tmp_path / "a.png")
    embedded = random_network(0, view_embed="learned", max_views=4)
    write_weights(tmp_path / "embedded.safetensors", Weights(Network.of(embedded[0]), embedded[1]))
    filled = [each.format(scene=scene, tmp=tmp_path) for each in arguments]
    defaults = {"--model": weights, "--out": tmp_path / "features.npz"}
    given = {each.split("=")[0] for each in filled}
    flags = [f"{name}={value}" for name, value in defaults.items() if name not in given]
    assert expected in complaint_of(run_in_process(MODULE, *filled, *flags))
    assert not list(tmp_path.glob("features*"))
