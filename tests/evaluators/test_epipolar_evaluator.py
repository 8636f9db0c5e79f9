"""Correspondence without depth, on a textured wall whose cameras are known."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.data.posed import Group, PosedViews
from muskie_jax.errors import UserError
from muskie_jax.evaluate import headline
from muskie_jax.evaluators.epipolar import EpipolarEvaluator
from muskie_jax.evaluators.eval_models import Activations, EvalModel, ModelInfo, NoMotion
from muskie_jax.evaluators.results import Figure, ResultRow

SIZE, PATCH, VIEWS = (64, 96), 16, 3
FOCAL = 80.0


class TurnedWalls:
    """Views of a wall, from cameras side by side; the last one is upside down. Depth is unknown.

    The colour of a pixel identifies the patch of the wall that it shows.
    """

    parallel, has_depth = True, False

    def __init__(self, name="walls", step=1, groups=2):
        self.name, self.step = name, step
        self.groups = tuple(Group(f"{name}/{i}", tuple("abc")) for i in range(groups))

    def load(self, number, size):
        assert size == SIZE
        moved = PATCH * np.arange(VIEWS) * self.step
        columns = np.arange(size[1]) + moved[:, None]
        images = np.zeros((VIEWS, *size, 3), np.uint8)
        images[..., 0] = (columns // PATCH * 20)[:, None]
        images[..., 1] = (np.arange(size[0]) // PATCH * 20)[:, None]
        images[-1] = images[-1, ::-1, ::-1]
        intrinsics = np.array([[FOCAL, 0, size[1] / 2], [0, FOCAL, size[0] / 2], [0, 0, 1]])
        poses = np.repeat(np.eye(4)[None], VIEWS, 0)
        poses[:, 0, 3] = -moved * 2.0 / FOCAL
        poses[-1] = np.diag([-1.0, -1, 1, 1]) @ poses[-1]
        blank = np.zeros((VIEWS, *size), np.float32)
        return PosedViews(images, blank, blank > 0, np.repeat(intrinsics[None], VIEWS, 0), poses)


@dataclasses.dataclass(frozen=True)
class PatchColours:
    """Its features are waves of the mean colour of a patch, so that equal colours match."""

    def activations(self, params, images):
        del params
        batch, views, height, width, _ = images.shape
        cells = images.reshape(batch, views, height // PATCH, PATCH, width // PATCH, PATCH, 3).mean((3, 5))
        waves = np.random.default_rng(0).normal(size=(2, 64)) * 10
        return Activations((jnp.concatenate([f(cells[..., :2] @ waves) for f in (jnp.sin, jnp.cos)], -1),))


STILL = EvalModel(ModelInfo("still", "still"), NoMotion())
COLOURS = EvalModel(ModelInfo("colours", "muskie"), PatchColours())


def outputs(sets, model, **options):
    evaluator = EpipolarEvaluator({VIEWS: sets}, [SIZE], **{"points": 60, "pictures": 0} | options)
    return list(evaluator.evaluate(model, evaluator.settings()[0]))


def values_of(found, predictor, points="all"):
    (row,) = (
        row
        for row in found
        if isinstance(row, ResultRow)
        and (row.labels["predictor"], row.labels["points"], row.labels["angle"])
        == (predictor, points, "all")
    )
    return row.values


def test_predictions_are_measured_by_their_distance_from_epipolar_lines():
    found = outputs([TurnedWalls()], COLOURS)
    best, still = values_of(found, "feature"), values_of(outputs([TurnedWalls()], STILL), "still")
    # Nearest patches are within half a patch of a line; the still prediction is wrong in the turned view.
    assert best["epipolar_mean"] < 8 and best["epipolar_10"] > 90
    assert still["epipolar_mean"] > 1.5 * best["epipolar_mean"]
    assert best["random_mean"] > 15 and best["random_mean"] == still["random_mean"]
    assert best["pairs"] == 2 * 60 * 2 and best["left_out"] == 0
    assert not any(name.startswith(("px", "cm")) for name in best), "never mixed with errors in pixels"
    assert values_of(found, "feature", "cycle")["pairs"] < best["pairs"]
    assert "px from epipolar lines" in headline([row for row in found if isinstance(row, ResultRow)])


def test_views_from_one_position_are_left_out(monkeypatch):
    walls = TurnedWalls()
    load = walls.load

    def with_a_copy(number, size):
        views = load(number, size)
        poses = views.world_to_camera.copy()
        poses[1] = poses[0]
        return views._replace(world_to_camera=poses)

    monkeypatch.setattr(walls, "load", with_a_copy)
    values = values_of(outputs([walls], COLOURS), "feature")
    assert (values["pairs"], values["left_out"]) == (120, 120)
    with pytest.raises(
        UserError, match="config.posed.walls: all cameras of each group are at the same position"
    ):
        outputs([TurnedWalls(step=0)], COLOURS)


def test_points_are_drawn_everywhere_and_pictures_show_lines():
    found = outputs([TurnedWalls(groups=1)], COLOURS, pictures=1)
    figures = [each for each in found if isinstance(each, Figure)]
    assert [figure.kind for figure in figures] == ["epipolar", "features"]
    assert "epipolar lines of points of the first view" in figures[0].caption
    views = TurnedWalls(groups=1).load(0, SIZE)
    tiles = figures[0].pixels
    assert tiles.shape[1] == VIEWS * 400 + (VIEWS - 1) * 8
    # The wall has no blue: lines and dots do.
    assert not views.images[..., 2].any()
    for view in range(VIEWS):
        tile = tiles[:, view * 408 : view * 408 + 400]
        assert (tile[..., 2] > 128).mean() > 0.002
