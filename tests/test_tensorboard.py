"""Files of TensorBoard that cannot be written end nothing."""

import threading

import pytest
from tensorboardX.record_writer import RecordWriter

from muskie_jax.tensorboard import open_board


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


def test_curves_are_written(tmp_path):
    board = open_board(tmp_path, 0)
    board.add_scalar("loss", 0.5, 1)
    board.close()
    (file,) = tmp_path.iterdir()
    assert b"loss" in file.read_bytes()
