"""A lock file keeps two jobs from one work directory; the lock of a dead job is taken over."""

import contextlib
import dataclasses
import json
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
from muskie_jax.errors import UserError
from muskie_jax.processes import workdir_lock
from muskie_jax.processes.this_machine import started
from muskie_jax.processes.workdir_lock import Owner, WorkdirLock, exclusive


@pytest.fixture
def path(tmp_path):
    return tmp_path / "train.lock"


@pytest.fixture
def file(tmp_path):
    """The first lock file."""
    return tmp_path / "train.lock.1"


def hold(path, code="time.sleep(60)"):
    """Starts a process that takes the lock, prints a line and then runs the code."""
    program = f"""
        import pathlib, time
        from muskie_jax.processes import workdir_lock
        workdir_lock.REFRESH_SECONDS = 0.05
        lock = workdir_lock.WorkdirLock(pathlib.Path({str(path)!r}))
        print("holds", flush=True)
        {code}
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "holds\n", process.communicate()
    return process


def elsewhere(file, **changes):
    """Changes a lock's owner to one of another machine, or as given."""
    owner = json.loads(file.read_text())
    file.write_text(json.dumps(owner | {"machine": "another", "host": "node7"} | changes))


def entries(path):
    return [entry.name for entry in path.parent.iterdir()]


def test_the_second_job_is_refused_and_the_message_names_the_owner(path, file):
    process = hold(path)
    try:
        with pytest.raises(UserError) as refused:
            WorkdirLock(path)
    finally:
        process.kill()
        process.communicate()
    owner = Owner(**json.loads(file.read_text()))
    assert f"{path.parent} is in use by process {process.pid} on {owner.host}, which" in str(refused.value)
    assert owner.since in str(refused.value) and "use another --workdir" in str(refused.value)
    assert entries(path) == ["train.lock.1"]


def test_a_copy_of_a_work_directory_in_use_is_not_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir_lock, "DEAD_SECONDS", 2.0)
    monkeypatch.setattr(workdir_lock, "POLL_SECONDS", 0.05)
    run, link = tmp_path / "run", tmp_path / "link"
    run.mkdir()
    link.symlink_to(run)
    process = hold(run / "train.lock")
    try:
        copy = shutil.copytree(run, tmp_path / "copy")
        WorkdirLock(copy / "train.lock").release()
        assert not list(copy.iterdir())
        for same in (run, link):
            with pytest.raises(UserError, match="in use by process"):
                WorkdirLock(same / "train.lock")
        renamed = run.rename(tmp_path / "renamed")
        with pytest.raises(UserError, match="in use by process"):
            WorkdirLock(renamed / "train.lock")
    finally:
        process.kill()
        process.communicate()


def test_a_job_whose_folder_has_another_path_outside_of_its_container_keeps_it(tmp_path, monkeypatch):
    """The path of the owner's work directory exists here too, as another folder."""
    monkeypatch.setattr(workdir_lock, "DEAD_SECONDS", 2.0)
    monkeypatch.setattr(workdir_lock, "POLL_SECONDS", 0.05)
    process = hold(tmp_path / "train.lock")
    try:
        (tmp_path / "other").mkdir()
        file = tmp_path / "train.lock.1"
        owner = json.loads(file.read_text()) | {"folder": str(tmp_path / "other")}
        stop = threading.Event()

        def refresh():
            while not stop.wait(0.2):
                file.write_text(json.dumps(owner))

        process.send_signal(signal.SIGSTOP)  # this test refreshes the lock for it
        thread = threading.Thread(target=refresh)
        thread.start()
        time.sleep(0.5)
        with pytest.raises(UserError, match="in use by process"):
            WorkdirLock(tmp_path / "train.lock")
        stop.set()
        thread.join()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("reaped", [True, False])
def test_the_lock_of_a_killed_job_is_taken_over_at_once(path, reaped):
    """A killed process that its parent has not waited for still has an entry in /proc."""
    process = hold(path)
    process.send_signal(signal.SIGKILL)
    if reaped:
        process.wait()
    else:
        while started(process.pid):
            time.sleep(0.01)
    start = time.monotonic()
    lock = WorkdirLock(path)
    assert time.monotonic() - start < 5
    lock.release()
    assert entries(path) == []
    process.communicate()


def test_a_process_id_that_was_used_again_is_not_the_owner(path, file):
    lock = WorkdirLock(path)
    file.write_text(json.dumps(dataclasses.asdict(lock._owner) | {"started": "1", "token": "old"}))
    again = WorkdirLock(path)
    again.release()
    assert entries(path) == []


def test_a_suspended_job_keeps_its_lock(path):
    process = hold(path)
    process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(UserError, match=f"in use by process {process.pid}"):
            WorkdirLock(path)
    finally:
        process.kill()
        process.communicate()


def test_the_lock_of_another_host_is_taken_over_if_it_is_not_refreshed(path, file, monkeypatch, capfd):
    WorkdirLock(path)._released.set()  # without a refresh
    elsewhere(file)
    monkeypatch.setattr(workdir_lock, "DEAD_SECONDS", 1.0)
    monkeypatch.setattr(workdir_lock, "POLL_SECONDS", 0.05)
    WorkdirLock(path).release()
    said = capfd.readouterr().err
    assert f"{path.parent} was in use by process {os.getpid()} on node7" in said and "waiting up to" in said
    assert entries(path) == []


def test_an_old_lock_of_another_host_is_taken_over_at_once(path, file, capfd):
    WorkdirLock(path)._released.set()
    elsewhere(file)
    long_ago = time.time() - 10_000
    os.utime(file, (long_ago, long_ago))
    start = time.monotonic()
    WorkdirLock(path).release()
    assert time.monotonic() - start < 5 and capfd.readouterr().err == ""


def test_the_lock_of_another_host_that_is_refreshed_refuses_soon(path, file, monkeypatch):
    WorkdirLock(path)._released.set()
    elsewhere(file)
    monkeypatch.setattr(workdir_lock, "POLL_SECONDS", 0.05)
    threading.Timer(0.3, os.utime, [file]).start()
    start = time.monotonic()
    with pytest.raises(UserError, match="in use by process .* on node7"):
        WorkdirLock(path)
    assert time.monotonic() - start < 10


def test_a_lock_is_refreshed_and_created_again_but_not_after_its_release(path, file, monkeypatch):
    monkeypatch.setattr(workdir_lock, "REFRESH_SECONDS", 0.02)
    lock = WorkdirLock(path)
    before = file.stat().st_mtime_ns
    deadline = time.monotonic() + 10
    while file.stat().st_mtime_ns == before:
        assert time.monotonic() < deadline
    file.unlink()
    while not file.exists():
        assert time.monotonic() < deadline
    lock.release()
    time.sleep(0.1)
    assert entries(path) == []


def test_a_lock_file_that_is_damaged_is_written_again(path, file, monkeypatch):
    monkeypatch.setattr(workdir_lock, "REFRESH_SECONDS", 0.02)
    lock, text = WorkdirLock(path), file.read_text()
    file.write_text(text[:9])  # as a full disk or a power failure leaves it
    deadline, found = time.monotonic() + 10, ""
    while found != text:
        assert time.monotonic() < deadline
        with contextlib.suppress(FileNotFoundError):  # it is deleted, then created
            found = file.read_text()
    lock.release()
    assert entries(path) == []


def test_of_many_jobs_one_takes_over(path, file):
    """Every round, all find the lock of a dead job at the same time."""
    for _ in range(20):
        dead = WorkdirLock(path)
        dead._released.set()
        file.write_text(json.dumps(dataclasses.asdict(dead._owner) | {"started": "1"}))
        winners, barrier = [], threading.Barrier(8)

        def contend(winners=winners, barrier=barrier):
            barrier.wait()
            with contextlib.suppress(UserError):
                winners.append(WorkdirLock(path))

        threads = [threading.Thread(target=contend) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for winner in winners:
            winner.release()
        assert len(winners) == 1
        assert entries(path) == []


def test_two_jobs_that_see_each_other_withdraw_and_try_again(path, file, monkeypatch):
    """The other job appears after this one found no lock, and before it looks again."""
    create, created = WorkdirLock._create, []

    def create_beside_another(lock):
        if not created:
            other = dataclasses.asdict(lock._owner) | {"since": "noon", "token": "other"}
            file.with_name("train.lock.9").write_text(json.dumps(other))
        created.append(create(lock))
        return created[-1]

    monkeypatch.setattr(WorkdirLock, "_create", create_beside_another)
    with pytest.raises(UserError, match=r"which took its lock at noon \(train.lock.9\)"):
        WorkdirLock(path)
    assert created == [True] and entries(path) == ["train.lock.9"]


def test_a_job_that_lost_its_lock_ends(path, file):
    process = hold(path)
    elsewhere(file, token="another")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 2 and f"error: {path.parent} was taken over by" in err
    assert "node7" in file.read_text(), "the lock of the new owner stays"


def test_file_systems_without_hard_links(path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(1, "not permitted")))
    lock = WorkdirLock(path)
    with pytest.raises(UserError, match="in use"):
        WorkdirLock(path)
    lock.release()
    assert entries(path) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(UserError, match="train.lock cannot be written: No such file"):
        WorkdirLock(tmp_path / "removed" / "train.lock")


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_an_incomplete_lock_file_counts_by_its_age(text, path, file):
    file.write_text(text)
    os.utime(file, (1, 1))
    with exclusive(path):
        assert entries(path) == ["train.lock.2"]
    assert entries(path) == []


def test_the_lock_is_released_after_an_error(path, file):
    with pytest.raises(ZeroDivisionError), exclusive(path):
        assert file.exists()
        raise ZeroDivisionError
    assert entries(path) == []
