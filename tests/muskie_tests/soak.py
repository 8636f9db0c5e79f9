"""Trains under random faults, and compares the end with undisturbed runs. See launch/soak.sh.

One training after another is attacked and started again until it has finished: with one process, with two,
and in object storage, in turn. Its parameters and losses must then be those of a training that nothing has
disturbed.
"""

import argparse
import collections
import contextlib
import importlib.util
import itertools
import json
import math
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple
from unittest import mock

from muskie_jax.storage.address import storage_path
from muskie_tests.attacked import STOPPED, Run
from muskie_tests.object_storage import Store, emulated

STEPS, SAVE_EVERY = 100, 10
FEWEST, MOST = 3, 15  # updates between the start or a fault that a run survives, and the next fault
LAST = 20  # updates at the end without a fault, since a run does not need workers for the last ones
SMALL_FILE = 20_000  # bytes; with a full disk, no file grows beyond
SETTINGS = [
    "--config.batch.groups=8",
    "--config.data.workers=1",
    "--config.watchdog.batch_minutes=0.5",
    f"--config.checkpoint.every={SAVE_EVERY}",
]
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
REFUSED = 30  # requests to object storage that get a 503, which is every third


class Kind(NamedTuple):
    """A kind of training: its number of processes, and whether its work directory is in object storage."""

    processes: int
    stored: bool = False

    def __str__(self) -> str:
        processes = f"{self.processes} process{'es' * (self.processes > 1)}"
        return processes + ", s3" * self.stored


ON_DISK = (Kind(1), Kind(2))
IN_STORAGE = (Kind(1, stored=True),)


class Soak:
    """Starts trainings, draws their faults, and counts both.

    Args:
      folder: folder of work directories.
      seed: seed of the faults.
      deadline: time, by `time.monotonic`, after which trainings are no longer attacked.
      faults: number of faults after which a training is no longer attacked.
      store: object storage for the work directories of some kinds.
    """

    def __init__(
        self, folder: pathlib.Path, seed: int, deadline: float, faults: float, store: Store | None
    ):
        self.folder, self.deadline, self.faults, self.store = folder, deadline, faults, store
        self.random = random.Random(seed)
        self.counts: collections.Counter[str] = collections.Counter()
        self.starts = self.trainings = 0
        self.began = time.monotonic()
        self.goodput: list[float] = []
        self._decks: dict[bool, list[str]] = {False: [], True: []}
        self._undisturbed: dict[int, tuple[str, list]] = {}

    def run(self, workdir: pathlib.Path, processes: int) -> Run:
        self.starts += 1
        return Run(workdir, STEPS, processes, SETTINGS)

    def next_fault(self, stored: bool) -> str:
        """Draws from a shuffled deck, so that all kinds of faults come up."""
        deck = self._decks[stored]
        if not deck:
            deck += STORAGE_FAULTS if stored else FAULTS
            self.random.shuffle(deck)
        return deck.pop()

    def undisturbed(self, processes: int) -> tuple[str, list]:
        """Returns digest and losses; two processes have another order of sums than one."""
        if processes not in self._undisturbed:
            workdir = self.folder / f"undisturbed_{processes}"
            result = self.run(workdir, processes).end()
            self._undisturbed[processes] = result["params_digest"], losses(workdir)
        return self._undisturbed[processes]

    def attack(self, kind: Kind) -> None:
        """Attacks a training until it ends, and compares the end."""
        expected = self.undisturbed(kind.processes)
        self.trainings += 1
        name = f"attacked_{self.trainings}"
        workdir = storage_path(self.store.url(name)) if kind.stored and self.store else self.folder / name
        result = Attack(self, workdir, kind).to_the_end()
        assert result["params_digest"] == expected[0], "another digest than undisturbed"
        assert losses(workdir) == expected[1], "other losses than undisturbed"
        assert not list(workdir.glob("train.lock*")), "a lock is left"
        self.goodput.append(result["goodput"])
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def say(self, message: str) -> None:
        print(f"{time.monotonic() - self.began:7.1f} s  {message}", flush=True)


class Attack:
    """One training, its starts and their faults.

    Args:
      soak: what draws the faults.
      workdir: the work directory.
      kind: the kind of training.
    """

    def __init__(self, soak: Soak, workdir: pathlib.Path, kind: Kind):
        self.soak, self.workdir, self.kind, self.processes = soak, workdir, kind, kind.processes
        self.random = soak.random
        self.faults = 0
        self.expected_start: int | None = None  # step that the next start must continue from, if known
        self.damaged = False  # whether the latest checkpoint is, as no start since then has shown

    def to_the_end(self) -> dict:
        """Starts the training again and again, and returns its final figures."""
        while True:
            run = self.soak.run(self.workdir, self.processes)
            try:
                result = self._disturb(run)
            except BaseException:
                run.kill()
                print(*run.log.splitlines()[-30:], sep="\n", file=sys.stderr)
                raise
            if result is not None:
                return result

    def _disturb(self, run: Run) -> dict | None:
        """Injects faults until the run has ended; returns its figures if it has finished."""
        while self._may_go_on() and STEPS not in run.saved():
            fault = self.soak.next_fault(self.kind.stored)
            if fault == "early signal":
                step = None
            else:
                step = self._train_on(run)
                if step is None:
                    break
            self.soak.counts[fault] += 1
            self.faults += 1
            began = time.monotonic()
            outcome = (FAULTS | STORAGE_FAULTS)[fault](self, run)
            where = "start" if step is None else f"update {step}"
            self.soak.say(f"{self.kind}, {where}: {fault}: {outcome} ({time.monotonic() - began:.1f} s)")
            if run.ended():
                return None
        result = run.end()
        self._check_start(run)
        return result

    def _may_go_on(self) -> bool:
        return time.monotonic() < self.soak.deadline and self.faults < self.soak.faults

    def _train_on(self, run: Run) -> int | None:
        """Lets the run make some updates; returns the last, or None if it is about to finish."""
        first = run.wait_for("  loss ").last_step()
        self._check_start(run)
        target = first + self.random.randint(FEWEST, MOST)
        if target >= STEPS - LAST:
            return None
        run.wait_for(f"step {target}/")
        return target

    def _check_start(self, run: Run) -> None:
        if self.expected_start is not None:
            found = re.search(r"Continuing from step (\d+)", run.log)
            assert found and int(found[1]) == self.expected_start, f"not from {self.expected_start}"
            self.expected_start = None
        self.damaged = False

    def any_process(self) -> int:
        return self.random.randrange(self.processes)

    def saved_all(self, run: Run) -> str:
        """Checks that no update was lost; returns what to report."""
        saved, last = run.saved()[-1], losses(self.workdir)[-1][0]
        assert saved == last, f"saved {saved}, but update {last} was made"
        self.expected_start = saved
        return f"saved update {saved}"

    def early_signal(self, run: Run) -> str:
        name, before = self.random.choice(SIGNALS), run.saved()
        time.sleep(0 if "  loss " in run.log else self.random.uniform(0.5, 8))
        for process in range(self.processes):  # they may not be connected yet
            run.signal(name, process)
        codes = run.codes()
        finished = STEPS in run.saved()
        # Python may not have set up its handlers yet.
        expected = (STOPPED, -signal.Signals[name], *([0] if finished else []))
        assert all(code in expected for code in codes), f"{name}: {codes}"
        if run.saved()[-1:] > before[-1:]:
            return f"{name} after the first update, {self.saved_all(run)}"
        self.expected_start = before[-1] if before and not self.damaged else None
        return name

    def stop_signal(self, run: Run) -> str:
        name = self.random.choice(SIGNALS)
        codes = run.signal(name, self.any_process()).codes()
        if STEPS in run.saved():
            return f"{name} after the last update"
        result = run.result
        assert codes == [STOPPED] * self.processes, codes
        assert result["stopped"] == name and result["step"] == run.saved()[-1]
        return f"{name}, {self.saved_all(run)}"

    def kill(self, run: Run) -> str:
        run.signal("SIGKILL", self.any_process())
        time.sleep(0.5)
        for process in range(self.processes):  # as a launcher does
            run.signal("SIGKILL", process)
        run.codes()
        self.expected_start = run.saved()[-1] if run.saved() else None
        return f"saved {run.saved()}"

    def kill_worker(self, run: Run) -> str:
        for worker in run.workers(self.any_process()):
            os.kill(worker, signal.SIGKILL)
        return "goes on"

    def stop_worker(self, run: Run) -> str:
        for worker in run.workers(self.any_process()):
            os.kill(worker, signal.SIGSTOP)
        codes = run.codes()
        if STEPS in run.saved():
            return "after the last update"
        assert codes == [STOPPED] * self.processes, codes
        return self.saved_all(run)

    def pause(self, run: Run) -> str:
        process = self.any_process()
        run.signal("SIGSTOP", process)
        time.sleep(self.random.uniform(1, 4))
        run.signal("SIGCONT", process)
        return "goes on"

    def full_disk(self, run: Run) -> str:
        before = run.saved()
        limits = resource.prlimit(run.processes[0].pid, resource.RLIMIT_FSIZE)
        resource.prlimit(run.processes[0].pid, resource.RLIMIT_FSIZE, (SMALL_FILE, limits[1]))
        codes = run.codes()
        assert codes == [1] * self.processes, codes
        assert "error:" in run.log and "Traceback" not in run.log, "the error is not one line"
        saved = run.saved()
        assert not before or saved[-1] >= before[-1], "the last good checkpoint is gone"
        self.expected_start = saved[-1] if saved else None
        return f"saved {saved}"

    def refuse_requests(self, run: Run) -> str:
        store, counter = self.soak.store, itertools.count()
        assert store is not None, "the work directory is in a store"
        refused: list[str] = []

        def every_third(method: str, path: str) -> int | None:
            if next(counter) % 3:
                return None
            refused.append(path)
            return 503

        store.fault = every_third
        while len(refused) < REFUSED and not run.ended():
            time.sleep(0.05)
        store.fault = lambda method, path: None
        assert refused, "no request was refused"
        return f"{len(refused)} requests, goes on"

    def damage(self, run: Run) -> str:
        self.kill(run)
        saved = run.saved()
        if len(saved) < 2:
            return "too early"
        self.expected_start, self.damaged = None, True  # a file may be one that restoring does not need
        folder = self.workdir / "checkpoints" / str(saved[-1])
        file = self.random.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
        how = self.random.choice(("flip", "truncate", "delete"))
        data = bytearray(file.read_bytes())
        if how == "delete":
            file.unlink()
        elif how == "truncate":
            file.write_bytes(data[: len(data) // 2])
        elif data:
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
            file.write_bytes(data)
        return f"{how} {file.relative_to(folder)} of {saved}"


FAULTS = {
    "early signal": Attack.early_signal,
    "signal": Attack.stop_signal,
    "kill -9": Attack.kill,
    "worker killed": Attack.kill_worker,
    "worker stopped": Attack.stop_worker,
    "paused": Attack.pause,
    "full disk": Attack.full_disk,
    "kill -9 and a damaged checkpoint": Attack.damage,
}
STORAGE_FAULTS = {
    "early signal": Attack.early_signal,
    "signal": Attack.stop_signal,
    "kill -9": Attack.kill,
    "503s": Attack.refuse_requests,
}


def losses(workdir: pathlib.Path) -> list[tuple[int, float]]:
    """Returns step and loss of each update in `metrics.jsonl`."""
    path = workdir / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]


def has_storage() -> bool:
    """Returns whether the packages of an S3 emulator are installed."""
    return all(importlib.util.find_spec(package) for package in ("s3fs", "moto"))


def soak(
    seed: int,
    kinds: Sequence[Kind],
    minutes: float = math.inf,
    trainings: float = math.inf,
    faults: float = math.inf,
) -> dict:
    """Attacks trainings until a limit is reached, and lets the last one finish.

    Args:
      seed: which faults, and when.
      kinds: kinds of trainings, in turn.
      minutes: how long to attack.
      trainings: number of trainings.
      faults: number of faults after which a training is left alone.

    Returns:
      The report: `equal`, whether all trainings ended like undisturbed ones, and counts.
    """
    folder = pathlib.Path(tempfile.mkdtemp(prefix="muskie_soak_"))
    began, failure, store = time.monotonic(), "", None
    with contextlib.ExitStack() as stack:
        if any(kind.stored for kind in kinds):
            store = stack.enter_context(emulated("s3"))
            stack.enter_context(mock.patch.dict(os.environ, store.environment))
        attacked = Soak(folder, seed, began + 60 * minutes, faults, store)
        hang_up = signal.signal(signal.SIGHUP, lambda *_: None)  # trainings would ignore what nohup ignores
        stack.callback(signal.signal, signal.SIGHUP, hang_up)
        try:
            while attacked.trainings < trainings and time.monotonic() < attacked.deadline:
                attacked.attack(kinds[attacked.trainings % len(kinds)])
                attacked.say(f"training {attacked.trainings} ended like an undisturbed one")
        except AssertionError as error:
            failure = str(error) or repr(error)
            attacked.say(f"FAILED: {failure} (files: {folder})")
        else:
            shutil.rmtree(folder)
    return {
        "equal": not failure,
        "failure": failure,
        "seed": seed,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "trainings": attacked.trainings,
        "starts": attacked.starts,
        "faults": sum(attacked.counts.values()),
        **dict(sorted(attacked.counts.items())),
        "goodput": [round(share, 2) for share in attacked.goodput],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long to attack (30)")
    parser.add_argument("--seed", type=int, default=0, help="which faults, and when (0)")
    parser.add_argument("--processes", type=int, nargs="+", default=(1, 2), help="in turn (1 2)")
    parser.add_argument("--disk", action="store_true", help="no work directories in object storage")
    arguments = parser.parse_args()
    kinds = tuple(Kind(count) for count in arguments.processes)
    report = soak(arguments.seed, kinds if arguments.disk else kinds + IN_STORAGE, arguments.minutes)
    print(json.dumps(report, indent=2))
    sys.exit(not report["equal"])


if __name__ == "__main__":
    main()
