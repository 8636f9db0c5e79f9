"""Packing: scenes into shards, in several processes, going on where a killed run stopped.

A pack that is not finished has a folder `packing/` with its plan and, for every shard that is written
and was read back, what became of its images. The shards' records are the frames of all scenes in
order; a frame that several scenes share (fixed groups of views do) is one record.
"""

import contextlib
import dataclasses
import fcntl
import functools
import json
import multiprocessing
import pathlib
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from muskie_jax.data.images import BadImage
from muskie_jax.data.packing.encoding import Encoding
from muskie_jax.data.packing.finish import finish
from muskie_jax.data.packing.frames import Frames
from muskie_jax.data.packing.pack_plan import PackPlan, make_plan
from muskie_jax.data.packing.packed import (
    INDEX,
    METADATA,
    SHARDS,
    TFDS_FILES,
    UNFINISHED,
    Pack,
    load_pack,
    parse_metadata,
)
from muskie_jax.data.packing.records import serialize
from muskie_jax.data.packing.shards import Shard, Stopped, write_shard
from muskie_jax.data.processes import exit_with_parent
from muskie_jax.errors import UserError
from muskie_jax.writers import duration, log

SAMPLED = 8  # records whose mean size tells how many shards there should be
PROGRESS_SECONDS = 10.0
POLL_SECONDS = 0.5


def pack(
    frames: Frames,
    out: pathlib.Path,
    encoding: Encoding,
    *,
    shards: int = 0,
    shard_bytes: int = 2**28,
    workers: int = 0,
    overwrite: bool = False,
    max_bad_fraction: float = 0.05,
) -> Pack:
    """Packs all frames into a folder; a rerun of the same goes on.

    Args:
      frames: what to pack.
      out: the folder; made if it is not there.
      encoding: how images are stored.
      shards: how many files; 0: as many as make each about `shard_bytes`.
      workers: processes; 0: none beside this one.
      overwrite: delete another pack that is there.
      max_bad_fraction: of images that cannot be read, before packing stops.

    Raises:
      UserError: if something else is there, too many images cannot be read, or the disk fails.
    """
    plan = make_plan(frames, encoding, shards)
    packing = out / UNFINISHED
    try:
        out.mkdir(parents=True, exist_ok=True)
        done = _previous(plan, out, overwrite)
        if done:
            return done
        packing.mkdir(exist_ok=True)
        with _alone(packing):
            # What is rendered is encoded at once: there is nothing left to do to its records.
            apply = encoding if frames.parallel else Encoding()
            plan = _settle(plan, packing, frames, apply, shard_bytes)
            run = _Run(plan, frames, apply, out, max_bad_fraction)
            made = run.in_processes(workers) if workers and frames.parallel else run.alone()
            finish(plan, made, frames, encoding, out)
            shutil.rmtree(packing)
    except KeyboardInterrupt:
        log("The same command goes on from the shards that are there")
        raise
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror or error}") from error
    return load_pack(out)


# --- What is there already ---------------------------------------------------------------------------


def _previous(plan: PackPlan, out: pathlib.Path, overwrite: bool) -> Pack | None:
    """The pack, if it is finished. Otherwise makes sure that the folder is empty, or has its beginning."""
    begun = out / UNFINISHED / "plan.json"
    if not any(out.iterdir()):
        return None
    if begun.is_file():
        before = json.loads(begun.read_text())["description"]
    elif (out / UNFINISHED).is_dir():
        return None
    elif (out / METADATA).is_file():
        finished = parse_metadata((out / METADATA).read_bytes(), str(out))
        before = {"settings": finished.settings, "encoding": finished.encoding}
        if finished.plan == plan.digest and not overwrite:
            if plan.shards not in (0, len(finished.shards)):
                raise UserError(
                    f"--out={out} has {len(finished.shards)} shards: write that, or --overwrite"
                )
            log(f"{out} is packed already; --overwrite packs it again")
            return load_pack(out)
    else:
        raise UserError(f"--out={out} is not empty, and no pack: write a folder of its own")
    if overwrite:
        _remove(out)
    elif before != plan.description:
        raise UserError(
            f"--out={out} has a pack of {_difference(before, plan.description)}: write --overwrite to "
            "delete it, or another --out"
        )
    return None


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    for part in ("settings", "encoding"):
        for key, value in now[part].items():
            if before[part].get(key) != value:
                return f"{key}={before[part].get(key)!r} instead of {value!r}"
    return "other scenes or images"


def _remove(out: pathlib.Path) -> None:
    """Deletes a pack, and nothing else."""
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    shutil.rmtree(out / INDEX, ignore_errors=True)
    for path in [*out.glob(f"{SHARDS}-*"), *(out / name for name in (METADATA, *TFDS_FILES))]:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(packing: pathlib.Path) -> Iterator[None]:
    """Keeps a second process from packing into the same folder."""
    with (packing / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another process is packing into {packing.parent}") from error
        yield


def _settle(
    plan: PackPlan, packing: pathlib.Path, frames: Frames, encoding: Encoding, shard_bytes: int
) -> PackPlan:
    """The plan with its number of shards: that of the run before, if there was one."""
    path = packing / "plan.json"
    if path.is_file():
        before = json.loads(path.read_text())["shards"]
        if plan.shards not in (0, before):
            raise UserError(f"this pack was begun with --shards={before}: write that, or --overwrite")
        return dataclasses.replace(plan, shards=before)
    if plan.shards > len(plan.records):
        raise UserError(f"--shards={plan.shards}: there are {len(plan.records)} images, write fewer")
    shards = plan.shards or _number_of_shards(plan, frames, encoding, shard_bytes)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"description": plan.description, "shards": shards}))
    part.replace(path)
    return dataclasses.replace(plan, shards=shards)


def _number_of_shards(plan: PackPlan, frames: Frames, encoding: Encoding, shard_bytes: int) -> int:
    """By the mean size of a few records."""
    count = len(plan.records) if frames.parallel else 1
    sizes = []
    for number in sorted({i * count // SAMPLED for i in range(SAMPLED)}):
        with contextlib.suppress(BadImage):
            record, _ = encoding.apply(frames.record(*map(int, plan.records[number])), frames.upright)
            sizes.append(len(serialize(record)))
    mean = np.mean(sizes) if sizes else 0
    return min(max(1, round(mean * len(plan.records) / shard_bytes)), len(plan.records))


# --- The work ----------------------------------------------------------------------------------------


class _Run:
    """Writes the shards that are not there yet."""

    def __init__(
        self, plan: PackPlan, frames: Frames, encoding: Encoding, out: pathlib.Path, max_bad_fraction: float
    ):
        self.plan, self.frames, self.encoding, self.out = plan, frames, encoding, out
        self.max_bad_fraction = max_bad_fraction
        paths = [self._paths(number) for number in range(plan.shards)]
        self.made = [Shard.load(paths["result"], paths["shard"]) for paths in paths]
        self.left = [number for number, shard in enumerate(self.made) if shard is None]
        before = sum(len(shard.kept) for shard in self.made if shard)
        if before:
            log(f"Going on: {plan.shards - len(self.left)} of {plan.shards} shards are there")
        self.progress = _Progress(len(plan.records), before)
        self._check_share()

    def _paths(self, number: int) -> dict[str, pathlib.Path]:
        name = self.plan.name_of_shard(number)
        packing = self.out / UNFINISHED
        return {
            "shard": self.out / name,
            "part": packing / f"{name}.writing",
            "result": packing / f"{name}.json",
        }

    def _finished(self, number: int, shard: Shard) -> None:
        self.made[number] = shard
        self._check_share()

    def _check_share(self) -> None:
        skipped = [message for shard in self.made if shard for message in shard.skipped]
        total = len(self.plan.records)
        if len(skipped) == total:
            raise UserError(f"none of {total} images can be read, such as {skipped[0]}")
        if len(skipped) > self.max_bad_fraction * total:
            raise UserError(
                f"{len(skipped)} of {total} images cannot be read, such as {skipped[0]}: mend the data, "
                f"or write a --config.data.max_bad_fraction above {self.max_bad_fraction}"
            )

    def _task(self, number: int) -> Callable[..., Shard]:
        paths, records = self._paths(number), self.plan.of_shard(number)
        return functools.partial(_make_shard, paths, records.tolist())

    def alone(self) -> list[Shard]:
        """In this process."""
        for number in self.left:
            self._finished(number, self._task(number)(self.frames, self.encoding, self.progress.advance))
        return self.made

    def in_processes(self, workers: int) -> list[Shard]:
        """In several others."""
        context = multiprocessing.get_context("spawn")
        done, stop = context.Value("q", 0), context.Event()
        executor = futures.ProcessPoolExecutor(
            min(workers, max(len(self.left), 1)),
            mp_context=context,
            initializer=_begin,
            initargs=(self.frames, self.encoding, done, stop),
        )
        try:
            running = {executor.submit(_work, self._task(number)): number for number in self.left}
            while running:
                ready, _ = futures.wait(running, POLL_SECONDS, futures.FIRST_COMPLETED)
                for future in ready:
                    self._finished(running.pop(future), future.result())
                self.progress.show(done.value)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, perhaps for want of memory: the same command goes on, "
                "with fewer --workers if need be"
            ) from error
        finally:
            stop.set()
            executor.shutdown(wait=True, cancel_futures=True)
        return self.made


def _make_shard(
    paths: dict[str, pathlib.Path],
    numbers: list[tuple[int, int]],
    frames: Frames,
    encoding: Encoding,
    advance: Callable[[], None],
) -> Shard:
    shard = write_shard(paths["shard"], paths["part"], numbers, frames, encoding, advance)
    # At once, by whoever wrote it: then it counts, also when this run is stopped.
    shard.save(paths["result"])
    return shard


_worker: dict[str, Any] = {}  # what a worker process was begun with


def _begin(frames: Frames, encoding: Encoding, done, stop) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the first process tells the others
    exit_with_parent()

    def advance() -> None:
        if stop.is_set():
            raise Stopped
        with done.get_lock():
            done.value += 1

    _worker.update(frames=frames, encoding=encoding, advance=advance)


def _work(task: Callable[..., Shard]) -> Shard:
    return task(_worker["frames"], _worker["encoding"], _worker["advance"])


class _Progress:
    """A line on standard error now and then."""

    def __init__(self, total: int, before: int):
        self.total, self.before, self.done = total, before, 0
        self.start = self.last = time.perf_counter()

    def advance(self) -> None:
        self.show(self.done + 1)

    def show(self, done: int) -> None:
        """Says how far it is, if the last line was some time ago."""
        self.done, now = done, time.perf_counter()
        if now - self.last < PROGRESS_SECONDS or not done:
            return
        self.last, speed = now, done / (now - self.start)
        left = duration((self.total - self.before - done) / speed)
        log(f"Packed {self.before + done:,} of {self.total:,} images, {speed:.0f} per second, {left} left")
