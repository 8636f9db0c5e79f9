"""The processes of a run share one work directory, or do not start."""

import pytest

from muskie_jax.processes import shared_folder
from muskie_tests.attacked import Run
from muskie_tests.commands import free_port

QUICKLY = """
from muskie_jax.main import main
from muskie_jax.processes import shared_folder
shared_folder.LOOKS = 2
main()
"""


def test_a_file_that_a_network_file_system_shows_late_appears(tmp_path, monkeypatch):
    file = tmp_path / "late"
    monkeypatch.setattr(shared_folder.time, "sleep", lambda seconds: file.touch())
    assert shared_folder._appears(file)


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
