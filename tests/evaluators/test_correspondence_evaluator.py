"""The correspondence evaluator, on a textured wall with known geometry."""

import dataclasses
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.data.posed import Group, PosedViews
from muskie_jax.errors import UserError
from muskie_jax.evaluators.correspondence import CorrespondenceEvaluator
from muskie_jax.evaluators.eval_models import Activations, EvalModel, ModelInfo, NoMotion, RawPatches
from muskie_jax.evaluators.posed_evaluator import labels_of
from muskie_jax.evaluators.predictions import predict
from muskie_jax.evaluators.results import Figure, ResultRow

SIZE, PATCH, VIEWS = (64, 96), 16, 3
FOCAL = 80.0


class Walls:
    """Views of a wall 2 m away, from cameras side by side: the image moves by whole patches.

    The colour of a pixel identifies the patch of the wall that it shows, of `patch` pixels.
    """

    parallel = True

    def __init__(self, name="walls", groups=3, step=1, patch=PATCH):
        self.name, self.step, self.patch = name, step, patch
        self.groups = tuple(Group(f"{name}/{i}", tuple("abc")) for i in range(groups))
        self.loaded = []

    def load(self, number, size):
        self.loaded.append(number)
        assert size == SIZE
        moved = self.patch * np.arange(VIEWS) * self.step  # pixels
        columns = np.arange(size[1]) + moved[:, None]
        images = np.zeros((VIEWS, *size, 3), np.uint8)
        images[..., 0] = (columns // self.patch * 20)[:, None]
        images[..., 1] = (np.arange(size[0]) // self.patch * 20 + number)[:, None]
        depth = np.full((VIEWS, *size), 2.0, np.float32)
        intrinsics = np.array([[FOCAL, 0, size[1] / 2], [0, FOCAL, size[0] / 2], [0, 0, 1]])
        poses = np.repeat(np.eye(4)[None], VIEWS, 0)
        poses[:, 0, 3] = -moved * 2.0 / FOCAL
        return PosedViews(images, depth, depth > 0, np.repeat(intrinsics[None], VIEWS, 0), poses)


@dataclasses.dataclass(frozen=True)
class ColourNetwork:
    """Its features are the colours of patches: only their row in layer 1, row and column in layer 2."""

    attends: bool = False

    def activations(self, params, images):
        del params
        batch, views, height, width, _ = images.shape
        cells = images.reshape(batch, views, height // PATCH, PATCH, width // PATCH, PATCH, 3).mean((3, 5))
        # Waves of many lengths, so that similar colours have similar features.
        waves = np.random.default_rng(0).normal(size=(2, 64)) * 10
        describe = lambda x: jnp.concatenate([jnp.sin(x @ waves), jnp.cos(x @ waves)], -1)
        features = tuple(describe(cells[..., :2] * np.array(kept)) for kept in ((0.0, 1.0), (1.0, 1.0)))
        if not self.attends:
            return Activations(features)
        flat = cells.reshape(batch, views, -1, 3)
        similarity = lambda a, b: jax.nn.softmax(-1e3 * jnp.square(a - b).sum(-1), axis=-1)
        to_others = similarity(flat[:, 0, :, None, None], flat[:, None])
        to_first = similarity(flat[:, :, :, None], flat[:, :1, None])
        # One block attends uniformly, the other to patches of the same colour.
        uniform = (jnp.full_like(x, 1e-3) for x in (to_others, to_first))
        return Activations(features, *zip(uniform, (to_others, to_first)))


def colours(name="colours", attends=False, network=None, **info):
    return EvalModel(ModelInfo(name, "muskie", **info), network or ColourNetwork(attends))


STILL = EvalModel(ModelInfo("still", "still"), NoMotion())
PATCHES = EvalModel(ModelInfo("patches", "patches"), RawPatches())


def evaluator(sets=None, **options):
    sets = [Walls()] if sets is None else sets
    return CorrespondenceEvaluator({VIEWS: sets}, [SIZE], **{"points": 40, "pictures": 0} | options)


def rows_of(evaluator, model, setting=0):
    found = list(evaluator.evaluate(model, evaluator.settings()[setting]))
    return {
        tuple(row.labels[key] for key in ("predictor", "layer", "protocol", "angle", "points")): row.values
        for row in found
        if isinstance(row, ResultRow)
    }


def test_features_that_identify_patches_find_every_point():
    rows = rows_of(evaluator(), colours())
    best = rows["feature", 2, "targets", "all", "all"]
    assert best["px_10"] == 100 and best["px_ate"] < 7 and best["cm_ate"] < 20
    assert best["pairs"] > 100
    poor = rows["feature", 1, "targets", "all", "all"]
    assert poor["px_10"] < 60 and poor["px_ate"] > 15
    # Everything moves by the same distance, so neighbours determine it exactly.
    assert rows["feature+refined", 2, "targets", "all", "all"]["px_ate"] < 2
    assert ("attention", "all", "targets", "all", "all") not in rows


def test_enlarged_views_have_finer_patches():
    """The wall has patches of half the size of the network's."""
    walls = Walls(patch=PATCH // 2)
    key = "feature", 2, "targets", "all", "all"
    coarse = rows_of(evaluator([walls]), colours())[key]
    fine_evaluator = evaluator([walls], enlarge=2)
    fine = rows_of(fine_evaluator, colours())[key]
    assert fine["px_ate"] < 4 < 6 < coarse["px_ate"]
    assert fine["pairs"] == coarse["pairs"]
    (setting,) = fine_evaluator.settings()
    assert setting["enlarge"] == 2 and "enlarge" not in evaluator([walls]).settings()[0]
    assert labels_of(setting)["enlarge"] == 2


class RolledCamera:
    """Views of a textured wall; the camera of the first is rolled, in degrees, against the others."""

    parallel, groups = True, tuple(Group(f"rolled/{i}", tuple("abc")) for i in range(2))

    def __init__(self, roll):
        self.name, self.roll = f"rolled{roll}", np.radians(roll)

    def load(self, number, size):
        intrinsics = np.array([[FOCAL, 0, size[1] / 2], [0, FOCAL, size[0] / 2], [0, 0, 1]])
        poses = np.repeat(np.eye(4)[None], VIEWS, 0)
        cosine, sine = np.cos(self.roll), np.sin(self.roll)
        poses[0, :2, :2] = [[cosine, -sine], [sine, cosine]]
        poses[1:, 0, 3] = -PATCH * np.arange(VIEWS - 1) * 2.0 / FOCAL
        rows, columns = np.indices(size) + 0.5
        rays = np.stack([(columns - size[1] / 2) / FOCAL, (rows - size[0] / 2) / FOCAL, np.ones(size)], -1)
        cells = np.random.default_rng(number).integers(0, 256, (64, 64, 3))
        images = np.zeros((VIEWS, *size, 3), np.uint8)
        for image, pose in zip(images, poses):
            wall = (2 * rays - pose[:3, 3]) @ pose[:3, :3]  # world coordinates, metres
            column, row = (np.floor(wall[..., axis] * FOCAL / 2 / PATCH).astype(int) for axis in (0, 1))
            image[:] = cells[row % 64, column % 64]
        depth = np.full((VIEWS, *size), 2.0, np.float32)
        return PosedViews(images, depth, depth > 0, np.repeat(intrinsics[None], VIEWS, 0), poses)


@pytest.mark.parametrize("roll, orientations", [(90, 4), (-90, 4), (135, 8)])
def test_orientations_find_points_of_rolled_cameras(roll, orientations):
    sets = [RolledCamera(roll)]
    key = "feature+refined", 1, "targets", "all", "all"
    upright = rows_of(evaluator(sets), PATCHES)
    turned_evaluator = evaluator(sets, orientations=orientations)
    turned = rows_of(turned_evaluator, PATCHES)
    assert upright[key]["px_10"] < 46 and 2 * upright[key]["px_10"] < turned[key]["px_10"]
    assert roll == 135 or turned[key]["px_10"] > 90  # quarter turns keep the patches
    # Only refined predictors choose among angles.
    plain = "feature", 1, "targets", "all", "all"
    assert turned[plain]["px_10"] == pytest.approx(upright[plain]["px_10"], abs=1e-3)
    (setting,) = turned_evaluator.settings()
    assert labels_of(setting)["orientations"] == orientations
    assert "orientations" not in evaluator(sets).settings()[0]


def test_orientations_change_little_for_upright_views():
    key = "feature+refined", 1, "targets", "all", "all"
    one, four = (rows_of(evaluator([RolledCamera(0)], orientations=n), PATCHES)[key] for n in (1, 4))
    assert four["pairs"] == one["pairs"] and one["px_10"] > 95
    assert four["px_10"] == pytest.approx(one["px_10"], abs=2)


def test_attention_is_read_by_layer_and_over_all():
    rows = rows_of(evaluator(), colours(attends=True))
    layers = {key[1] for key in rows if key[0] == "attention"}
    assert layers == {"all", 1, 2}
    for layer in ("all", 2):
        assert rows["attention", layer, "targets", "all", "all"]["px_ate"] < 0.5
    assert rows["attention", 1, "targets", "all", "all"]["px_ate"] > 10
    only = rows_of(evaluator(layers=(2,), protocols=("published",)), colours(attends=True))
    assert set(only) == {(p, layer, "published", "all", "all") for p, layer in
                         (("attention", "all"), ("attention", 2), ("feature", 2))}  # fmt: skip


def test_no_motion_is_wrong_by_the_motion():
    rows = rows_of(evaluator(), STILL)
    values = rows["still", "all", "targets", "all", "all"]
    assert values["px_10"] == 0 < values["px_25"] < values["px_50"] == 100
    assert 16 <= values["px_ate"] <= 32
    metres = values["px_ate"] * 2 / FOCAL
    assert values["cm_ate"] == pytest.approx(100 * metres, rel=1e-6)
    published = rows["still", "all", "published", "all", "all"]
    assert published["pairs"] > values["pairs"] and published["px_ate"] < values["px_ate"]


def test_slices_are_parts_of_all_pairs():
    rows = rows_of(evaluator(), PATCHES)
    of = lambda angle, points="all": rows.get(("feature", 1, "targets", angle, points))
    assert of("0-10") == of("all") and of("10-20") is None  # these cameras do not turn
    poor = rows_of(evaluator(), colours())
    pairs, consistent = (poor["feature", 1, "targets", "all", part] for part in ("all", "cycle"))
    assert 0 < consistent["pairs"] < pairs["pairs"] and consistent["px_ate"] < pairs["px_ate"]


def test_at_most_one_device_per_group_is_used():
    assert evaluator().mesh.size == 3  # of eight
    assert evaluator([Walls(groups=3), Walls("others", groups=8)]).mesh.size == 8


def test_results_do_not_depend_on_devices_batches_and_other_sets():
    def measured(devices, *sets):
        each = evaluator(sets, protocols=("targets",))
        each.mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))
        return rows_of(each, colours(attends=True))

    two = measured(2, Walls())  # three groups: the second batch is padded
    assert measured(2, Walls(), Walls("others", groups=8)) == two
    for key, values in measured(1, Walls()).items():
        assert values == pytest.approx(two[key], abs=1e-3)


def test_models_of_one_network_share_programs_and_data():
    walls = Walls()
    both = evaluator([walls])
    rows_of(both, colours("one"))
    size, loads = predict._cache_size(), len(walls.loaded)
    rows_of(both, colours("two", step=8, source="elsewhere"))
    assert predict._cache_size() == size and len(walls.loaded) == loads == 3


def test_sets_that_are_not_parallel_are_loaded_by_the_calling_thread():
    threads = set()

    class Rendered(Walls):
        parallel = False

        def load(self, number, size):
            threads.add(threading.current_thread())
            return super().load(number, size)

    assert rows_of(evaluator([Rendered()]), STILL) == rows_of(evaluator(), STILL)
    assert threads == {threading.main_thread()}


def test_layers_that_do_not_exist():
    with pytest.raises(UserError, match=r"config.evaluate.layers=\(9,\): colours has none of these layers"):
        rows_of(evaluator(layers=(9,), pictures=1), colours(attends=True))
    assert rows_of(evaluator(layers=(9,)), STILL)


def test_figures_show_tracks_and_features():
    drawing = evaluator(pictures=2)
    found = [x for x in drawing.evaluate(colours(), drawing.settings()[0]) if isinstance(x, Figure)]
    assert [figure.kind for figure in found] == ["tracks", "features"] * 2
    assert found[0].labels["group"] == "walls/0" and found[2].labels["group"] == "walls/1"
    assert found[1].labels["layer"] == 2, "the layer that matches best"
    assert "layer 2" in found[0].caption and "colours" in found[0].caption
    for figure in found:
        assert figure.pixels.dtype == np.uint8 and figure.pixels.std() > 10


def test_settings_hold_everything_that_matters():
    (setting,) = evaluator(points=7, layers=(1,)).settings()
    expected = {"dataset": "walls", "views": VIEWS, "height": 64, "width": 96, "points": 7, "layers": [1]}
    assert expected.items() <= setting.items()


def test_activations_that_are_not_finite_and_missing_depth_are_errors():
    @dataclasses.dataclass(frozen=True)
    class Broken(ColourNetwork):
        def activations(self, params, images):
            return Activations(tuple(x * jnp.nan for x in super().activations(params, images).features))

    with pytest.raises(UserError, match="broken: its features are not finite on walls/0"):
        rows_of(evaluator(), colours("broken", network=Broken()))

    class Empty(Walls):
        def load(self, number, size):
            views = super().load(number, size)
            return views._replace(valid=np.zeros_like(views.valid))

    with pytest.raises(UserError, match="config.posed.walls: the first view of walls/0 has no depth"):
        rows_of(evaluator([Empty()]), colours())
