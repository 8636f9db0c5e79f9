"""Two processes of two devices each train like one device, and stop together."""

import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from conftest import write_scene, xla_flags
from muskie_jax.checkpoints.saved_steps import saved_steps
from muskie_tests.commands import free_port
from muskie_tests.runs import NANO_FLAGS

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent
PER_PROCESS = 2
SETTINGS = [*NANO_FLAGS, "--config.checkpoint.every=3"]


def launch(photos, workdir, steps, devices, *flags):
    environment = os.environ | {"XLA_FLAGS": xla_flags(devices)}
    command = [
        sys.executable, "-m", "muskie_jax.main", "--config", "configs/photos.py", "--workdir", str(workdir),
        f"--config.sources.photos.root={photos}", f"--config.duration={steps} steps",
        *SETTINGS, *flags,
    ]  # fmt: skip
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(*processes, code=0):
    """Returns the final figures of the first process; every process must exit with `code`."""
    outputs = [process.communicate(timeout=240) for process in processes]
    for process, (_, err) in zip(processes, outputs):
        assert process.returncode == code, err
    assert not any('"job"' in out for out, _ in outputs[1:]), "only the first process reports"
    return json.loads(outputs[0][0].splitlines()[-1])


def launch_two(photos, workdir, steps, *flags):
    flags = [*flags, "--distributed", f"--coordinator=localhost:{free_port()}", "--num_processes=2"]
    return [launch(photos, workdir, steps, PER_PROCESS, *flags, f"--process_id={i}") for i in (0, 1)]


def together(photos, workdir, steps):
    return finish(*launch_two(photos, workdir, steps))


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row]


def wait_for_losses(workdir, count, processes):
    deadline = time.time() + 200
    while not (workdir / "metrics.jsonl").exists() or len(losses(workdir)) < count:
        assert time.time() < deadline and processes[0].poll() is None, processes[0].communicate()
        time.sleep(0.1)


def test_two_processes_train_and_resume_like_one_device(photo_folder, tmp_path):
    alone = finish(launch(photo_folder, tmp_path / "one", 6, 1))
    result = together(photo_folder, tmp_path / "two", 6)
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)
    assert len(losses(tmp_path / "one")) == 6
    assert result["mse"] == pytest.approx(alone["mse"], rel=1e-5)
    restored = together(photo_folder, tmp_path / "two", 6)
    assert restored["params_digest"] == result["params_digest"] and restored["mse"] == result["mse"]


def test_two_processes_save_together_by_minutes(photo_folder, tmp_path):
    flags = ["--config.checkpoint.minutes=1e-6", "--config.checkpoint.every=0", "--config.log.every=2"]
    finish(*launch_two(photo_folder, tmp_path, 7, *flags))
    assert saved_steps(tmp_path) == [4, 6, 7]  # the newest three: multiples of log.every, and the last


def test_sigterm_to_one_process_makes_both_save_and_stop(photo_folder, tmp_path):
    flags = ["--config.checkpoint.every=50_000", "--stopped_exit_code=75"]
    processes = launch_two(photo_folder, tmp_path, 100_000, *flags)
    try:
        wait_for_losses(tmp_path, 2, processes)
        processes[1].terminate()
        result = finish(*processes, code=75)
    finally:
        for process in processes:
            process.kill()
    saved = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert result["stopped"] and saved == [str(result["step"])]


def test_too_many_unreadable_images_make_both_processes_save_and_stop(tmp_path):
    for number in range(4):
        write_scene(tmp_path / "photos" / f"scene{number}", 8, number)
    flags = ["--config.checkpoint.every=50_000", "--config.data.workers=0"]
    processes = launch_two(tmp_path / "photos", tmp_path / "run", 100_000, *flags)
    try:
        wait_for_losses(tmp_path / "run", 2, processes)
        for path in (tmp_path / "photos").rglob("frame_[123].jpg"):
            path.write_bytes(b"")
        outputs = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [2, 2], "launchers must not start it again"
    errors = [err.splitlines()[-1] for _, err in outputs]
    assert any("images drawn were unreadable, such as" in error for error in errors), errors
    assert all("unreadable" in error for error in errors), errors
    (saved,) = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert int(saved) == len(losses(tmp_path / "run"))
