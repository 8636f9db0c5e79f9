"""Reconstruction curves, on networks and scenes with known errors."""

import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from muskie_jax.data.posed.views import Group, PosedViews
from muskie_jax.errors import UserError
from muskie_jax.evaluators.eval_models import EvalModel, ModelInfo, MuskieNetwork
from muskie_jax.evaluators.reconstruction_curves import CurveSettings, ReconstructionCurves, overlap_bins
from muskie_jax.evaluators.results import Figure, ResultRow
from muskie_jax.models.attention import Attention
from muskie_jax.models.muskie import MuskieOutput, build_model, patchify
from muskie_jax.sharding import make_mesh

SIZE, PATCH = (16, 24), 4
SCENES = ("attic", "barn", "cave", "dome", "eaves")


class Copier(nn.Module):
    """Predicts each patch as the mean of its visible copies in all views, or as its own view's mean.

    Attributes:
      seen: callbacks that receive the images and masks of every call.
    """

    own_view_only: bool = False
    seen: tuple = ()  # a list would have no hash
    patch: int = PATCH
    attention: Attention = Attention()
    view_embed: str = "none"
    max_views: int = 8

    def __call__(self, images, mask):
        assert self.attention.mesh is not None, "kernels must know how groups are sharded"
        for keep in self.seen:
            jax.debug.callback(keep, images, mask)
        patches, visible = patchify(images, self.patch), ~mask[..., None]
        axis = 2 if self.own_view_only else 1
        if self.own_view_only:
            # The mean of each channel, as the baseline predicts.
            channels = patches.reshape(*mask.shape, 3, -1).mean(-1).repeat(self.patch**2, axis=-1)
        else:
            channels = patches
        mean = (channels * visible).sum(axis, keepdims=True) / jnp.maximum(
            visible.sum(axis, keepdims=True), 1
        )
        pred = jnp.broadcast_to(mean, patches.shape)
        return MuskieOutput(pred, jnp.full_like(pred, 0.5))


class Scenes:
    """Groups of identical views, each of another scene.

    The first pixel's red is the view's index, its green the scene's. With `shifts`, the camera of every
    view but the first is moved sideways by that many metres before a wall, of which each camera sees 2 m.
    """

    parallel = True

    def __init__(self, name="scenes", groups=5, views=4, shifts=None):
        self.name, self._views, self._shifts = name, views, shifts
        self.groups = tuple(Group(f"{SCENES[i]}/0", tuple(map(str, range(views)))) for i in range(groups))
        self.loaded, self.sizes = [], []

    def load(self, number, size):
        self.loaded.append(number)
        self.sizes.append(size)
        image = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
        images = np.repeat(image[None], self._views, axis=0)
        images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(self._views), number
        if self._shifts is None:
            return types.SimpleNamespace(images=images)
        depth = np.full(images.shape[:3], 2.0 if self._shifts[number] is not None else 0.0, np.float32)
        poses = np.tile(np.eye(4), (self._views, 1, 1))
        poses[1:, 0, 3] = -(self._shifts[number] or 0.0)
        height, width = size
        camera = [[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]]
        intrinsics = np.tile(np.array(camera, float), (self._views, 1, 1))
        return PosedViews(images, depth, depth > 0, intrinsics, poses)


def mesh_of(devices):
    return make_mesh({"data": -1, "fsdp": 1, "view": 1}, jax.devices()[:devices])


def model_of(module, params=None):
    params = {"head": np.zeros(1)} if params is None else params
    return EvalModel(ModelInfo("fake", "muskie"), MuskieNetwork(module), params)


def settings_of(**changes):
    plain = {"sizes": (SIZE,), "views": (1, 2, 4), "references": (0, 1, 2), "modes": (("random", 0.75),)}
    return CurveSettings(**plain | {"pictures": 0} | changes)


def curves(sets=None, devices=1, **changes):
    return ReconstructionCurves(sets or [Scenes()], settings_of(**changes), mesh_of(devices))


def rows_of(evaluator, model):
    found = [out for setting in evaluator.settings() for out in evaluator.evaluate(model, setting)]
    rows = {}
    for row in found:
        assert isinstance(row, ResultRow)
        keys = ("dataset", "mask", "views", "num_reference", "context", "overlap")
        assert rows.setdefault(tuple(row.labels[key] for key in keys), row.values) is row.values
    return rows


@pytest.fixture(scope="module")
def recorded():
    """Rows of the copier, and the images (5, V, ...) and mask of each of its calls."""
    calls = []
    keep = lambda images, mask: calls.append((np.asarray(images), np.asarray(mask)))
    evaluator = curves(views_per_device=40)
    rows = rows_of(evaluator, model_of(Copier(seen=(keep,))))
    jax.effects_barrier()
    keys = [key for key in rows if key[-1] == "all"]
    assert len(keys) == len(calls) == 1 + 2 * 2 + 2 * 3
    return rows, dict(zip(keys, calls))


def test_a_copier_is_right_with_own_views_and_wrong_with_a_distractors(recorded):
    rows, calls = recorded
    for key, values in rows.items():
        _, _, views, references, context, _ = key
        images, mask = calls[key]
        truth = (np.rint((images + 1) * 127.5) / 127.5 - 1).astype(np.float64)
        squared, baseline, count = 0.0, 0.0, 0
        for group in range(5):
            grid = mask[group].reshape(views, 4, 6).repeat(4, 1).repeat(4, 2)[..., None]
            weight = np.broadcast_to(~grid, truth[group].shape)
            filled = (truth[group] * weight).sum(0) / np.maximum(weight.sum(0), 1)
            target, hidden = truth[group, references], grid[references][..., 0]
            squared += ((filled - target) ** 2)[hidden].sum()
            baseline += ((target[~hidden].mean(0) - target) ** 2)[hidden].sum()
            count += hidden.sum()
        assert values["patches"] * 16 == count == 5 * 18 * 16
        assert values["mse"] == pytest.approx(squared / count / 3, rel=1e-5, abs=1e-5)
        assert values["baseline_mse"] == pytest.approx(baseline / count / 3, rel=1e-5)
        if references and context == "own":
            assert values["mse"] < 1e-4  # the first pixels differ
        if references and context == "distractor":
            assert values["mse"] > 0.3


def test_own_views_and_a_distractors_share_targets_masks_and_order(recorded):
    _, calls = recorded
    longest = {name: calls["scenes", "random 0.75", 4, 0, name, "all"] for name in ("own", "distractor")}
    names = lambda images: np.rint((np.moveaxis(images[:, :, 0, 0, :2], -1, 0) + 1) * 127.5)
    (own_view, own_scene), (view, scene) = (names(images) for images, _ in longest.values())
    assert not own_view[:, 0].any() and not view[:, 0].any(), "the target is the first view"
    assert (own_scene.T == np.arange(5)).all() and (scene[:, 0] == np.arange(5)).all()
    assert (scene[:, 1:].T != np.arange(5)).all() and (scene[:, 2:] == scene[:, 1:2]).all()
    for context in (own_view[:, 1:], view[:, 1:]):
        assert (np.sort(context) == [1, 2, 3]).all()
    hidden = longest["own"][1]
    assert (hidden.sum(-1) == 18).all() and len(np.unique(hidden.reshape(20, -1), axis=0)) == 20

    # Fewer views are a prefix of more, with the same masks; reference views come before the target.
    for (*_, views, references, context, _), (images, mask) in calls.items():
        order = [*range(1, references + 1), 0, *range(references + 1, views)]
        np.testing.assert_array_equal(images, longest.get(context, longest["own"])[0][:, order])
        assert not mask[:, :references].any()
        np.testing.assert_array_equal(mask[:, references:], hidden[:, order[references:]])


def test_a_network_that_ignores_other_views_has_one_curve():
    rows = rows_of(curves(), model_of(Copier(own_view_only=True)))
    alone = next(values for key, values in rows.items() if key[4] == "none")
    assert alone["mse"] == pytest.approx(alone["baseline_mse"], rel=1e-5)
    for (*kind, context, overlap), values in rows.items():
        if context == "own":
            assert values == rows[*kind, "distractor", overlap]
        assert values == pytest.approx(alone, rel=1e-6)


def test_results_do_not_depend_on_batches_devices_and_order():
    model, few = model_of(Copier()), {"views": (1, 4), "references": (1,)}
    expected = rows_of(curves(**few), model)
    for devices, limit in ((1, 1), (1, 9), (8, 32), (4, 1)):
        found = rows_of(curves(devices=devices, views_per_device=limit, **few), model)
        assert found.keys() == expected.keys()
        for key, values in found.items():
            assert values == pytest.approx(expected[key], rel=1e-6), (key, devices, limit)
    # A set has the same results beside another set, and each unit on its own.
    both = curves([Scenes("more", groups=2), Scenes()], **few)
    again = rows_of(both, model)
    assert {key: values for key, values in again.items() if key[0] == "scenes"} == expected
    setting = both.settings()[-1]
    (row, *_) = curves([Scenes("more", groups=2), Scenes()], **few).evaluate(model, setting)
    assert row.values == again["scenes", "random 0.75", 4, 1, "own", "all"]


def test_errors_by_overlap():
    """Context views see the fraction 1 - shift / 2 of the target; the last group has no depth."""
    shifted = Scenes("shifted", shifts=(0.2, 1.1, 1.9, 0.1, None))
    rows = rows_of(curves([shifted]), model_of(Copier()))
    plain = rows_of(curves([Scenes("shifted")]), model_of(Copier()))
    assert {key: values for key, values in rows.items() if key[-1] == "all"} == plain
    for context in ("own", "distractor"):
        kind = ("shifted", "random 0.75", 4, 2, context)
        by_bin = {key[-1]: values for key, values in rows.items() if key[:-1] == kind}
        patches = {name: values["patches"] for name, values in by_bin.items()}
        assert patches == {"all": 90, "0.0-0.3": 18, "0.3-0.6": 18, "0.6-1.0": 36}
        # The bins hold all targets but the last, whose overlap is unknown, for the distractor's views too.
        binned = sum(v["patches"] * v["mse"] for name, v in by_bin.items() if name != "all")
        rest = 90 * by_bin["all"]["mse"] - binned
        # Two images of noise in [-1, 1] differ by 2/3 on average.
        assert rest / 18 == pytest.approx(0 if context == "own" else 2 / 3, abs=0.1)
    assert not any(key[-1] != "all" for key in rows if key[3] == 0), "no reference view"


def test_overlap_is_that_of_the_reference_view_that_sees_most():
    seen = np.array([[0.1, 0.7, 1.0], [0.5, 0.3, 0.7], [0.6, 0.0, 0.0], [np.nan] * 3])
    numbers = lambda bins: {name: np.flatnonzero(chosen).tolist() for name, chosen in bins.items()}
    everyone = {"all": [0, 1, 2, 3]}
    assert numbers(overlap_bins(seen, 0)) == everyone
    assert numbers(overlap_bins(seen, 1)) == everyone | {"0.0-0.3": [0], "0.3-0.6": [1], "0.6-1.0": [2]}
    assert numbers(overlap_bins(seen, 2)) == everyone | {"0.3-0.6": [1], "0.6-1.0": [0, 2]}
    assert numbers(overlap_bins(seen, 3)) == everyone | {"0.6-1.0": [0, 1, 2]}


def test_sets_are_loaded_once_for_units_in_order():
    scenes = Scenes()
    evaluator = curves([scenes], modes=(("random", 0.75), ("rectangle", 0.5)))
    rows_of(evaluator, model_of(Copier()))
    assert sorted(scenes.loaded) == list(range(5))
    settings = evaluator.settings()
    assert len(settings[1]["distractors"]) == 5 and "scenes 0" in settings[1]["distractors"]
    assert json.loads(json.dumps(settings)) == settings and len(settings) == 6
    assert settings[1] == {
        "dataset": "scenes", "height": 16, "width": 24, "mask": "random", "ratio": 0.75, "views": 2,
        "references": [0, 1], "groups": 5, "pictures": 0, "distractors": settings[1]["distractors"],
    }  # fmt: skip


def test_muskie_and_its_picture():
    module = build_model("nano", patch=PATCH, view_embed="learned", max_views=2)
    image = jnp.zeros((1, 1, *SIZE, 3))
    params = jax.jit(module.init)(jax.random.key(0), image, jnp.zeros((1, 1, 24), bool))["params"]
    model = model_of(module, params)
    evaluator = curves(views=(2, 4), references=(1,), pictures=2)
    two, four = evaluator.settings()
    own, distractor = evaluator.evaluate(model, two)
    assert math.isfinite(own.values["mse"]) and own.values["mse"] != distractor.values["mse"]
    assert own.values["baseline_mse"] == distractor.values["baseline_mse"]
    assert list(evaluator.evaluate(model, four)) == [], "more views than embeddings"

    # The figure of the largest number of views: two targets, each with own views and a distractor's.
    figure = list(curves(views=(2,), references=(0, 1), pictures=2).evaluate(model, two))[-1]
    assert isinstance(figure, Figure) and figure.kind == "reconstruction"
    kind = {"dataset": "scenes", "height": 16, "width": 24, "views": 2, "mask": "random 0.75"}
    assert figure.labels == kind | {"num_reference": 1}
    assert "view 2 from the left" in figure.caption
    groups = np.split(figure.pixels, 4)  # of four rows each: input, prediction, confidence, truth
    rows = lambda group: [group[i * 132 : i * 132 + 128, 84:] for i in range(4)]
    first, other, second, _ = map(rows, groups)
    column = lambda row, number: row[:, number * 196 : number * 196 + 192]
    np.testing.assert_array_equal(column(first[3], 1), column(other[3], 1))
    assert (column(first[3], 0) == column(first[3], 1)).mean() > 0.95, "own views are identical"
    assert (column(first[3], 0) != column(other[3], 0)).mean() > 0.5
    assert (column(first[3], 1) != column(second[3], 1)).mean() > 0.5
    assert (column(first[0], 1) == 128).mean() > 0.7, "the target is masked"
    assert (column(first[0], 0) == column(first[3], 0)).all(), "the reference view is not masked"

    assert evaluator.accepts("muskie") and not evaluator.accepts("mae")
    body = {name: value for name, value in params.items() if name != "head"}
    assert list(evaluator.evaluate(model_of(module, body), two)) == [], "no reconstruction head"


def test_a_single_scene_has_no_distractor():
    scene = Scenes()
    scene.groups = tuple(Group(f"attic/{i}", group.frames) for i, group in enumerate(scene.groups))
    found = list(curves([scene], pictures=1).evaluate(model_of(Copier()), curves([scene]).settings()[-1]))
    assert {row.labels["context"] for row in found if isinstance(row, ResultRow)} == {"own"}
    assert "another" not in found[-1].caption


def test_sizes_are_rounded_to_whole_patches():
    scenes = Scenes()
    rows_of(curves([scenes], sizes=((18, 25),)), model_of(Copier()))
    assert set(scenes.sizes) == {(16, 24)}


def test_errors_name_what_to_write():
    model = model_of(Copier())
    with pytest.raises(UserError, match=r"\('random', 0.01\) masks no patch of a 16x24 view: .* 0.0417"):
        rows_of(curves(modes=(("random", 0.01),)), model)
    with pytest.raises(UserError, match="have the sets scenes, scenes: give each its own name"):
        curves([Scenes(), Scenes()])
    for changes, message in (
        ({"modes": (("checker", 0.5),)}, "reconstruction.modes: 'checker' is not a valid value"),
        ({"modes": (("random", 1.5),)}, "ratio 1.5 of random must be above 0"),
        ({"views": (2, 4), "references": (4,)}, "use numbers below 4"),
        ({"views": (0, 1)}, r"views=\(0, 1\) must be 1 or more"),
        ({"references": (-1,)}, "must be 0 or more"),
        ({"modes": ()}, "modes is empty"),
        ({"groups": 0}, "groups=0 must be at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            settings_of(**changes)
    with pytest.raises(ValueError, match="splits views"):
        mesh = make_mesh({"data": 1, "fsdp": 1, "view": 2}, jax.devices()[:2])
        ReconstructionCurves([Scenes()], settings_of(), mesh)
