"""The queue of an experiment: jobs side by side, how they end with it, and why they failed."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from conftest import ROOT
from muskie_jax.sweeps.job_queue import Job, run_jobs
from muskie_tests.processes import wait_until


def job(tmp_path, name, code):
    return Job(name, (sys.executable, "-c", code), tmp_path / f"logs/{name}.txt")


def run_all(jobs, gpus):
    started, ended = [], {}
    stopped = run_jobs(
        jobs,
        gpus,
        lambda job, gpu: started.append((job.name, gpu)),
        lambda end: ended.__setitem__(end.job.name, end.status),
    )
    return started, ended, stopped


@pytest.mark.parametrize("gpus, memory", [(["0", "3"], "all"), (["3", "3"], "0.45")])
def test_jobs_run_side_by_side_each_on_its_gpu(tmp_path, monkeypatch, gpus, memory):
    """Either job waits for the other's file, so they must run at the same time."""
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    code = """
        import os, pathlib, time
        folder, name = pathlib.Path({folder!r}), {name!r}
        memory = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "all")
        (folder / name).write_text(os.environ["CUDA_VISIBLE_DEVICES"] + " " + memory)
        while not (folder / {other!r}).exists(): time.sleep(0.01)
    """
    jobs = [
        job(tmp_path, name, textwrap.dedent(code).format(folder=str(tmp_path), name=name, other=other))
        for name, other in (("a", "b"), ("b", "a"))
    ]
    started, ended, stopped = run_all(jobs, gpus)
    assert started == [("a", gpus[0]), ("b", gpus[1])] and ended == {"a": 0, "b": 0} and not stopped
    assert [(tmp_path / name).read_text() for name in "ab"] == [f"{gpu} {memory}" for gpu in gpus]


def test_failing_job_does_not_stop_the_others_and_one_gpu_runs_one_at_a_time(tmp_path):
    record = f"import sys, time; f = open({str(tmp_path / 'order')!r}, 'a'); "
    steps = "f.write(sys.argv[0] and '<'); f.flush(); time.sleep(0.2); f.write('>'); f.flush(); "
    jobs = [
        job(tmp_path, "bad", f"{record}{steps}print('a reason'); sys.exit(3)"),
        job(tmp_path, "good", record + steps),
    ]
    started, ended, stopped = run_all(jobs, [""])
    assert started == [("bad", ""), ("good", "")] and ended == {"bad": 3, "good": 0} and not stopped
    assert (tmp_path / "order").read_text() == "<><>"
    assert (tmp_path / "logs/bad.txt").read_text() == "a reason\n"


def test_signal_reaches_running_jobs_and_no_further_job_starts(tmp_path):
    ready = tmp_path / "ready"
    saves = f"""
        import pathlib, signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: (print("saved"), sys.exit(75)))
        pathlib.Path({str(ready)!r}).touch()
        time.sleep(60)
    """
    jobs = [job(tmp_path, "first", textwrap.dedent(saves)), job(tmp_path, "second", "print()")]

    def interrupt():
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    threading.Thread(target=interrupt).start()
    started, ended, stopped = run_all(jobs, [""])
    assert stopped and started == [("first", "")] and ended == {"first": 75}
    assert (tmp_path / "logs/first.txt").read_text() == "saved\n"
    assert signal.getsignal(signal.SIGINT) == before


SAVES = """
import pathlib, signal, sys, time
from muskie_jax.processes import interrupt
def save(*_):
    time.sleep(0.3)
    print("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
interrupt.stop_with_starter()
pathlib.Path({ready!r}).touch()
time.sleep(60)
"""


def test_after_an_error_of_the_queue_running_jobs_save_and_are_waited_for(tmp_path):
    """The first job ends when the other is ready, and what is called at its end fails."""
    ready = tmp_path / "ready"
    waits = f"import pathlib, time\nwhile not pathlib.Path({str(ready)!r}).exists(): time.sleep(0.01)"
    jobs = [job(tmp_path, "first", waits), job(tmp_path, "other", SAVES.format(ready=str(ready)))]

    def on_end(ended):
        raise KeyError(ended.job.name)

    with pytest.raises(KeyError, match="first"):
        run_jobs(jobs, ["0", "1"], lambda *_: None, on_end)
    assert (tmp_path / "logs/other.txt").read_text() == "saved\n"


def test_jobs_of_a_killed_queue_save_and_stop(tmp_path):
    ready, log = tmp_path / "ready", tmp_path / "log.txt"
    code = SAVES.format(ready=str(ready))
    queue = f"""
        import pathlib, sys
        from muskie_jax.sweeps.job_queue import Job, run_jobs
        job = Job("a", (sys.executable, "-c", {code!r}), pathlib.Path({str(log)!r}))
        run_jobs([job], [""], print, print)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(queue)], cwd=ROOT) as process:
        try:
            wait_until(ready.exists, 60)
            time.sleep(0.5)
            assert log.read_text() == ""
        finally:
            process.kill()
    wait_until(lambda: log.read_text() == "saved\n", 60)


def test_a_queue_under_nohup_ignores_the_end_of_its_terminal(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        hangup = f"import os; os.kill({os.getpid()}, 1); print('trained')"
        _, ended, stopped = run_all([job(tmp_path, "a", hangup), job(tmp_path, "b", "")], [""])
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ended == {"a": 0, "b": 0} and not stopped


def reason_of(tmp_path, code):
    ended = []
    run_jobs([job(tmp_path, "a", code)], [""], lambda *_: None, ended.append)
    return ended[0].reason()


def test_the_reason_of_a_failure_is_the_last_error_of_this_start(tmp_path):
    assert reason_of(tmp_path, "print('error: old'); exit(2)") == "error: old"
    lines = "print('error: first\\nerror: disk\\n  hint\\n')"
    assert reason_of(tmp_path, f"{lines}; exit(2)") == "error: disk"
    assert reason_of(tmp_path, "print('step 3'); exit(2)") == "step 3"
    assert reason_of(tmp_path, "exit(2)") == "no message"
    kill = "import os; print('step 4', flush=True); os.kill(os.getpid(), 9)"
    assert reason_of(tmp_path, kill) == "killed by SIGKILL"


def test_a_full_disk_of_the_log_is_the_reason(tmp_path, monkeypatch):
    """The error itself could not be written."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 4096))
    full = f"the disk of {tmp_path}/logs/a.txt is full"
    assert reason_of(tmp_path, "print('step 3'); exit(1)") == full
    assert reason_of(tmp_path, "print('error: no save'); exit(1)") == f"{full}; error: no save"
