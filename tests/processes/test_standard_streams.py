"""A program goes on, and ends as usual, when nobody can read its output."""

import os
import subprocess
import sys

import pytest

from conftest import ROOT, python_path

PROGRAM = """
import sys, os
from muskie_jax.processes.standard_streams import lasting_streams
with lasting_streams():
    for number in range(3):
        print("x" * 100_000, file=sys.stderr, flush=True)
        print(number)
    opened = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
    os.write(opened, str(opened).encode())
"""


def environment():
    """Variables of a process whose streams are buffered, as they usually are."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return kept | {"PYTHONPATH": python_path(ROOT)}


@pytest.mark.parametrize("redirection", ["", ">&-", "2>&-", ">&- 2>&- <&-", ">/dev/full 2>/dev/full"])
def test_closed_and_full_streams_end_nothing(tmp_path, redirection):
    command = f'"$0" -c "$1" "$2" {redirection}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, PROGRAM, str(tmp_path / "file")],
        env=environment(), capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert int((tmp_path / "file").read_text()) > 2, "a file has the number of a closed standard stream"
    if redirection in ("", "2>&-"):
        assert done.stdout.splitlines() == ["0", "1", "2"]


def test_characters_that_an_encoding_lacks_are_escaped():
    program = """
import sys
from muskie_jax.processes.standard_streams import lasting_streams
with lasting_streams():
    for stream in (sys.stdout, sys.stderr):
        print("runs/\u20ac", file=stream)
        print("and more", file=stream)
"""
    ascii_only = environment() | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=ascii_only, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0
    assert done.stdout.splitlines() == done.stderr.splitlines() == [r"runs/\u20ac", "and more"]


def test_a_reader_that_stops_reading_delays_nothing(tmp_path):
    """As after Ctrl-S in a terminal."""
    program = """
import sys, time
from muskie_jax.processes import interrupt, standard_streams
standard_streams.PATIENCE_SECONDS = 0.2
with standard_streams.lasting_streams():
    for number in range(300):
        print(f"line {number} " + "x" * 1_000, file=sys.stderr, flush=True)
    interrupt.say("SIGTERM")
    print("result", flush=True)
    time.sleep(float(sys.argv[1]))
    print("last line", file=sys.stderr, flush=True)
"""
    arguments = [sys.executable, "-c", program]
    reading, writing = os.pipe()
    done = subprocess.run(
        [*arguments, "0"], stdout=subprocess.PIPE, stderr=writing, env=environment(), timeout=100
    )
    os.close(reading)
    os.close(writing)
    assert done.returncode == 0 and done.stdout == b"result\n"

    process = subprocess.Popen(
        [*arguments, "3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert process.stdout is not None and process.stdout.readline() == b"result\n"
    _, err = process.communicate(timeout=100)
    lines = err.decode().splitlines()
    assert lines[0].startswith("line 0 ") and lines[-1] == "last line" and len(lines) < 300
    assert lines[-2] == "(lines that were not read in time are left out)"


def test_a_reader_that_leaves_ends_nothing(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "file")], stdout=writing, stderr=writing,
        env=environment(), timeout=100,
    )  # fmt: skip
    os.close(writing)
    assert done.returncode == 0 and (tmp_path / "file").exists()
