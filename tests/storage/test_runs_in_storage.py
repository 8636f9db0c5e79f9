"""Whole runs whose work directory is in object storage: killed, refused, slowed down and continued."""

import json
import threading

import pytest

from muskie_jax.checkpoints.saved_steps import saved_steps
from muskie_jax.interop.load import load_pretrained, open_weights
from muskie_jax.processes.workdir_lock import WorkdirLock
from muskie_tests.attacked import STOPPED, Run
from muskie_tests.object_storage import CUT

pytestmark = [pytest.mark.extras, pytest.mark.slow]
STEPS = 40
FLAGS = ["--config.checkpoint.every=10"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The digest of the same run on a disk, without faults."""
    return Run(tmp_path_factory.mktemp("undisturbed"), STEPS, flags=FLAGS).end()["params_digest"]


def killed_at(store, workdir, text):
    """Starts a run, and kills it when it writes an object whose name has a text; it is not written."""
    reached = threading.Event()

    def fault(method, path):
        if method in ("PUT", "POST") and text in path:
            reached.set()
            return CUT
        return None

    store.fault = fault
    run = Run(workdir, STEPS, flags=FLAGS)
    try:
        assert reached.wait(180), run.log
    finally:
        run.kill()  # with SIGKILL
        store.fault = lambda method, path: None
    return run.log


def test_a_run_killed_during_saves_ends_like_an_undisturbed_one(store, workdir, undisturbed):
    killed_at(store, workdir, "checkpoints/20/state/")
    assert saved_steps(workdir) == [10]
    log = killed_at(store, workdir, "checkpoints/30/commit_success.txt")
    assert "Continuing from step 10 in" in log
    assert saved_steps(workdir) == [10, 20]
    run = Run(workdir, STEPS, flags=FLAGS)
    result = run.end()
    assert f"Continuing from step 20 in {workdir}" in run.log
    assert result["params_digest"] == undisturbed and result["workdir"] == str(workdir)
    assert saved_steps(workdir) == [20, 30, 40]
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, STEPS + 1))
    assert not [path for path in workdir.iterdir() if "lock" in path.name]


def test_a_second_job_is_refused_and_slow_answers_lose_nothing(store, workdir):
    lock = WorkdirLock(workdir / "train.lock")
    refused = Run(workdir, STEPS)
    refused.end(2)
    assert f"error: {workdir} is in use by process " in refused.log
    lock.release()
    store.fault = lambda method, path: 0.2
    run = Run(workdir, 100_000, flags=FLAGS).wait_for("step 13/").signal("SIGTERM")
    result = run.end(STOPPED)
    assert result["stopped"] == "SIGTERM" and saved_steps(workdir)[-1] == result["step"]


def test_two_processes_write_one_checkpoint(workdir):
    flags = ["--config.mesh.data=1", "--config.mesh.fsdp=-1", "--config.checkpoint.export"]  # so both write
    result = Run(workdir, 4, processes=2, flags=flags).end()
    assert saved_steps(workdir) == [4]
    assert result["weights"] == f"{workdir}/best.safetensors"
    for weights in (str(workdir), result["weights"]):
        assert open_weights(weights).params_digest == result["params_digest"]
    assert load_pretrained(f"{workdir}/4")[0].width == 48
