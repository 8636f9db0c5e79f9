"""The processes of a run share one work directory and one config, or do not start."""

import time

import pytest

from muskie_jax.processes import same_run
from muskie_tests.attacked import Run
from muskie_tests.commands import free_port

QUICKLY = """
from muskie_jax.main import main
from muskie_jax.processes import same_run
same_run.LOOKS = 2
main()
"""


def test_a_file_that_a_network_file_system_shows_late_appears(tmp_path, monkeypatch):
    file = tmp_path / "late"
    monkeypatch.setattr(same_run.time, "sleep", lambda seconds: file.touch())
    assert same_run._appears(file)


@pytest.mark.slow
def test_processes_with_a_folder_of_their_own_each_do_not_start(tmp_path):
    port = free_port()
    runs = [
        Run(tmp_path / name, 6, 2, port=port, only=process, program=("-c", QUICKLY))
        for process, name in enumerate("ab")
    ]
    for run in runs:
        assert run.codes() == [2], run.log
        expected = f"error: {tmp_path}/b of process 1 is not the folder {tmp_path}/a of process 0: pass a"
        assert expected in run.log
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".shared")]


@pytest.mark.slow
def test_processes_with_different_settings_do_not_start(tmp_path):
    port = free_port()
    own = [["--config.data.threads=2"], ["--config.data.threads=3", "--config.checkpoint.every=70"]]
    runs = [
        Run(tmp_path, 6, 2, ["--config.checkpoint.every=50", *more], port=port, only=process)
        for process, more in enumerate(own)
    ]
    for run in runs:
        assert run.codes() == [2], run.log
        assert "error: config.checkpoint.every is 50 in process 0 and 70 in process 1: start all" in run.log
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_refusal_of_one_process_ends_the_other_soon(tmp_path):
    """With an error that the other, which waits for it, cannot have."""
    port, began = free_port(), time.monotonic()
    runs = [Run(tmp_path, 6, 2, port=port, only=process, program=("-c", REFUSING)) for process in range(2)]
    codes = [run.codes() for run in runs]
    assert codes == [[2], [2]] and time.monotonic() - began < 60
    assert "error: the folder is not writable" in runs[1].log
    assert "error: another process failed: process 1: the folder is not writable" in runs[0].log
    assert "Traceback" not in runs[0].log and len(runs[0].log.splitlines()) < 20


REFUSING = """
import sys
from muskie_jax import train
from muskie_jax.errors import UserError
from muskie_jax.main import main

def check_disk(*_):
    if "--process_id=1" in sys.argv:
        raise UserError("the folder is not writable")

train.check_disk = check_disk
main()
"""
