"""Recall and the pose probe, with features that are known to be enough, and with features that are not."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.correspondence import recall
from muskie_jax.data.posed import Group, PosedViews
from muskie_jax.errors import UserError
from muskie_jax.evaluate import headline
from muskie_jax.evaluators import pose_probe
from muskie_jax.evaluators.eval_models import Activations, EvalModel, ModelInfo, RawPatches
from muskie_jax.evaluators.linear_probe import fit_linear_probe
from muskie_jax.evaluators.pose_probe import PoseProbeEvaluator, fitted_groups
from muskie_jax.evaluators.recall import RecallEvaluator

SIZE, CELL, SHIFT = (32, 48), 4, 8
FOCAL, DEPTH = 40.0, 2.0


class Walls:
    """Views of a wall, SHIFT pixels apart. A pixel's colour tells which CELL x CELL part it shows."""

    parallel, has_depth, name = True, True, "walls"

    def __init__(self, views=3, groups=2, has_depth=True):
        self.views, self.has_depth = views, has_depth
        self.groups = tuple(Group(f"walls/{i}", tuple(map(str, range(views)))) for i in range(groups))

    def load(self, number, size):
        moved = SHIFT * np.arange(self.views)
        images = np.zeros((self.views, *size, 3), np.uint8)
        images[..., 0] = ((np.arange(size[1]) + moved[:, None]) // CELL * 8)[:, None]
        images[..., 1] = (np.arange(size[0]) // CELL * 8 + number)[:, None]
        depth = np.full((self.views, *size), DEPTH * self.has_depth, np.float32)
        poses = np.repeat(np.eye(4)[None], self.views, 0)
        poses[:, 0, 3] = -moved * DEPTH / FOCAL
        intrinsics = np.array([[FOCAL, 0, size[1] / 2], [0, FOCAL, size[0] / 2], [0, 0, 1]])
        return PosedViews(images, depth, depth > 0, np.repeat(intrinsics[None], self.views, 0), poses)


@dataclasses.dataclass(frozen=True)
class Colours:
    """Layer 1 has one feature for all cells; layer 2 tells all colours apart."""

    def activations(self, params, images):
        del params
        batch, views, height, width, _ = images.shape
        cells = images.reshape(batch, views, height // CELL, CELL, width // CELL, CELL, 3).mean((3, 5))
        waves = np.random.default_rng(0).normal(size=(2, 64)) * 40
        unlike = jnp.concatenate([f(cells[..., :2] @ waves) for f in (jnp.sin, jnp.cos)], -1)
        return Activations((jnp.ones_like(unlike), unlike))


def model(network=None):
    return EvalModel(ModelInfo("colours", "dinov2"), network or Colours())


def rows_of(kind, each, network=None, **options):
    evaluator = kind({len(each.groups[0].frames): [each]}, [SIZE], **options)
    return list(evaluator.evaluate(model(network), evaluator.settings()[0]))


def test_recall_is_the_part_of_the_first_view_that_others_see():
    rows = rows_of(RecallEvaluator, Walls())
    overall = {row.labels["layer"]: row for row in rows if row.labels["angle"] == "all"}
    # The second view sees 40 of 48 columns, the third 32. All grid points are matched.
    assert overall[2].values["cm_1"] == pytest.approx(100 * np.mean([40, 32]) / 48)
    assert overall[2].values["px_5"] >= overall[2].values["cm_1"]
    assert overall[1].values["cm_1"] < 10
    assert overall[2].values["view_pairs"] == 4 and overall[2].by_group["cm_pairs"] == [2.0, 2.0]
    assert {row.labels["angle"] for row in rows} == {"all", "0-30"}
    scannet = rows_of(RecallEvaluator, Walls(), protocol="scannet")
    assert {row.labels["angle"] for row in scannet} == {"all", "0-15"}
    assert headline(rows).endswith("of matches within 2 cm (layer 2)")


def test_the_clearest_matches_are_right(monkeypatch):
    monkeypatch.setattr(recall, "MATCHES", 40)
    (row,) = [r for r in rows_of(RecallEvaluator, Walls(), layers=(2,)) if r.labels["angle"] == "all"]
    assert row.values["cm_1"] == 100


def test_recall_needs_depth_and_a_layer():
    with pytest.raises(UserError, match="no two views of a group have depth on the grid"):
        rows_of(RecallEvaluator, Walls(has_depth=False))
    for kind in (RecallEvaluator, PoseProbeEvaluator):
        with pytest.raises(UserError, match=r"layers=\(7,\): colours has none of these layers"):
            rows_of(kind, Walls(groups=20), layers=(7,))


class Turning:
    """Cameras that turn and move; the colour of a view tells how, if `telling`."""

    parallel, has_depth, name = True, False, "turning"

    def __init__(self, telling=True, scenes=8):
        self.telling = telling
        self.groups = tuple(
            Group(f"scene{scene}/{i}", tuple("abcd"))
            for scene, i in itertools.product(range(scenes), range(6))
        )

    def load(self, number, size):
        rng = np.random.default_rng(number)
        angle, way = rng.uniform(-0.7, 0.7, 4), rng.uniform(-1, 1, 4)
        angle[0] = 0
        poses = np.repeat(np.eye(4)[None], 4, 0)
        poses[:, 0, 0] = poses[:, 2, 2] = np.cos(angle)
        poses[:, 0, 2], poses[:, 2, 0] = np.sin(angle), -np.sin(angle)
        direction = np.stack([np.sin(way), 0 * way, np.cos(way)], -1)
        centres = direction * rng.uniform(1, 5, (4, 1))
        centres[0] = 0
        poses[:, :3, 3] = -np.einsum("vij,vj->vi", poses[:, :3, :3], centres)
        world = np.eye(4)  # what features cannot tell: the frame that poses are given in
        world[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        world[:3, :3] *= np.linalg.det(world[:3, :3])
        world[:3, 3] = 10 * rng.normal(size=3)
        poses = poses @ world
        told = np.stack([np.sin(angle), np.sin(way), np.cos(way)], -1)
        if not self.telling:
            told = rng.uniform(-1, 1, told.shape)
        images = np.broadcast_to((127 + 120 * told).astype(np.uint8)[:, None, None], (4, *size, 3))
        blank = np.zeros((4, *size), np.float32)
        return PosedViews(images, blank, blank > 0, np.repeat(np.eye(3)[None], 4, 0), poses)


def test_the_probe_reads_poses_that_features_tell():
    (row,) = rows_of(PoseProbeEvaluator, Turning(), RawPatches())
    assert row.values["auc_30"] > 80 and row.values["rotation_median"] < 3
    assert row.values["view_pairs"] == row.values["fitted_pairs"] == 24 * 3
    assert row.values["constant_auc_30"] < 40
    assert headline([row]) == f"pose AUC@30 {row.values['auc_30']:.1f} (layer 1)"
    assert np.average(row.by_group["auc_30"], weights=row.by_group["pairs"]) == pytest.approx(
        row.values["auc_30"]
    )


def test_the_probe_does_no_better_than_the_mean_pose_without_a_signal():
    (row,) = rows_of(PoseProbeEvaluator, Turning(telling=False), RawPatches())
    assert row.values["rotation_mean"] == pytest.approx(row.values["constant_rotation_mean"], rel=0.15)
    (telling,) = rows_of(PoseProbeEvaluator, Turning(), RawPatches())
    assert telling.values["fit_error"] < row.values["fit_error"] / 10


def test_scenes_are_either_fitted_or_measured():
    groups = Turning(scenes=3).groups
    fitted = fitted_groups(groups)
    scenes = [group.label.split("/")[0] for group in groups]
    assert {scene for scene, chosen in zip(scenes, fitted) if chosen} == {"scene0", "scene2"}
    assert {scene for scene, chosen in zip(scenes, fitted) if not chosen} == {"scene1"}
    rooms = [Group(f"room_{i}", ("a",)) for i in range(4)]
    np.testing.assert_array_equal(fitted_groups(rooms), [True, False, True, False])
    one = [Group(f"kitchen/{i}", ("a",)) for i in range(4)]
    np.testing.assert_array_equal(fitted_groups(one), [True, True, False, False])


def test_too_few_pairs_are_refused_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr(pose_probe, "fit_linear_probe", lambda *_: pytest.fail("fitted"))
    with pytest.raises(UserError, match="has 2 groups of 3 views, 2 pairs to fit the pose probe and 2"):
        rows_of(PoseProbeEvaluator, Walls())


def test_a_linear_function_is_found_and_its_error_is_that_of_leaving_out():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 50)) * 3 + 1
    y = x[:, :2] @ [[1.0, -2], [0.5, 3]] + 4 + 0.1 * rng.normal(size=(30, 2))
    groups = np.arange(30) // 3
    probe = fit_linear_probe(x, y, groups)
    standard = (x - x.mean(0)) / x.std(0)
    unit = np.linalg.eigvalsh(standard @ standard.T).mean() * probe.strength
    left_out = []
    for group in range(10):
        kept = groups != group
        # The mean of features and their deviation are those of all samples, the offset is refitted.
        design = np.concatenate([standard[kept], np.ones((27, 1))], 1)
        penalty = np.diag([unit] * 50 + [0])
        weights = np.linalg.solve(design.T @ design + penalty, design.T @ y[kept])
        left_out.append(standard[~kept] @ weights[:-1] + weights[-1] - y[~kept])
    assert probe.error == pytest.approx(np.square(left_out).mean(), rel=1e-6)
    assert fit_linear_probe(x, y, 0 * groups).error == fit_linear_probe(x, y, np.arange(30)).error
    many = rng.normal(size=(400, 5))
    probe = fit_linear_probe(many, many @ np.arange(10.0).reshape(5, 2) - 7, np.arange(400))
    new = rng.normal(size=(9, 5))
    np.testing.assert_allclose(probe(new), new @ np.arange(10.0).reshape(5, 2) - 7, atol=1e-3)


def test_samples_that_share_inputs_do_not_choose_a_weak_regulariser():
    """Pairs with a common view and a common target predict each other, without any relation to learn."""
    rng = np.random.default_rng(0)
    groups = np.arange(240) // 3
    common = rng.normal(size=(80, 200))[groups]
    x = np.concatenate([common, rng.normal(size=(240, 20))], 1)
    y = rng.normal(size=(80, 2))[groups] + 0.1 * rng.normal(size=(240, 2))
    assert fit_linear_probe(x, y, groups).strength >= 1
    assert fit_linear_probe(x, y, np.arange(240)).strength < 0.1
