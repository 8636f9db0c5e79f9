"""Inpainting: what is hidden, what is painted from what, its errors and its picture."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from muskie_jax.data.load_images import load_images
from muskie_jax.interop.load import open_weights
from muskie_jax.interop.weights import write_weights
from muskie_jax.masking import MODES
from muskie_jax.models.muskie import build_model, patchify
from muskie_jax.photographs.inpainting import draw_mask, inpaint, neighbours
from muskie_jax.viz.inpainting import BACKGROUND, inpainting_sheet
from muskie_tests.commands import complaint_of, run_in_process
from muskie_tests.networks import random_inputs, random_network

MODULE = "muskie_jax.inpaint"


@pytest.fixture(scope="module")
def case():
    """A network, three views of 32 x 48 pixels, and a mask of two of the six patches of one."""
    model, params = random_network(seed=0)
    images, _ = random_inputs(1, views=3, size=(32, 48), groups=1)
    return model, params, images[0], np.array([False, True, False, False, False, True])


def test_the_hidden_part_is_painted_and_the_rest_is_kept(case):
    model, params, images, mask = case
    result = inpaint(model, params, images, 1, mask)
    masks = np.zeros((1, 3, 6), bool)
    masks[0, 1] = mask
    apply = jax.jit(model.apply)
    together = np.asarray(apply({"params": params}, images[None], masks).pred[0, 1])
    alone = np.asarray(apply({"params": params}, images[None, 1:2], masks[:, 1:2]).pred[0, 0])
    truth = np.asarray(patchify(images[1], 16))
    for pixels, expected, name in (
        (result.alone, alone, "alone"),
        (result.together, together, "with_others"),
    ):
        patches = np.asarray(patchify(pixels, 16))
        np.testing.assert_array_equal(patches[~mask], truth[~mask])
        np.testing.assert_allclose(patches[mask], expected[mask], atol=1e-5)
        error = np.square(expected[mask] - truth[mask]).mean()
        assert result.errors[name] == pytest.approx(error, rel=1e-4)
    by_channel = truth.reshape(6, 3, -1)
    colour = by_channel[~mask].mean((0, 2))[:, None]
    expected = np.square(by_channel[mask] - colour).mean()
    assert result.errors["visible_mean"] == pytest.approx(expected, rel=1e-4)


def test_only_the_second_painting_sees_the_other_views(case):
    model, params, images, mask = case
    before = inpaint(model, params, images, 1, mask)
    changed = images.copy()
    changed[[0, 2]] *= -1
    after = inpaint(model, params, changed, 1, mask)
    np.testing.assert_array_equal(before.alone, after.alone)
    assert np.abs(before.together - after.together).max() > 1e-3
    hidden = images.copy()
    hidden[1] = np.where(np.kron(mask.reshape(2, 3), np.ones((16, 16)))[..., None] > 0, 0.3, images[1])
    blind = inpaint(model, params, hidden, 1, mask)
    painted = np.kron(mask.reshape(2, 3), np.ones((16, 16))) > 0
    np.testing.assert_allclose(blind.together[painted], before.together[painted], atol=1e-6)


def test_masks():
    for mode in MODES:
        mask = draw_mask(mode, 0.5, (8, 10), seed=1)
        assert mask.shape == (80,) and 0 < mask.sum() < 80
        np.testing.assert_array_equal(mask, draw_mask(mode, 0.5, (8, 10), seed=1))
        assert (mask != draw_mask(mode, 0.5, (8, 10), seed=2)).any()
    assert draw_mask("random", 0.25, (8, 10), 0).sum() == 20


@pytest.mark.parametrize(
    "count, view, most, expected",
    [
        (3, 0, 8, range(3)),
        (9, 4, 3, range(3, 6)),
        (9, 0, 3, range(3)),
        (9, 8, 4, range(5, 9)),
        (1, 0, 8, range(1)),
    ],
)
def test_neighbours(count, view, most, expected):
    assert neighbours(count, view, most) == expected


def test_sheet_shows_the_views_in_order():
    levels = {"visible_mean": 70.0, "alone": 60.0, "with_others": 20.0}
    grey = lambda value: np.full((32, 48, 3), value / 127.5 - 1, np.float32)
    images = np.stack([grey(10), grey(20), grey(30)])
    images[1, :16, :16] = grey(40)[:16, :16]
    mask = np.array([True, False, False, False, False, False])
    sheet = inpainting_sheet(images, 1, mask, 16, grey(100), grey(110), levels)
    rows = [[value for value in np.unique(row) if (row == value).mean() > 0.05] for row in sheet[..., 0]]
    assert rows[100] == [10, 30, BACKGROUND[0]], "the others"
    assert rows[-200] == [20, 40, 100, 110, BACKGROUND[0]], "mean colour, alone, with the others, truth"
    left = lambda value: np.nonzero((sheet[-200] == value).all(-1))[0][0]
    assert left(20) < left(100) < left(110) < left(40), "only the truth shows what is hidden"
    single = inpainting_sheet(images[1:2], 0, mask, 16, grey(100), None, levels)
    assert single.shape[0] < sheet.shape[0] and single.shape[1] < sheet.shape[1]
    assert not (single[-200] == 110).all(-1).any()
    assert (sheet[:, :20] == BACKGROUND).all() and (sheet[:, -20:] == BACKGROUND).all()


def run(weights, out, *arguments):
    done = run_in_process(MODULE, *arguments, "--size=48", "--model", weights, "--out", out)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_command(scene, weights, tmp_path):
    out = tmp_path / "new" / "inpaint.png"
    summary, messages = run(weights, out, scene, "--view=4", "--mask=random", "--ratio=0.25", "--views=3")
    files = sorted(map(str, scene.iterdir()))
    assert summary["hidden"] == files[3] and summary["others"] == [files[2], files[4]]
    assert "3 of 5 photographs are used, frame_3.jpg and its neighbours" in messages
    assert (summary["hidden_patches"], summary["patches"]) == (3, 12)
    images = load_images(files[2:5], 48).images
    weights_in = open_weights(weights)
    mask = draw_mask("random", 0.25, (3, 4), 0)
    expected = inpaint(build_model("nano"), weights_in.params, images, 1, mask).errors
    assert summary["mse"] == pytest.approx(expected, rel=1e-3) and len(expected) == 3
    assert summary["grey_levels"]["alone"] == pytest.approx(127.5 * expected["alone"] ** 0.5, abs=0.1)
    assert summary["params_digest"] == weights_in.params_digest
    with Image.open(out) as picture:
        assert picture.width > 4 * 300


def test_photographs_that_are_cropped_are_named(scene, weights, tmp_path):
    tall = tmp_path / "tall.png"
    Image.effect_noise((72, 96), 80).convert("RGB").save(tall)
    _, messages = run(weights, tmp_path / "i.png", scene / "frame_0.jpg", tall)
    assert (
        "2 of 2 photographs have another aspect ratio: their views show only a part, such as 75%"
        in messages
    )


def test_a_single_photograph_is_painted_alone(scene, weights, tmp_path):
    summary, messages = run(weights, tmp_path / "one.jpg", scene / "frame_0.jpg")
    assert "One photograph: it is painted alone" in messages
    assert set(summary["mse"]) == {"visible_mean", "alone"} and summary["others"] == []


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], "muskie_jax.inpaint needs files: run python -m muskie_jax.inpaint photos/ <flags>"),
        (["{scene}", "--view=6"], "--view=6: there are photographs 1 to 5"),
        (["{scene}", "--view=0"], "--view=0: there are photographs 1 to 5"),
        (["{scene}", "--mask=rectangel"], "--mask: 'rectangel' is not a valid value; did you mean 'rectan"),
        (["{scene}", "--ratio=1.5"], "--ratio=1.5 must be above 0 and at most 1"),
        (["{scene}", "--ratio=0.001"], "--ratio=0.001 hides none of 266 patches: use at least 0.0038"),
        (["{scene}", "--views=0"], "--views=0 must be at least 1"),
        (["{scene}", "--out=x.txt"], "--out=x.txt must be a picture: a name that ends"),
        (["{scene}", "--out={scene}/frame_0.jpg", "--force"], "frame_0.jpg is one of the photographs"),
        (["{scene}", "--out={tmp}/backbone.safetensors.png"], "png exists: choose another path, or pass"),
        (["{scene}", "--out=/proc/i.png"], "--out=/proc/i.png cannot be written"),
        (["{scene}", "--out={scene}/frame_0.jpg/i.png"], "frame_0.jpg is a file, not a folder: choose"),
        (["{scene}/no.jpg"], "no.jpg: No such file"),
        (["{scene}", "--model={tmp}/backbone.safetensors"], "has no reconstruction head, so it cannot"),
        (["{scene}", "--model={tmp}/normalized.safetensors"], "was trained on normalised patches (config"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(arguments, expected, scene, weights, tmp_path):
    complete = open_weights(weights)
    write_weights(tmp_path / "backbone.safetensors", complete.backbone())
    (tmp_path / "backbone.safetensors.png").touch()
    training = {"training": {"loss": {"normalize_targets": True}}}
    write_weights(tmp_path / "normalized.safetensors", dataclasses.replace(complete, provenance=training))
    filled = [each.format(scene=scene, tmp=tmp_path) for each in arguments]
    defaults = {"--model": weights, "--out": tmp_path / "inpaint.png"}
    given = {each.split("=")[0] for each in filled}
    flags = [f"{name}={value}" for name, value in defaults.items() if name not in given]
    assert expected in complaint_of(run_in_process(MODULE, *filled, *flags))
    assert not (tmp_path / "inpaint.png").exists()
