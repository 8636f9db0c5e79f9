"""Complete training runs: the same curve on any mesh, and bit-identical results after a killed run."""

import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import python_path
from muskie_jax.buckets import Bucket
from muskie_jax.checkpoints.saved_steps import best_step, saved_steps
from muskie_jax.config import synthetic
from muskie_jax.errors import NotFinite, UserError
from muskie_jax.evaluators.reconstruction import ReconstructionEvaluator
from muskie_jax.interop.load import open_weights
from muskie_jax.masking import MaskOptions
from muskie_jax.models.muskie import build_model
from muskie_jax.optim import make_optimizer
from muskie_jax.perf.benchmark import random_batch
from muskie_jax.processes.workdir_lock import exclusive
from muskie_jax.programs import Programs, batch_shapes
from muskie_jax.sharding import make_mesh
from muskie_jax.sweeps import is_complete
from muskie_jax.train import train
from muskie_jax.train_step import init_state, make_task, single_batch_update
from muskie_tests.fake_wandb import FakeWandb
from muskie_tests.runs import nano_config

HERE = pathlib.Path(__file__).parent


def curve(workdir):
    """Returns every training row of metrics.jsonl, without speeds."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    timed = ("per_second", "per_step", "data_wait", "goodput")
    clean = [{k: v for k, v in row.items() if not k.endswith(timed)} for row in rows]
    return [row for row in clean if "train/loss" in row]


def evaluations(workdir):
    """Returns the error on held-out scenes by step."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["evaluation/mse"] for row in rows if "evaluation/mse" in row}


def record(root, workdir, workers, devices, die_after=None):
    """Runs tests/muskie_tests/run_and_record.py; returns its final figures; None if it was killed."""
    command = [sys.executable, HERE / "muskie_tests/run_and_record.py", root, workdir, workers, devices]
    command += [die_after] if die_after else []
    environment = os.environ | {"PYTHONPATH": python_path(HERE.parent, HERE)}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment, timeout=300
    )
    if die_after:
        assert done.returncode == -9, done.stderr
        return None
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def drawn_batches(workdir):
    """Returns pairs [step, digest of its batches], in the order of training."""
    return [line.split() for line in (workdir / "drawn.txt").read_text().splitlines()]


def one_bucket_config(root):
    """A run that compiles one program per update, for tests that need no others."""
    config = nano_config(root)
    config.buckets.update({"resolutions": (((32, 32),),), "views": (4,)})
    config.evaluation.pictures = 0
    return config


@pytest.mark.slow
@pytest.mark.parametrize("workers, devices", [(0, 1), (2, 8)])
def test_a_killed_run_resumes_bit_for_bit(photo_folder, tmp_path, workers, devices):
    reference, killed = tmp_path / "reference", tmp_path / "killed"
    final = record(photo_folder, reference, 0, devices)
    record(photo_folder, killed, workers, devices, die_after=13)
    assert saved_steps(killed) == [10]
    assert len(curve(killed)) >= 11  # the results of steps 11 to 13 are lost and computed again
    resumed = record(photo_folder, killed, workers, devices)
    assert resumed["params_digest"] == final["params_digest"]
    assert curve(killed) == curve(reference)
    assert [row["step"] for row in curve(reference)] == list(range(1, 21))
    assert len(drawn_batches(killed)) == 13 + 10
    assert dict(drawn_batches(killed)) == dict(drawn_batches(reference))
    assert (resumed["mse"], resumed["loss"]) == (final["mse"], final["loss"])


def test_evaluation_before_the_first_update(photo_folder, tmp_path):
    config = one_bucket_config(photo_folder)
    config.duration, config.optim.warmup = "1 steps", "0 steps"

    config.evaluation.first = True
    train(config, tmp_path / "first", jax.devices()[:1])
    found = evaluations(tmp_path / "first")
    assert list(found) == [0, 1]
    config.duration = "0 steps"
    train(config, tmp_path / "only", jax.devices()[:1])
    assert evaluations(tmp_path / "only") == {0: found[0]}


def test_a_run_that_was_stopped_where_it_evaluates_does_so_when_it_continues(photo_folder, tmp_path):
    config, devices = one_bucket_config(photo_folder), jax.devices()[:1]
    config.duration, config.optim.warmup, config.checkpoint.every = "3 steps", "0 steps", 2
    config.evaluation.every = 2
    train(config, tmp_path, devices)
    found = evaluations(tmp_path)
    assert list(found) == [2, 3]
    # What a stop after update 2 leaves: its checkpoint, and no evaluation.
    shutil.rmtree(tmp_path / "checkpoints/3")
    (tmp_path / "newest_checkpoint.json").unlink()
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(row for row in rows if "evaluation/mse" not in row))
    train(config, tmp_path, devices)
    assert evaluations(tmp_path) == found
    shutil.rmtree(tmp_path / "checkpoints/3")
    train(config, tmp_path, devices)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text.count("evaluation/mse") == 2, "a step that was evaluated is not evaluated again"


def test_larger_images_late_are_compiled_at_the_start_and_resumed(photo_folder, tmp_path, capsys):
    config, devices = one_bucket_config(photo_folder), jax.devices()[:1]
    config.buckets.update(late=(((32, 64),),), late_fraction=0.5)
    config.duration, config.optim.warmup, config.checkpoint.every = "4 steps", "0 steps", 3
    train(config, tmp_path / "whole", devices)
    log = capsys.readouterr().err
    assert log.index("32x64, 4 views: ") < log.index("Compiled in"), log
    stopped = tmp_path / "stopped"
    shutil.copytree(tmp_path / "whole", stopped)
    shutil.rmtree(stopped / "checkpoints/4")
    train(config, stopped, devices)
    assert "Continuing from step 3" in capsys.readouterr().err
    assert curve(stopped) == curve(tmp_path / "whole")


@pytest.mark.slow
def test_bfloat16_learns_like_float32(photo_folder):
    config = nano_config(photo_folder)
    mesh, bucket = make_mesh(config.mesh, jax.devices()[:1]), Bucket(32, 32, 4)
    losses = {}
    for dtype in ("float32", "bfloat16"):
        config.model.dtype = dtype
        task, optimizer = make_task(config, mesh, 1), make_optimizer(config)
        batch = random_batch(
            batch_shapes(bucket, 8, 4, task.model.patch, mesh), (2, 2), MaskOptions.of(config.mask)
        )
        step = jax.jit(functools.partial(single_batch_update, task=task, optimizer=optimizer))
        state, losses[dtype] = init_state(task.model, optimizer, 0, mesh), []
        for _ in range(20):
            state, measured = step(state, batch)
            losses[dtype].append(float(measured["loss"].compute()))
    assert losses["float32"][-1] < 0.8 * losses["float32"][0]
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=1e-3)
    assert losses["bfloat16"] != losses["float32"]


def test_a_finished_run_only_reports_and_a_longer_duration_continues_it(photo_folder, tmp_path, capsys):
    config, devices = one_bucket_config(photo_folder), jax.devices()[:1]
    config.duration = "3 steps"
    config.optim.warmup = "0 steps"
    first = train(config, tmp_path, devices)
    assert "initial state: " in capsys.readouterr().err  # compiled with the other programs
    again = train(config, tmp_path, devices)
    assert {k: again[k] for k in ("step", "mse", "params_digest")} == {
        k: first[k] for k in ("step", "mse", "params_digest")
    }
    config.duration = "5 steps"
    longer = train(config, tmp_path, devices)
    assert longer["step"] == 5 and longer["params_digest"] != first["params_digest"]
    log = capsys.readouterr().err
    assert "config.duration was '3 steps' and is now '5 steps'" in log
    assert "Compiling" in log and "initial state: " not in log
    config.duration = "4 steps"
    with pytest.raises(UserError, match="is at step 5, beyond config.duration='4 steps'"):
        train(config, tmp_path, devices)
    config.duration = "9 steps"
    config.model.variant = "tiny"
    with pytest.raises(
        UserError, match=r"does not match the config: .* is float32 .* in the checkpoint and"
    ):
        train(config, tmp_path, devices)


def test_another_job_in_the_work_directory_is_refused_before_anything_is_done(photo_folder, tmp_path):
    config = one_bucket_config(photo_folder)
    with exclusive(tmp_path / "train.lock"), pytest.raises(UserError, match="is in use by process "):
        train(config, tmp_path, jax.devices()[:1])
    assert list(tmp_path.iterdir()) == []


MESHES = {
    1: {"data": 1, "fsdp": 1, "view": 1},
    2: {"data": 2, "fsdp": 1, "view": 1},
    4: {"data": 1, "fsdp": 4, "view": 1},
    8: {"data": 2, "fsdp": 2, "view": 2},
}


def ten_steps(root, workdir, devices, **source):
    config = nano_config(root, **source)
    config.duration = "10 steps"
    config.buckets.update({"resolutions": (((32, 48),),), "views": (4,)})
    config.mesh.update(MESHES[devices])
    result = train(config, workdir, jax.devices()[:devices])
    losses = [[row["train/loss"], row["train/mse"], row["train/grad_norm"]] for row in curve(workdir)]
    return np.array(losses), result


@pytest.mark.slow
def test_every_mesh_gives_the_same_curve(photo_folder, tmp_path):
    expected, alone = ten_steps(photo_folder, tmp_path / "1", 1)
    assert expected.shape == (10, 3) and expected[-1, 0] < expected[0, 0]
    for devices in (2, 4, 8):
        losses, result = ten_steps(photo_folder, tmp_path / str(devices), devices)
        np.testing.assert_allclose(losses, expected, atol=1e-5, rtol=1e-5, err_msg=f"{devices} devices")
        assert result["mse"] == pytest.approx(alone["mse"], abs=1e-5)


@pytest.mark.slow
def test_synthetic_scenes_give_the_same_curve_on_one_and_four_devices(tmp_path):
    losses = []
    for devices in (1, 4):
        config = nano_config("unused")
        config.sources = {"rooms": synthetic()}
        config.buckets.update({"resolutions": (((32, 32),),), "views": (2,)})
        config.batch.views = 2
        config.evaluation.update({"views": 2, "pictures": 0})
        config.duration = "4 steps"
        config.mesh.update(MESHES[devices])
        train(config, tmp_path / str(devices), jax.devices()[:devices])
        losses.append([row["train/loss"] for row in curve(tmp_path / str(devices))])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)  # single pixels may round differently


def test_fsdp_shards_parameters_and_moments(photo_folder, tmp_path):
    mesh = make_mesh({"data": 2, "fsdp": 4, "view": 1})
    state = init_state(build_model("nano"), make_optimizer(nano_config(photo_folder)), 0, mesh)
    local = sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(state))
    total = sum(leaf.size for leaf in jax.tree.leaves(state))
    assert local < 0.3 * total
    one = init_state(
        build_model("nano"), make_optimizer(nano_config(photo_folder)), 0,
        make_mesh({"data": 1, "fsdp": 1, "view": 1}, jax.devices()[:1]),
    )  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(one))


def test_a_ruined_state_ends_the_run_and_pushes_no_checkpoint_out(photo_folder, tmp_path, capfd):
    config = one_bucket_config(photo_folder)
    config.optim.learning_rate = 1e30  # from step 2 on: step 1 is warm-up at rate 0
    config.optim.max_skipped = 1
    config.checkpoint.every = 1
    error = (
        r"bad gradients in 2 updates in a row, 3 to 4 \(the last: 32x32, 4 views of photos\): lower config"
    )
    with pytest.raises(NotFinite, match=error):
        train(config, tmp_path, jax.devices()[:1])
    assert saved_steps(tmp_path) == [1, 2]
    assert "step 3 is not saved, because its update was skipped" in capfd.readouterr().err


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_last_evaluation_that_is_not_finite_is_an_error_after_everything_is_saved(
    photo_folder, tmp_path, capfd
):
    """The last update ruins the network, with a finite loss before it."""
    config = one_bucket_config(photo_folder)
    config.optim.learning_rate, config.optim.warmup, config.duration = 1e30, "0 steps", "1 steps"
    config.evaluation.pictures = 1
    with pytest.raises(NotFinite, match="the evaluation of the last step, 1, is not finite: lower config"):
        train(config, tmp_path, jax.devices()[:1])
    assert saved_steps(tmp_path) == [1] and (tmp_path / "pictures/reconstruction_0000001.png").is_file()
    printed = capfd.readouterr()
    assert "step 1  evaluation: not finite" in printed.err and "Trained" not in printed.out
    *_, last = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert "goodput/steps" in last
    assert not is_complete(config, tmp_path)


def test_skipped_spikes_are_counted_and_resumed(photo_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("muskie_jax.optim.SPIKE_WINDOW", 3)
    config = one_bucket_config(photo_folder)
    config.optim.update(spike_factor=1.02, learning_rate=0.05, warmup="0 steps")
    whole = train(config, tmp_path / "whole", jax.devices()[:1])
    skipped = [row["train/skipped"] for row in curve(tmp_path / "whole")]
    assert sum(skipped) >= 2 and {0, 1} == set(skipped) and skipped[:3] == [0, 0, 0]
    monkeypatch.setattr("muskie_jax.processes.interrupt.StopSignal.requested", lambda self, step: step == 9)
    train(config, tmp_path / "parts", jax.devices()[:1])
    monkeypatch.undo()
    monkeypatch.setattr("muskie_jax.optim.SPIKE_WINDOW", 3)
    resumed = train(config, tmp_path / "parts", jax.devices()[:1])
    assert resumed["params_digest"] == whole["params_digest"]


def test_the_checkpoint_before_a_spike_outlives_newer_ones(photo_folder, tmp_path, monkeypatch):
    """Updates 5 and 6 are spikes beside the small norms that the state is given."""
    monkeypatch.setattr("muskie_jax.optim.SPIKE_WINDOW", 3)
    config = one_bucket_config(photo_folder)
    config.optim.update(spike_factor=4.0, learning_rate=1e-5, warmup="0 steps")
    config.checkpoint.update(every=1, keep=2)
    update = Programs.update

    def with_spike(self, state, batches):
        if int(jax.device_get(state.step)) == 4:
            with jax.transfer_guard("allow"):
                norms = jnp.full_like(state.opt_state.norms, 1e-3)
                state = state.replace(opt_state=state.opt_state._replace(norms=norms))
        return update(self, state, batches)

    monkeypatch.setattr(Programs, "update", with_spike)
    config.duration = "9 steps"
    train(config, tmp_path, jax.devices()[:1])
    assert [row["step"] for row in curve(tmp_path) if row["train/skipped"]] == [5, 6]
    assert [row["train/spike"] for row in curve(tmp_path) if "train/spike" in row] == [5, 5]
    assert saved_steps(tmp_path) == [4, 8, 9]
    config.duration = "12 steps"
    (tmp_path / "metrics.jsonl").unlink()  # a killed run may not have written it
    train(config, tmp_path, jax.devices()[:1])
    assert saved_steps(tmp_path) == [4, 11, 12], "a new start remembers the spike"


def test_the_best_checkpoint_is_kept_and_evaluations_save(photo_folder, tmp_path, monkeypatch):
    config = one_bucket_config(photo_folder)
    config.duration, config.evaluation.every = "8 steps", 2
    config.checkpoint.update({"every": 0, "keep": 1, "keep_best": 1})
    errors = iter([0.9, 0.3, 0.5, 0.4])  # after steps 2, 4, 6 and at the end
    run = ReconstructionEvaluator.run
    with_error = lambda self, params: dict(run(self, params)) | {"mse": next(errors)}
    monkeypatch.setattr(ReconstructionEvaluator, "run", with_error)
    config.checkpoint.export = True
    result = train(config, tmp_path, jax.devices()[:1])
    assert saved_steps(tmp_path) == [4, 8]
    assert best_step(tmp_path) == 4
    exported, kept = (open_weights(weights) for weights in (result["weights"], tmp_path / "checkpoints/4"))
    assert exported.provenance["step"] == 4
    assert exported.params_digest == kept.params_digest != result["params_digest"]


def test_after_a_change_of_the_evaluation_the_best_is_a_later_checkpoint(
    photo_folder, tmp_path, monkeypatch, capfd
):
    config = one_bucket_config(photo_folder)
    config.duration, config.evaluation.every = "4 steps", 2
    config.checkpoint.update({"every": 0, "keep": 1, "keep_best": 1, "export": True})
    errors = iter([0.1, 0.2, 0.9, 0.7, 0.8, 0.8])  # of steps 2 and 4, then of 4, 6 and 8, and of 8 again
    run = ReconstructionEvaluator.run
    with_error = lambda self, params: dict(run(self, params)) | {"mse": next(errors)}
    monkeypatch.setattr(ReconstructionEvaluator, "run", with_error)
    train(config, tmp_path, jax.devices()[:1])
    assert best_step(tmp_path) == 2
    config.duration, config.evaluation.groups = "8 steps", config.evaluation.groups // 2
    result = train(config, tmp_path, jax.devices()[:1])
    assert "held-out images or their evaluation have changed" in capfd.readouterr().err
    assert saved_steps(tmp_path) == [2, 6, 8] and best_step(tmp_path) == 6
    assert open_weights(result["weights"]).provenance["step"] == 6
    train(config, tmp_path, jax.devices()[:1])
    assert "have changed" not in capfd.readouterr().err


def test_checkpoints_are_saved_by_minutes(photo_folder, tmp_path):
    config = one_bucket_config(photo_folder)
    config.duration = "4 steps"
    config.checkpoint.update({"every": 0, "minutes": 1e-9, "keep": 9})
    train(config, tmp_path / "often", jax.devices()[:1])
    assert saved_steps(tmp_path / "often") == [1, 2, 3, 4]
    config.checkpoint.minutes = 60.0
    train(config, tmp_path / "once", jax.devices()[:1])
    assert saved_steps(tmp_path / "once") == [4]


def test_an_implicit_transfer_in_the_loop_is_an_error(photo_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("muskie_jax.progress.Progress.count", lambda self, update: jnp.asarray(np.ones(3)))
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        train(one_bucket_config(photo_folder), tmp_path, jax.devices()[:1])


def test_out_of_memory_during_an_update_is_one_line(photo_folder, tmp_path, monkeypatch):
    """Dispatch is asynchronous, so the error appears when the host reads a result."""

    def read(self):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore lines")

    monkeypatch.setattr("muskie_jax.metrics.MetricsQueue._read", read)
    message = "this batch, .* does not fit .* lower config.batch.groups, .*: Out of memory\\)$"
    with pytest.raises(UserError, match=message):
        train(one_bucket_config(photo_folder), tmp_path, jax.devices()[:1])


def test_outputs_of_a_run(photo_folder, tmp_path, capsys, monkeypatch):
    config = nano_config(photo_folder)
    config.duration = "4 steps"
    config.evaluation.every = 2
    config.log.tensorboard, config.log.wandb = True, "views"
    monkeypatch.setitem(sys.modules, "wandb", wandb := FakeWandb())
    config.profile.steps = (2, 3)
    result = train(config, tmp_path)
    assert {"step", "loss", "mse", "baseline_mse", "views_per_second", "params_digest"} <= result.keys()
    assert result["held_out"] is True and result["views_per_second"] > 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    evaluations = [row["step"] for row in rows if "evaluation/mse" in row]
    assert evaluations == [2, 4]
    assert any("train/error/photos" in row for row in rows)
    assert [p.name for p in sorted((tmp_path / "pictures").iterdir())] == [
        "reconstruction_0000002.png", "reconstruction_0000004.png",
    ]  # fmt: skip
    assert list((tmp_path / "tensorboard").iterdir())
    sent = [row["step"] for row in wandb.runs[0].rows if "reconstruction" in row]
    assert sent == [2, 4] and wandb.runs[0].finished
    assert {"step", "train/loss", "train/learning_rate"} <= wandb.runs[0].rows[0].keys()
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    log = capsys.readouterr().err
    for expected in (
        "Parameters: 225,600",
        "Compiled in",
        "fingerprints of checkpoints: ",
        "Traced updates 2 to 3",
        "step 4/4  loss",
        "views/s",
        "data wait",
        "left",
    ):
        assert expected in log, expected
