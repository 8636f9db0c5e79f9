"""Files of TensorBoard that cannot be written end nothing."""

import threading
import time

import numpy as np
import pytest
from tensorboardX.record_writer import RecordWriter

from muskie_jax.config import default_config
from muskie_jax.tensorboard import open_board
from muskie_jax.writers import Writers


@pytest.mark.parametrize("method", ["write", "flush"])
def test_a_failed_write_is_one_warning_and_blocks_nothing(method, tmp_path, monkeypatch, capfd):
    board = open_board(tmp_path, 0)

    def stale(*_):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(RecordWriter, method, stale)

    def write():
        for step in range(100):  # more than the queue of the thread that writes
            board.add_scalar("loss", 0.5, step)
        board.flush()
        board.close()

    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    writing.join(20)
    assert not writing.is_alive(), "it is blocked"
    (warning,) = capfd.readouterr().err.splitlines()
    assert "TensorBoard's curves end here" in warning and "Stale file handle" in warning


def test_a_clock_that_is_set_back_blocks_nothing(tmp_path, monkeypatch):
    """tensorboardX waits in a thread for a time of the clock; that of next year is too far away for it."""
    board = open_board(tmp_path, 0)
    board.add_scalar("loss", 0.5, 0)
    now, time_of_day = time.time(), time.time
    deadline = now + 2
    while time_of_day() < deadline and not any(file.stat().st_size > 100 for file in tmp_path.iterdir()):
        board.flush()
    monkeypatch.setattr(time, "time", lambda: now - 365 * 86400)

    def write():
        for step in range(1, 100):  # more than the queue of such a thread
            board.add_scalar("loss", 0.5, step)
        board.close()

    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    writing.join(20)
    assert not writing.is_alive(), "it is blocked"
    (file,) = tmp_path.iterdir()
    assert file.read_bytes().count(b"loss") == 100


@pytest.mark.parametrize("fault", ["a file", "a link to nothing", "not writable"])
def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path, monkeypatch, capfd, fault):
    folder = tmp_path / "tensorboard"
    if fault == "a file":
        folder.touch()
    elif fault == "a link to nothing":
        folder.symlink_to(tmp_path / "nothing")
    else:  # root may write to any folder

        def denied(self, path):
            raise PermissionError(13, "Permission denied", path)

        monkeypatch.setattr(RecordWriter, "__init__", denied)
    writers = Writers(tmp_path, 0, default_config())
    writers.scalars(1, "train", {"loss": 0.5})
    writers.picture(1, "views", np.zeros((4, 4, 3), np.uint8))
    writers.flush()
    writers.close()
    assert "train/loss" in (tmp_path / "metrics.jsonl").read_text()
    (warning,) = capfd.readouterr().err.splitlines()
    assert warning.startswith("WARNING: there are no curves of this start for TensorBoard")
    assert str(folder) in warning and warning.endswith("metrics.jsonl has the figures")


def test_curves_are_written(tmp_path):
    board = open_board(tmp_path, 0)
    board.add_scalar("loss", 0.5, 1)
    board.close()
    (file,) = tmp_path.iterdir()
    assert b"loss" in file.read_bytes()
