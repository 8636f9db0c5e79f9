"""Training of the task "reconstruct": complete runs, what they start from, and what they leave behind."""

import json
import shutil

import jax
import numpy as np
import pytest

from muskie_jax import load_pretrained
from muskie_jax.checkpoints.saved_steps import best_step, saved_steps
from muskie_jax.config import folder, recordings, synthetic, validate
from muskie_jax.errors import UserError
from muskie_jax.interop.load import load_backbone, open_weights
from muskie_jax.interop.metadata import shareable_config
from muskie_jax.interop.model_card import model_card
from muskie_jax.interop.weights import write_weights
from muskie_jax.interop.workdir import make_workdir
from muskie_jax.models.initial_params import init_params
from muskie_jax.models.muskie import build_model
from muskie_jax.models.reconstruction import Reconstruction
from muskie_jax.optim import make_optimizer
from muskie_jax.photographs.reconstructing import open_reconstruction
from muskie_jax.train import train
from muskie_tests import posed_trees
from muskie_tests.networks import same
from muskie_tests.runs import nano_reconstruction


def curve(workdir):
    """Returns the losses of every update, as metrics.jsonl has them."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    names = ("loss", "points", "normals", "translation", "rotation", "grad_norm")
    return [[row[f"train/{name}"] for name in names] for row in rows if "train/loss" in row]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: its config, work directory and result."""
    config, workdir = nano_reconstruction(), tmp_path_factory.mktemp("reconstruct")
    return config, workdir, train(config, workdir, jax.devices()[:1])


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory):
    """A file with the weights of a nano, with its head of masked patches."""
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    params = jax.tree.map(np.asarray, init_params(build_model("nano"), seed=5))
    from muskie_jax.interop.names import Network
    from muskie_jax.interop.weights import Weights

    write_weights(path, Weights(Network.of(build_model("nano")), params))
    return path


def test_the_loss_falls_and_the_result_names_what_matters(finished):
    _, workdir, result = finished
    losses = np.array(curve(workdir))
    assert losses.shape == (12, 6) and np.isfinite(losses).all()
    assert losses[-4:, 1].mean() < 0.85 * losses[:4, 1].mean()  # points: cameras vary more
    expected = losses[:, 1] + losses[:, 2] + 0.1 * (100 * losses[:, 3] + losses[:, 4])
    np.testing.assert_allclose(losses[:, 0], expected, rtol=1e-4)
    assert {"loss", "points", "normals", "translation", "rotation", "train_loss"} <= result.keys()
    assert result["held_out"] and "mse" not in result
    assert best_step(workdir) == 12  # by the loss, since there is no error of masked patches
    assert (workdir / "pictures/depth_0000012.png").is_file()


def test_a_stopped_run_resumes_bit_for_bit(finished, tmp_path):
    config, workdir, result = finished
    stopped = tmp_path / "stopped"
    shutil.copytree(workdir, stopped)
    shutil.rmtree(stopped / "checkpoints/12")
    assert saved_steps(stopped) == [6]
    again = train(config, stopped, jax.devices()[:1])
    assert again["params_digest"] == result["params_digest"] and again["loss"] == result["loss"]
    assert curve(stopped) == curve(workdir)


def test_a_work_directory_loads_and_exports(finished, tmp_path):
    _, workdir, result = finished
    model, params = load_pretrained(workdir)
    assert isinstance(model, Reconstruction) and model.decoder_depth == 2
    weights = open_weights(workdir, with_decoder=True)
    assert weights.params_digest == result["params_digest"]
    metadata = write_weights(tmp_path / "out.safetensors", weights)
    assert metadata["decoder_depth"] == 2 and metadata["metrics"]["points"] == result["points"]
    assert {open_reconstruction(each).size for each in (workdir, tmp_path / "out.safetensors")} == {32}
    _, exported = load_pretrained(tmp_path / "out.safetensors")
    assert same(exported, params)
    card = model_card(metadata, None)
    assert "masks" not in card and "started from random weights" in card
    assert f"| loss of points | {result['points']:.4f} |" in card.replace("\\", "")
    backbone, alone = load_backbone(workdir)
    assert backbone == model.backbone and same(alone, params["backbone"])


def test_a_frozen_backbone_stays_what_the_file_has(finished, backbone_file, tmp_path):
    config = nano_reconstruction()
    config.optim.weight_decay = 0.5  # would shrink it
    config.reconstruct.backbone = str(backbone_file)
    config.reconstruct.freeze_backbone = True
    train(config, tmp_path, jax.devices()[:1])
    original = open_weights(backbone_file).backbone().params
    _, params = load_pretrained(tmp_path)
    _, earlier = load_pretrained(tmp_path / "checkpoints/6")
    assert same(params["backbone"], original)
    for part in ("decoder_0", "point_head", "camera_head"):
        moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), params[part], earlier[part])
        assert any(jax.tree.leaves(moved)), part
    opt_state = jax.eval_shape(make_optimizer(config).init, params)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(opt_state)]
    assert any("point_head" in path for path in paths)
    assert not any("backbone" in path for path in paths)


def test_a_backbone_that_is_not_frozen_starts_from_the_file_and_moves(backbone_file, tmp_path, monkeypatch):
    config = nano_reconstruction()
    config.checkpoint.every = 1
    monkeypatch.setattr("muskie_jax.processes.interrupt.StopSignal.requested", lambda stop, step: step == 2)
    config.reconstruct.backbone = str(backbone_file)
    train(config, tmp_path, jax.devices()[:1])
    original = open_weights(backbone_file).backbone().params
    # The first update has a learning rate of 0.
    assert same(load_backbone(tmp_path / "checkpoints/1")[1], original)
    assert not same(load_backbone(tmp_path / "checkpoints/2")[1], original)


def test_a_whole_network_goes_on_on_other_data(finished, tmp_path, monkeypatch):
    _, workdir, result = finished
    config = nano_reconstruction()
    config.checkpoint.every = 1
    monkeypatch.setattr("muskie_jax.processes.interrupt.StopSignal.requested", lambda stop, step: step == 1)
    config.reconstruct.update(backbone=str(workdir), reuse_decoder=True)
    train(config, tmp_path / "whole", jax.devices()[:1])  # the first update has a learning rate of 0
    assert open_weights(tmp_path / "whole", with_decoder=True).params_digest == result["params_digest"]

    config.reconstruct.decoder_depth = 3
    expected = "has a decoder of 2 blocks, but .* needs one of 3: pass --config.reconstruct.decoder_depth=2"
    with pytest.raises(UserError, match=expected):
        train(config, tmp_path / "deeper", jax.devices()[:1])


def test_the_decoder_of_a_network_is_not_used_without_a_word(finished, backbone_file, tmp_path, capfd):
    _, workdir, _ = finished
    config = nano_reconstruction()
    config.duration = "1 steps"
    config.optim.warmup = "0 steps"
    config.reconstruct.backbone = str(workdir)
    train(config, tmp_path / "run", jax.devices()[:1])
    assert "its decoder is not used, see config.reconstruct.reuse_decoder" in capfd.readouterr().err

    config.reconstruct.update(backbone=str(backbone_file), reuse_decoder=True)
    with pytest.raises(UserError, match="has no decoder, but config.reconstruct.reuse_decoder needs one"):
        train(config, tmp_path / "without", jax.devices()[:1])
    config.reconstruct.backbone = "nope"
    with pytest.raises(UserError, match="^config.reconstruct.backbone: 'nope' does not exist"):
        train(config, tmp_path / "nope", jax.devices()[:1])


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"data": 2}, {"data": 1, "fsdp": 2}, {"data": 1, "view": 2}], ids=str)
def test_two_devices_give_the_same_curve(finished, tmp_path, mesh):
    _, workdir, result = finished
    config = nano_reconstruction()
    config.mesh.update(mesh)
    on_two = train(config, tmp_path, jax.devices()[:2])
    found, expected = np.array(curve(tmp_path)), np.array(curve(workdir))
    np.testing.assert_allclose(found[:6], expected[:6], rtol=2e-3)
    # Absolute errors have gradients that jump, so differences of rounding grow.
    np.testing.assert_allclose(found[:, :2], expected[:, :2], rtol=5e-3)
    assert on_two["loss"] == pytest.approx(result["loss"], rel=5e-3)


def test_recordings_train(finished, tmp_path):
    """With rooms as a second source: both kinds of batches enter the same program."""
    for number in range(2):
        posed_trees.cameras(tmp_path / "new")
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "new/desk").rename(tmp_path / f"data/{number}")
    config = nano_reconstruction()
    config.sources.desks = recordings("cameras", str(tmp_path / "data"), window=3, holdout=0.5)
    result = train(config, tmp_path / "run", jax.devices()[:1])
    rows = (tmp_path / "run/metrics.jsonl").read_text()
    assert np.isfinite(curve(tmp_path / "run")).all() and result["held_out"]
    assert "evaluation/points/desks" in rows and "evaluation/points/rooms" in rows


def test_a_checkpoint_of_another_structure_names_the_setting(finished):
    config, workdir, _ = finished
    changed = config.copy_and_resolve_references()
    changed.reconstruct.freeze_backbone = True
    with pytest.raises(UserError, match="config.reconstruct.freeze_backbone was False and is now True"):
        train(changed, workdir, jax.devices()[:1])


def complaint(config):
    with pytest.raises(UserError) as caught:
        validate(config)
    return str(caught.value)


def test_wrong_settings_are_one_line():
    def changed(**settings):
        config = nano_reconstruction()
        config.update(settings)
        return complaint(config)

    assert "config.task: 'reconstrct' is not a valid value; did you mean 'reconstruct'?" in changed(
        task="reconstrct"
    )
    assert "config.reconstruct.reuse_decoder needs weights to start from" in changed(
        reconstruct={"reuse_decoder": True}
    )
    assert "config.batch.reuse=2 repeats batches" in changed(batch={"reuse": 2})
    assert "config.reconstruct.decoder_depth=-1 must be at least 0" in changed(
        reconstruct={"decoder_depth": -1}
    )
    assert "config.reconstruct: the point head reads 4 blocks, but there are 2 backbone blocks" in changed(
        reconstruct={"decoder_depth": 0}
    )
    assert "config.job='benchmark_data' measures only pre-training: pass --config.task=" in changed(
        job="benchmark_data"
    )


@pytest.mark.parametrize("job", ["train", "benchmark", "plan"])
def test_recordings_can_be_trained_on_and_planned_for(job):
    config = nano_reconstruction()
    config.sources.p = recordings("cameras", "/data/recordings")
    config.job = job
    validate(config)
    config.job = "evaluate"
    assert "config.sources.p has recordings" in complaint(config)


def test_wrong_sources_are_one_line(tmp_path):
    def with_source(source, task="reconstruct"):
        config = nano_reconstruction()
        config.task = task
        config.sources.p = source
        return complaint(config)

    assert "config.sources.p has no depth and cameras" in with_source(folder("x"))
    assert "config.sources.p.root is empty: pass --config.sources.p.root=" in with_source(
        recordings("cameras")
    )
    assert "config.sources.p has recordings, which only config.task='reconstruct' trains" in with_source(
        recordings("cameras", "x"), "pretrain"
    )
    assert "config.sources.p.window=0 must be at least 1" in with_source(recordings("tum", "x", window=0))
    with pytest.raises(UserError, match="'scanet' is not a valid value; did you mean 'scannet'"):
        recordings("scanet")
    with pytest.raises(UserError, match="select is a setting of config.posed only"):
        recordings("cameras", select="overlap")
    config = nano_reconstruction()
    config.sources = {"p": recordings("cameras", str(tmp_path / "none"))}
    with pytest.raises(UserError, match=r"^config.sources.p.root: folder .*none' does not exist"):
        train(config, tmp_path / "run", jax.devices()[:1])


def test_weights_of_another_network_are_refused(backbone_file, tmp_path):
    config = nano_reconstruction()
    config.model.variant = "tiny"
    config.reconstruct.backbone = str(backbone_file)
    with pytest.raises(UserError, match="has width 48, config.model has 192: pass --config.model.var"):
        train(config, tmp_path, jax.devices()[:1])
    assert shareable_config(config.to_dict())["reconstruct"]["backbone"] == "nano.safetensors"
    config.reconstruct.backbone = str(tmp_path / "nothing-{seed}.safetensors")
    with pytest.raises(UserError, match=f"nothing-{config.seed}.safetensors' does not exist: choose"):
        train(config, tmp_path, jax.devices()[:1])
    with pytest.raises(UserError, match="reads weights itself: train with --config.reconstruct.backbone="):
        make_workdir(tmp_path / "made", open_weights(backbone_file), nano_reconstruction(), force=False)


@pytest.mark.slow
def test_each_world_of_a_mixture_renders_its_own_geometry(tmp_path):
    """Depth, cameras and images of a group belong together, whichever world it is from."""
    from muskie_jax.buckets import Bucket
    from muskie_jax.data.mixture import build_mixture, training_sampler
    from muskie_jax.rendering import BatchPlacer
    from muskie_jax.sharding import make_mesh

    config = nano_reconstruction()
    config.sources = {"near": synthetic(), "wide": synthetic(field_of_view=(90.0, 100.0))}
    mixture = build_mixture(config)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    placer = BatchPlacer(4, mixture.worlds, {}, mesh, geometry=True)
    loads = [training_sampler(config, mixture).synthetic_load(n, 0, range(4)) for n in range(4)]
    load = next(load for load in loads if {*load.source.tolist()} == {0, 1})
    batch = placer(Bucket(32, 32, 1), load.batch(0, Bucket(32, 32, 1)))
    assert {key: value.shape for key, value in batch.items()} == {
        "images": (8, 1, 32, 32, 3), "depth": (8, 1, 32, 32), "intrinsics": (8, 1, 3, 3),
        "world_to_camera": (8, 1, 4, 4), "source": (8,),
    }  # fmt: skip
    focal, source = np.asarray(batch["intrinsics"])[:, 0, 0, 0], np.asarray(batch["source"])
    assert (focal[source == 1] < 0.75 * 32).all() and (focal[source == 0] > 0.5 * 32).all()
    assert focal[source == 1].max() < focal[source == 0].min()
    assert (np.asarray(batch["depth"]) > 0).all()
