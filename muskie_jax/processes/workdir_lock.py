"""Lock files, which keep two jobs from writing one work directory at a time.

A lock file names its owner: host, process and the time when the process started. The owner refreshes the
file's modification time. On the owner's machine, a lock is dead if the process is. Elsewhere, and in what
seems to be a copy of the owner's work directory, it is dead if it was not refreshed for some minutes. A
dead lock is taken over, so a killed run can be continued at once.

Locks of the operating system (flock, lockf) are not used, since some network file systems lack them. Lock
files only need exclusive creation, which object storage has too; see `storage.lock_files`.
"""

import contextlib
import dataclasses
import datetime
import errno
import json
import os
import pathlib
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import NoReturn

from muskie_jax.errors import AT_END, USAGE_ERROR, UserError
from muskie_jax.files import DAMAGED_RECORD
from muskie_jax.processes import interrupt
from muskie_jax.processes.coordination import Coordination
from muskie_jax.processes.this_machine import machine, started
from muskie_jax.storage.address import absolute
from muskie_jax.storage.lock_files import LockFiles, lock_files

REFRESH_SECONDS = 20.0
# Several refreshes, since a network file system may show an old modification time for a minute.
DEAD_SECONDS = 180.0
POLL_SECONDS = 1.0
WITHDRAW_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Owner:
    """The process that holds a lock.

    Attributes:
      host: name of its host.
      machine: identifies the boot and the process namespace in which `process` is unique.
      process: process id.
      started: when the process started, in any unit.
      since: when it took the lock, as text.
      token: differs for each lock.
      folder: the work directory, by its path on that host.
    """

    host: str
    machine: str
    process: int
    started: str
    since: str
    token: str
    folder: str

    @classmethod
    def this_process(cls, folder: pathlib.Path) -> "Owner":
        since = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        process, host, token = os.getpid(), socket.gethostname(), uuid.uuid4().hex
        return cls(host, machine(), process, started(process) or "", since, token, str(folder))

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, which took its lock at {self.since}"


UNKNOWN = Owner("an unknown host", "", 0, "", "an unknown time", "", "")


@contextlib.contextmanager
def exclusive(*paths: pathlib.Path, check: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Holds lock files while the context is open. Every process of a distributed run must call it.

    Args:
      *paths: the lock files without their numbers, see `WorkdirLock`; none in a process that relies on the
        locks of another process of its run.
      check: called by a process that holds locks; may raise UserError.

    Raises:
      UserError: in every process of the run, if another job holds a lock, or from `check`.
    """
    locks, refusal = [], ""
    try:
        for path in paths:
            locks.append(WorkdirLock(path))
        if paths:
            check()
    except UserError as error:
        refusal = str(error)
    try:
        coordination = Coordination.of_jax()
        refusals = coordination.gather("lock", refusal or " ") if coordination else [refusal]
        for refusal in refusals:
            if refusal.strip():
                raise UserError(refusal)
        yield
    finally:
        for lock in locks:
            lock.release()


class WorkdirLock:
    """A lock file of this process, from construction to `release`.

    Lock files are numbered, such as `train.lock.1`. A job creates the next number, which only one can do,
    and withdraws if it then finds another new lock file. Removing a dead lock before creating one would be
    a race: the removed lock may already be that of another job.

    If the job loses the lock, because it was suspended and taken for dead, it ends at once: otherwise two
    jobs would write one run.

    Args:
      path: the lock file without its number.

    Raises:
      UserError: if another job holds the lock; names its owner.
    """

    def __init__(self, path: pathlib.Path):
        self._base = absolute(path)
        self._files = lock_files(path)
        self._path = self._base  # with a number, once it is created
        self._owner = Owner.this_process(self._base.parent)
        try:
            self._acquire()
        except OSError as error:
            hint = ": free a few kilobytes" if error.errno == errno.ENOSPC else ""
            raise UserError(f"{path} cannot be written: {error.strerror or error}{hint}") from error
        self._released, self._turn = threading.Event(), threading.RLock()
        threading.Thread(target=self._refresh, name="lock", daemon=True).start()
        AT_END.append(self.release)

    def release(self) -> None:
        if self.release in AT_END:
            AT_END.remove(self.release)
        self._released.set()
        with self._turn, contextlib.suppress(OSError):
            if _read(self._files, self._path) == self._owner:
                self._files.remove(self._path)

    def _acquire(self) -> None:
        dead: dict[pathlib.Path, Owner] = {}
        while True:
            found = self._locks()
            for path, owner in found.items():
                if dead.get(path) != owner and not self._is_dead(path, owner):
                    raise UserError(
                        f"{path.parent} is in use by {owner} ({path.name}): stop that job first, or use "
                        "another --workdir"
                    )
            dead = found
            number = 1 + max((_number(path) for path in found), default=0)
            self._path = self._base.with_name(f"{self._base.name}.{number}")
            if not self._create():
                continue
            others = {path: owner for path, owner in self._locks().items() if path != self._path}
            if others.items() <= dead.items():
                for path in dead:
                    self._files.remove(path)
                return
            self._files.remove(self._path)
            time.sleep(random.uniform(0, WITHDRAW_SECONDS))  # the other job withdraws too

    def _locks(self) -> dict[pathlib.Path, Owner]:
        """Returns all lock files, with their owners."""
        found = {}
        for path in self._files.numbered(self._base):
            with contextlib.suppress(FileNotFoundError):  # released in the meantime
                found[path] = _read(self._files, path)
        return found

    def _create(self) -> bool:
        return self._files.create(self._path, self._text(), self._owner.token)

    def _text(self) -> str:
        return json.dumps(dataclasses.asdict(self._owner))

    def _is_dead(self, path: pathlib.Path, owner: Owner) -> bool:
        if owner.machine == self._owner.machine:
            if started(owner.process) != owner.started:
                return True
            if not self._is_copied(owner):
                return False
        try:
            return self._is_stale(path, owner)
        except FileNotFoundError:  # released in the meantime
            return True

    def _is_copied(self, owner: Owner) -> bool:
        """Returns whether a lock seems to be copied here, with its work directory, from that of its owner.

        Only seems: in a container, a work directory may have the path that another folder has outside.
        """
        try:
            return not os.path.samefile(owner.folder, self._base.parent)
        except OSError:  # the owner's folder was renamed, or is in object storage
            return False

    def _is_stale(self, path: pathlib.Path, owner: Owner) -> bool:
        """Returns whether a lock is not refreshed for DEAD_SECONDS. Waits until this is known."""
        refreshed = self._files.modified(path)
        age = max(0.0, self._files.now(self._base, self._owner.token) - refreshed)
        if age < DEAD_SECONDS:
            interrupt.say(
                f"{path.parent} was in use by {owner}, {age:.0f} s ago: waiting up to "
                f"{DEAD_SECONDS - age:.0f} s to see whether that job still runs"
            )
        deadline = time.monotonic() + DEAD_SECONDS - age
        while time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            if self._files.modified(path) != refreshed:
                return False
        return True

    def _refresh(self) -> None:
        while not self._released.wait(REFRESH_SECONDS):
            with self._turn, contextlib.suppress(OSError):  # a network file system that fails for a moment
                if self._released.is_set():
                    return
                try:
                    owner = _read(self._files, self._path)
                    if owner == UNKNOWN:  # the file is damaged
                        self._files.remove(self._path)
                        raise FileNotFoundError(self._path)
                except FileNotFoundError:
                    owner = self._owner
                    if self._create():
                        others = [each for path, each in self._locks().items() if path != self._path]
                        if others:
                            self._files.remove(self._path)
                            self._end(others[0])
                if owner != self._owner:
                    self._end(owner)
                self._files.refresh(self._path, self._text())

    def _end(self, owner: Owner) -> NoReturn:
        interrupt.say(f"error: {self._path.parent} was taken over by {owner}, while this job was suspended")
        os._exit(USAGE_ERROR)


def _number(path: pathlib.Path) -> int:
    return int(path.suffix[1:])


def _read(files: LockFiles, path: pathlib.Path) -> Owner:
    """Returns the owner of a lock file, or UNKNOWN if the file is incomplete."""
    try:
        return Owner(**json.loads(files.read(path)))
    except DAMAGED_RECORD:
        return UNKNOWN
