"""Whole processes whose save fails: one line, an exit status, and no process that stays."""

import os
import pathlib
import re
import subprocess
import sys
import time

import pytest

from conftest import python_path, xla_flags
from muskie_jax.checkpoints.saved_steps import saved_steps
from muskie_jax.errors import MACHINE_ERROR, USAGE_ERROR
from muskie_tests.commands import free_port, run_module
from muskie_tests.failing_save import FIRST
from muskie_tests.runs import NANO_FLAGS

pytestmark = pytest.mark.slow(minutes=2)

HERE = pathlib.Path(__file__).parent
SETTINGS = [
    "--config=configs/photos.py",
    *NANO_FLAGS,
    f"--config.checkpoint.every={FIRST}",  # few updates: those of two processes take half a second
    "--config.duration=100_000 steps",
    "--config.data.workers=0",
]
LIMIT = 60  # seconds from the fault to the end of each process


def start(fault, photos, workdir, devices, *flags):
    environment = {"XLA_FLAGS": xla_flags(devices), "PYTHONPATH": python_path(HERE.parent, HERE)}
    command = [sys.executable, HERE / "muskie_tests/failing_save.py", fault, workdir]
    return subprocess.Popen(
        [*map(str, command), *SETTINGS, f"--config.sources.photos.root={photos}", *flags],
        cwd=HERE.parent, env=os.environ | environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ends(workdir, *processes):
    """Returns the error lines of each process, all of which must end soon after the fault."""
    try:
        deadline = time.monotonic() + 200
        while not workdir.with_suffix(".fault").exists() and time.monotonic() < deadline:
            assert all(process.poll() is None for process in processes), processes[0].communicate()
            time.sleep(0.05)
        logs = [process.communicate(timeout=LIMIT)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, log in zip(processes, logs):
        assert process.returncode == MACHINE_ERROR and "Traceback" not in log, log
    return [[line for line in log.splitlines() if line.startswith("error:")] for log in logs]


@pytest.mark.parametrize(
    "fault, reason",
    [
        ("folder", "could not be saved in .*No space left on device.* the newest checkpoint is 6: "),
        ("write", "File too large"),
        ("workdir", "No such file or directory"),
    ],
    ids=["folder", "write", "workdir"],
)
def test_a_failed_save_ends_the_process_with_one_line(fault, reason, photo_folder, tmp_path):
    workdir = tmp_path / "run"
    ((error,),) = ends(workdir, start(fault, photo_folder, workdir, 1))
    assert re.search(reason, error), error
    details = pathlib.Path(error.rpartition("details: ")[2])
    assert "Traceback" in details.read_text()
    if fault != "workdir":
        assert saved_steps(workdir) == [FIRST]


@pytest.mark.parametrize("fault, victim", [("folder", 0), ("write", 1), ("write twice", 0)])
def test_a_failed_save_of_one_process_ends_the_other(fault, victim, photo_folder, tmp_path):
    workdir = tmp_path / "run"
    common = ["--distributed", f"--coordinator=localhost:{free_port()}", "--num_processes=2"]
    common += ["--config.mesh.data=1", "--config.mesh.fsdp=-1"]  # so that both write
    processes = [
        start(fault if i == victim else "none", photo_folder, workdir, 2, *common, f"--process_id={i}")
        for i in (0, 1)
    ]
    errors = ends(workdir, *processes)
    assert "could not be saved" in errors[victim][0] and len(errors[victim]) == 1
    assert errors[1 - victim][0].startswith(f"error: another process failed: process {victim}: ")
    assert saved_steps(workdir) == [FIRST]


@pytest.mark.parametrize("damage", ["missing", "half"])
def test_damaged_checkpoints_are_one_line(damage, photo_folder, tmp_path):
    root = f"--config.sources.photos.root={photo_folder}"
    command = ["muskie_jax.main", "--workdir", tmp_path, *SETTINGS, root]
    command += ["--config.checkpoint.every=2", "--config.duration=4 steps"]
    assert run_module(*command).returncode == 0
    saved = tmp_path / "checkpoints"
    files = [path for path in saved.rglob("*") if path.is_file() and "/d/" in str(path)]
    assert {path.relative_to(saved).parts[0] for path in files} == {"2", "4"}
    for path in files:
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = run_module(*command)
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    reason = "a file is missing" if damage == "missing" else "a file is too short"
    assert "none of the checkpoints in" in error and reason in error
    assert done.returncode == USAGE_ERROR and len(done.stderr.splitlines()) < 20, done.stderr
    assert saved_steps(tmp_path) == [2, 4]
