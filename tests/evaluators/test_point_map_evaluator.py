"""Cameras and point maps, on a wall whose geometry is known, by networks whose answers are known."""

import base64
import dataclasses
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax import save_pretrained
from muskie_jax.config import default_config, posed
from muskie_jax.data.posed import Group, PosedViews
from muskie_jax.errors import UserError
from muskie_jax.evaluate import evaluate, headline
from muskie_jax.evaluators.eval_models import EvalModel, ModelInfo, MuskieNetwork, NoMotion, PointMapNetwork
from muskie_jax.evaluators.model_specs import find_models
from muskie_jax.evaluators.point_maps import PointMapEvaluator, true_points
from muskie_jax.evaluators.results import Figure, ResultRow
from muskie_jax.models.muskie import Muskie
from muskie_jax.models.reconstruction import Reconstruction, ReconstructionOutput
from muskie_tests import golden_reconstruction as golden
from muskie_tests import posed_trees

SIZE, VIEWS, GROUPS = (32, 48), 3, 3
MODULE = Reconstruction(Muskie(24, 4, 2), 1)


def turn(degrees):
    """Rotation about the vertical axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


class Scene:
    """Views of a slanted surface, from cameras that turn and move; the same in every group."""

    parallel = True

    def __init__(self, has_depth=True):
        self.name, self.has_depth = "surface", has_depth
        self.groups = tuple(Group(f"surface/{i}", tuple("abc")) for i in range(GROUPS))

    def load(self, number, size):
        del number
        assert size == SIZE
        rows, columns = np.indices(size)
        depth = np.stack([2 + 0.02 * rows + 0.01 * columns * view for view in range(VIEWS)])
        depth = depth.astype(np.float32) * self.has_depth
        depth[:, :4] = 0  # unknown
        poses = np.repeat(np.eye(4)[None], VIEWS, 0)
        for view in range(VIEWS):
            poses[view, :3, :3] = turn(15 * view)
            poses[view, :3, 3] = (0.5 * view, 0.2, -0.1 * view * view)
        intrinsics = np.array([[40.0, 0, size[1] / 2], [0, 40.0, size[0] / 2], [0, 0, 1]])
        images = np.full((VIEWS, *size, 3), 127, np.uint8)
        return PosedViews(images, depth, depth > 0, np.repeat(intrinsics[None], VIEWS, 0), poses)


@dataclasses.dataclass(frozen=True)
class Oracle(PointMapNetwork):
    """Returns the truth in another frame and unit; camera 1 is `turned`, points of view 0 are moved."""

    turned: float = 0.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    broken: bool = False

    def reconstruct(self, params, images):
        del params
        views = Scene().load(0, SIZE)
        frame, unit = np.eye(4), 0.25
        frame[:3, :3], frame[:3, 3] = turn(50)[[1, 2, 0]], (3, -1, 2)
        points = true_points(views)
        points[0] += self.shift
        cameras = np.linalg.inv(views.world_to_camera)
        cameras[1, :3, :3] = cameras[1, :3, :3] @ turn(self.turned)
        cameras = frame @ cameras
        cameras[:, :3, 3] = unit * cameras[:, :3, 3] + 7
        points = unit * (points @ frame[:3, :3].T + frame[:3, 3]) + 7
        local = np.stack([0 * views.depth, 0 * views.depth, 3 + views.depth], -1)
        points[0, 0, 0] = np.nan if self.broken else points[0, 0, 0]
        repeat = lambda x: jnp.repeat(jnp.asarray(x, jnp.float32)[None], len(images), 0)
        return ReconstructionOutput(*map(repeat, (local, views.depth, cameras, points)))


def outputs(network, scene=None, params=None, pictures=0, **settings):
    sets = {VIEWS: [scene or Scene()]}
    settings = {"points": 0, "icp": False, "pictures": pictures} | settings
    evaluator = PointMapEvaluator(sets, [SIZE], **settings)
    model = EvalModel(ModelInfo("oracle", "muskie"), network, params)
    return list(evaluator.evaluate(model, evaluator.settings()[0]))


def test_true_points_are_on_the_rays_of_pixel_centres():
    views = Scene().load(0, SIZE)
    row, column, view = 20, 30, 2
    ray = np.array([(column + 0.5 - SIZE[1] / 2) / 40, (row + 0.5 - SIZE[0] / 2) / 40, 1])
    pose = views.world_to_camera[view]
    expected = pose[:3, :3].T @ (ray * views.depth[view, row, column] - pose[:3, 3])
    np.testing.assert_allclose(true_points(views)[view, row, column], expected, rtol=1e-6)


def test_the_truth_in_another_frame_and_unit_is_perfect():
    (row,) = outputs(Oracle(MODULE), icp=True)
    values = row.values
    assert (values["view_pairs"], values["point_groups"]) == (GROUPS * 3, GROUPS)
    assert values["auc_5"] == values["auc_30"] == 100
    for name in ("accuracy", "completeness", "l1"):
        assert values[f"{name}_mean"] == pytest.approx(0, abs=1e-5)
        assert values[f"icp_{name}_median"] == pytest.approx(0, abs=1e-5)
    assert values["normals_mean"] == pytest.approx(1, abs=1e-4)
    assert row.by_group["pairs"] == [3.0] * GROUPS and len(row.by_group["l1_mean"]) == GROUPS
    assert headline([row]) == "pose AUC@30 100.0, points 0.000 m off"


def test_a_turned_camera_and_moved_points_cost_what_they_are_off_by():
    (row,) = outputs(Oracle(MODULE, turned=12))
    # Two of three pairs have the turned camera. Directions change if they start at it.
    assert row.values["rotation_mean"] == pytest.approx(8, abs=1e-3)
    assert row.values["rotation_median"] == pytest.approx(12, abs=1e-3)
    assert row.values["l1_mean"] == pytest.approx(0, abs=1e-5)
    assert row.values["auc_30"] == pytest.approx(100 * (1 + 2 * 18 / 30) / 3, abs=0.5)
    (row,) = outputs(Oracle(MODULE, shift=(0.0, 0.3, 0.0)))
    # A third of the points is off by 0.3 in one coordinate; alignment makes up for some of it.
    assert 0.02 < row.values["l1_mean"] < 0.3 / 3
    assert row.values["auc_30"] == 100


def test_fewer_points_are_spread_over_all_views():
    (all_points,) = outputs(Oracle(MODULE, shift=(0.0, 0.3, 0.0)))
    (some,) = outputs(Oracle(MODULE, shift=(0.0, 0.3, 0.0)), points=500)
    assert some.values["l1_mean"] != all_points.values["l1_mean"]
    assert some.values["l1_mean"] == pytest.approx(all_points.values["l1_mean"], rel=0.1)


def test_the_trivial_baseline_looks_at_a_wall_from_cameras_side_by_side():
    """Cameras of the scene turn by 15 degrees each, and move mostly sideways."""
    (row,) = outputs(NoMotion())
    assert row.values["rotation_mean"] == pytest.approx((15 + 15 + 30) / 3, abs=1e-3)
    views, pairs = Scene().load(0, SIZE), ((0, 1), (0, 2), (1, 2))
    poses = np.linalg.inv(views.world_to_camera)
    steps = [poses[i, :3, :3].T @ (poses[j, :3, 3] - poses[i, :3, 3]) for i, j in pairs]
    angles = [np.degrees(np.arccos(abs(step[0]) / np.linalg.norm(step))) for step in steps]
    assert row.values["translation_mean"] == pytest.approx(np.mean(angles), abs=1e-2)
    true = true_points(views)[views.valid]
    assert 0 < row.values["l1_mean"] < np.abs(true - true.mean(0)).mean(), "better than one point"
    wall = NoMotion().reconstruct(None, jnp.zeros((1, 2, *SIZE, 3))).points[0]
    assert float(np.ptp(wall[0, :, :, 0])) == pytest.approx(1.2 * 47 / 48) and (wall[..., 2] == 1).all()
    np.testing.assert_allclose(wall[1] - wall[0], np.broadcast_to([1e-3, 0, 0], wall[0].shape), atol=1e-6)


def test_without_depth_there_are_cameras_only():
    (row,) = outputs(Oracle(MODULE), Scene(has_depth=False), pictures=1)
    assert row.values["auc_30"] == 100 and row.values["point_groups"] == 0
    assert not any(name.startswith(("l1", "accuracy")) for name in row.values)
    assert headline([row]) == "pose AUC@30 100.0"


def test_a_picture_shows_predicted_depth_in_the_unit_of_the_truth():
    row, figure = outputs(Oracle(MODULE), pictures=1)
    assert isinstance(row, ResultRow) and isinstance(figure, Figure)
    assert figure.kind == "geometry" and "surface/0" in figure.caption
    assert len(np.unique(figure.pixels.reshape(-1, 3), axis=0)) > 20


def layers_of(page):
    (scene,) = re.findall('<script id="scene" type="application/json">(.*?)</script>', page)
    for layer in json.loads(scene)["layers"]:
        numbers = np.frombuffer(base64.b64decode(layer["points"]), "<u2").reshape(-1, 3)
        points = np.array(layer["low"]) + layer["step"] * numbers
        yield layer["name"], points, np.array(layer["cameras"]).reshape(-1, 4, 4)


def test_a_page_has_predicted_and_true_points_and_cameras_in_one_frame():
    _, figure = outputs(Oracle(MODULE), pictures=1)
    (name, points, cameras), (true_name, true, true_cameras) = layers_of(figure.page)
    assert (name, true_name) == ("predicted", "true") and points.shape == (VIEWS * 28 * 48, 3)
    np.testing.assert_allclose(points, true, atol=1e-3)
    np.testing.assert_allclose(cameras, true_cameras, atol=1e-4)
    _, figure = outputs(Oracle(MODULE, turned=12, shift=(0.0, 0.3, 0.0)), pictures=1)
    (_, points, cameras), (_, true, true_cameras) = layers_of(figure.page)
    assert np.abs(points - true).mean() > 0.02 and np.abs(cameras - true_cameras).max() > 0.1


def test_too_few_known_pixels_have_no_page():
    class Sparse(Scene):
        def load(self, number, size):
            views = super().load(number, size)
            valid = np.zeros_like(views.valid)
            valid[0, 10, :2] = True
            return views._replace(valid=valid)

    _, figure = outputs(Oracle(MODULE), Sparse(), pictures=1)
    assert figure.page == ""


def test_equal_networks_share_one_program():
    traced = []

    class Traced(Oracle):
        def reconstruct(self, params, images):
            traced.append(images.shape)
            return super().reconstruct(params, images)

    evaluator = PointMapEvaluator({VIEWS: [Scene()]}, [SIZE], points=0, icp=False, pictures=0)
    for name in ("one", "two"):
        model = EvalModel(ModelInfo(name, "muskie"), Traced(Reconstruction(Muskie(24, 4, 2), 1)))
        assert len(list(evaluator.evaluate(model, evaluator.settings()[0]))) == 1
    assert len(traced) == 1, "compiled again for the second network"


def test_networks_that_cannot_be_measured_are_named():
    with pytest.raises(UserError, match="oracle is a backbone without a decoder of cameras and point maps"):
        outputs(MuskieNetwork(Muskie(24, 2, 2)))
    with pytest.raises(UserError, match="oracle: its points are not finite on surface/0"):
        outputs(Oracle(MODULE, broken=True))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A folder with an exported network with a decoder."""
    folder = tmp_path_factory.mktemp("weights") / "decoder"
    save_pretrained(folder, golden.model(), golden.params())
    return folder


def test_a_file_with_a_decoder_is_loaded_whole(decoder):
    (spec,) = find_models([str(decoder)], "last", "float32")
    model = spec.load()
    assert isinstance(model.network, PointMapNetwork)
    assert model.info.kind == "muskie" and "camera_head" in model.params
    images = golden.images()
    whole = model.network.reconstruct(model.params, images)
    expected = golden.model().apply({"params": golden.params()}, images)
    np.testing.assert_allclose(whole.points, expected.points, rtol=1e-4, atol=1e-4)
    backbone = MuskieNetwork(golden.model().backbone).activations(golden.params()["backbone"], images)
    found = model.network.activations(model.params, images)
    np.testing.assert_allclose(found.features[-1], backbone.features[-1], rtol=1e-4, atol=1e-4)


def test_the_job_evaluates_files_with_a_decoder_beside_correspondence(decoder, tmp_path):
    posed_trees.cameras(tmp_path / "recordings")
    config = default_config()
    config.job = "evaluate"
    config.posed.desk = posed("cameras", str(tmp_path / "recordings"), select="consecutive", groups=2)
    config.evaluate.update(
        models=(f"decoder={decoder}", "still"),
        evaluators=("correspondence", "reconstruction", "geometry"),
        sizes=((32, 64),),
        views=(3,),
        points=20,
        protocols=("targets",),
    )
    config.evaluate.reconstruction.update(views=(1, 2), groups=2)
    result = evaluate(config, tmp_path / "evaluation")
    assert result["units"] == result["done"]
    tables = (tmp_path / "evaluation" / "tables.md").read_text()
    cameras = tables.split("## Cameras and point maps: desk, 3 views of 32x64")[1]
    assert "| decoder | " in cameras and "AUC@30°" in cameras
    assert "| still" in cameras
    assert "Points after a similarity" in cameras and "ICP" not in cameras
    page = (tmp_path / "evaluation" / "report.html").read_text()
    assert (
        re.search(r"pose AUC@30°: [^.]*still 25\.0, decoder", page) and "Near is red, far is blue." in page
    )
    (link,) = re.findall('<a href="(figures/.*?)">Open in 3D</a>', page)
    assert len(list(layers_of((tmp_path / "evaluation" / link).read_text()))) == 2
