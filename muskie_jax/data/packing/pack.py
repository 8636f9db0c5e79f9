"""Packs scenes into shards, in several processes; a killed run continues where it stopped.

An unfinished pack has a folder `packing/`. It contains the plan and the `ShardResult` of every shard that
was written and verified. Records are the frames of all scenes in order. A frame that several scenes share,
such as overlapping fixed groups of views, is one record.
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
from muskie_jax.data.packing.finalize import finalize
from muskie_jax.data.packing.frames import Frames
from muskie_jax.data.packing.pack_info import (
    INDEX,
    METADATA,
    SHARDS,
    TFDS_FILES,
    UNFINISHED,
    PackInfo,
    load_pack_info,
    parse_metadata,
)
from muskie_jax.data.packing.pack_plan import PackPlan, make_plan
from muskie_jax.data.packing.records import serialize
from muskie_jax.data.packing.shards import ShardResult, Stopped, write_shard
from muskie_jax.data.processes import exit_with_parent
from muskie_jax.errors import UserError
from muskie_jax.files import replace_text
from muskie_jax.writers import duration, log

SAMPLED_RECORDS = 8  # their mean size determines the number of shards
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
) -> PackInfo:
    """Packs all frames into a folder, or continues a pack that was interrupted.

    Args:
      frames: the frames to pack.
      out: the pack's folder, created if it does not exist.
      encoding: how images are stored.
      shards: number of shards; 0: each shard has about `shard_bytes`.
      shard_bytes: approximate size of a shard, bytes.
      workers: number of worker processes; 0 packs in this process.
      overwrite: whether to delete a different pack in the folder.
      max_bad_fraction: fraction of unreadable images above which packing stops.

    Returns:
      The description of the finished pack.

    Raises:
      UserError: if the folder contains anything but this pack, too many images are unreadable, or writing
        fails.
    """
    plan = make_plan(frames, encoding, shards)
    packing = out / UNFINISHED
    try:
        out.mkdir(parents=True, exist_ok=True)
        finished = _finished_pack(plan, out, overwrite)
        if finished:
            return finished
        packing.mkdir(exist_ok=True)
        with _exclusive_lock(packing):
            # Rendered frames are encoded when they are rendered, so their records are stored unchanged.
            record_encoding = encoding if frames.parallel else Encoding()
            plan = _choose_shards(plan, packing, frames, record_encoding, shard_bytes)
            job = _PackJob(plan, frames, record_encoding, out, max_bad_fraction)
            results = job.run_parallel(workers) if workers and frames.parallel else job.run_serial()
            finalize(plan, results, frames, encoding, out)
            shutil.rmtree(packing)
    except KeyboardInterrupt:
        log("Interrupted: the same command continues after the shards that are finished")
        raise
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror or error}") from error
    return load_pack_info(out)


# --- The output folder --------------------------------------------------------------------------------


def _finished_pack(plan: PackPlan, out: pathlib.Path, overwrite: bool) -> PackInfo | None:
    """Returns the pack in the folder if it is finished and follows the plan, otherwise None.

    With `overwrite`, deletes any other pack.

    Raises:
      UserError: if the folder contains anything but this pack, finished or unfinished.
    """
    if not any(out.iterdir()):
        return None
    unfinished_plan = out / UNFINISHED / "plan.json"
    if unfinished_plan.is_file():
        before = json.loads(unfinished_plan.read_text())["description"]
    elif (out / UNFINISHED).is_dir():
        return None
    elif (out / METADATA).is_file():
        finished = parse_metadata((out / METADATA).read_bytes(), str(out))
        before = {"settings": finished.settings, "encoding": finished.encoding}
        if finished.plan == plan.digest and not overwrite:
            if plan.shards not in (0, len(finished.shards)):
                raise UserError(
                    f"--out={out} has {len(finished.shards)} shards, not {plan.shards}: leave out "
                    "--shards, or pass --overwrite"
                )
            log(f"{out} is already packed; --overwrite packs it again")
            return load_pack_info(out)
    else:
        raise UserError(f"--out={out} is not empty and is not a pack: choose an empty or new folder")
    if overwrite:
        _delete_pack(out)
    elif before != plan.description:
        raise UserError(
            f"--out={out} contains a pack with {_difference(before, plan.description)}: pass --overwrite "
            "to delete it, or choose another --out"
        )
    return None


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    for section in ("settings", "encoding"):
        for key, value in now[section].items():
            if before[section].get(key) != value:
                return f"{key}={before[section].get(key)!r} instead of {value!r}"
    return "other scenes or images"


def _delete_pack(out: pathlib.Path) -> None:
    """Deletes the files of a pack, and no other files."""
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    shutil.rmtree(out / INDEX, ignore_errors=True)
    for path in [*out.glob(f"{SHARDS}-*"), *(out / name for name in (METADATA, *TFDS_FILES))]:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _exclusive_lock(packing: pathlib.Path) -> Iterator[None]:
    """Locks a pack's folder `packing` within the context.

    Raises:
      UserError: if another process has locked it.
    """
    with (packing / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"another process is packing into {packing.parent}: wait for it, or choose another --out"
            ) from error
        yield


def _choose_shards(
    plan: PackPlan, packing: pathlib.Path, frames: Frames, encoding: Encoding, shard_bytes: int
) -> PackPlan:
    """Returns the plan with its number of shards, taken from the interrupted run if there was one."""
    path = packing / "plan.json"
    if path.is_file():
        before = json.loads(path.read_text())["shards"]
        if plan.shards not in (0, before):
            raise UserError(
                f"--shards={plan.shards}, but the unfinished pack in {packing.parent} has {before} shards: "
                f"pass --shards={before}, or --overwrite to start again"
            )
        return dataclasses.replace(plan, shards=before)
    if plan.shards > len(plan.records):
        raise UserError(f"--shards={plan.shards} must be at most {len(plan.records)}, the number of images")
    shards = plan.shards or _estimate_shards(plan, frames, encoding, shard_bytes)
    replace_text(path, json.dumps({"description": plan.description, "shards": shards}))
    return dataclasses.replace(plan, shards=shards)


def _estimate_shards(plan: PackPlan, frames: Frames, encoding: Encoding, shard_bytes: int) -> int:
    """Estimates how many shards of `shard_bytes` the pack needs from a few evenly spaced records."""
    count = len(plan.records) if frames.parallel else 1  # rendering another room would be expensive
    sizes = []
    for number in sorted({i * count // SAMPLED_RECORDS for i in range(SAMPLED_RECORDS)}):
        with contextlib.suppress(BadImage):
            scene, frame = map(int, plan.records[number])
            record, _ = encoding.apply(frames.record(scene, frame), frames.upright)
            sizes.append(len(serialize(record)))
    mean = np.mean(sizes) if sizes else 0
    return min(max(1, round(mean * len(plan.records) / shard_bytes)), len(plan.records))


# --- Writing the shards -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _ShardPaths:
    """Paths of one shard: its file, the file while it is written, and the saved `ShardResult`."""

    shard: pathlib.Path
    part: pathlib.Path
    result: pathlib.Path


class _PackJob:
    """Writes the shards that a previous run has not finished."""

    def __init__(
        self, plan: PackPlan, frames: Frames, encoding: Encoding, out: pathlib.Path, max_bad_fraction: float
    ):
        self.plan, self.frames, self.encoding, self.out = plan, frames, encoding, out
        self.max_bad_fraction = max_bad_fraction
        paths = [self._paths(number) for number in range(plan.shards)]
        self.results = [ShardResult.load(path.result, path.shard) for path in paths]
        self.missing = [number for number, result in enumerate(self.results) if result is None]
        images_done = sum(len(result.kept) for result in self.results if result)
        if images_done:
            finished = plan.shards - len(self.missing)
            log(f"Continuing: {finished} of {plan.shards} shards are finished")
        self.progress = _Progress(len(plan.records), images_done)
        self._check_bad_fraction()

    def _paths(self, number: int) -> _ShardPaths:
        name = self.plan.shard_name(number)
        packing = self.out / UNFINISHED
        return _ShardPaths(self.out / name, packing / f"{name}.writing", packing / f"{name}.json")

    def _check_bad_fraction(self) -> None:
        """Raises UserError if too many of the images processed so far were unreadable."""
        skipped = [message for result in self.results if result for message in result.skipped]
        total = len(self.plan.records)
        if len(skipped) == total:
            raise UserError(
                f"none of {total} images can be read, such as {skipped[0]}: check the source's files"
            )
        if len(skipped) > self.max_bad_fraction * total:
            raise UserError(
                f"{len(skipped)} of {total} images cannot be read, such as {skipped[0]}: repair the files, "
                f"or pass a --config.data.max_bad_fraction above {self.max_bad_fraction}"
            )

    def _add_result(self, number: int, result: ShardResult) -> None:
        self.results[number] = result
        self._check_bad_fraction()

    def _all_results(self) -> list[ShardResult]:
        return [result for result in self.results if result is not None]

    def _task(self, number: int) -> Callable[..., ShardResult]:
        """Returns the function that writes a shard, given the arguments that all shards share."""
        records = self.plan.records_of_shard(number)
        return functools.partial(_write_and_save, self._paths(number), records.tolist())

    def run_serial(self) -> list[ShardResult]:
        """Writes the missing shards in this process; returns all results in order."""
        for number in self.missing:
            self._add_result(number, self._task(number)(self.frames, self.encoding, self.progress.advance))
        return self._all_results()

    def run_parallel(self, workers: int) -> list[ShardResult]:
        """Writes the missing shards in worker processes; returns all results in order."""
        context = multiprocessing.get_context("spawn")
        images_done, stop = context.Value("q", 0), context.Event()
        executor = futures.ProcessPoolExecutor(
            min(workers, max(len(self.missing), 1)),
            mp_context=context,
            initializer=_init_worker,
            initargs=(self.frames, self.encoding, images_done, stop),
        )
        try:
            running = {executor.submit(_run_task, self._task(number)): number for number in self.missing}
            while running:
                ready, _ = futures.wait(running, POLL_SECONDS, futures.FIRST_COMPLETED)
                for future in ready:
                    self._add_result(running.pop(future), future.result())
                self.progress.update(images_done.value)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, perhaps for lack of memory: run the same command to "
                f"continue, with fewer --workers than {workers} if memory is short"
            ) from error
        finally:
            stop.set()
            executor.shutdown(wait=True, cancel_futures=True)
        return self._all_results()


def _write_and_save(
    paths: _ShardPaths,
    numbers: list[tuple[int, int]],
    frames: Frames,
    encoding: Encoding,
    advance: Callable[[], None],
) -> ShardResult:
    """Writes a shard and saves its result.

    The process that wrote the shard also saves the result, so a finished shard counts even if the run is
    stopped right afterwards.
    """
    result = write_shard(paths.shard, paths.part, numbers, frames, encoding, advance)
    result.save(paths.result)
    return result


_worker: dict[str, Any] = {}  # the arguments that all shards of a worker process share


def _init_worker(frames: Frames, encoding: Encoding, images_done: Any, stop: Any) -> None:
    """Prepares a worker process.

    Args:
      frames, encoding: see `pack`.
      images_done: shared count of the images that all workers have processed.
      stop: an event; once it is set, workers abandon their shards.
    """
    # Ctrl-C reaches every process of the group; the main process handles it and sets `stop`.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exit_with_parent()

    def advance() -> None:
        if stop.is_set():
            raise Stopped
        with images_done.get_lock():
            images_done.value += 1

    _worker.update(frames=frames, encoding=encoding, advance=advance)


def _run_task(task: Callable[..., ShardResult]) -> ShardResult:
    return task(_worker["frames"], _worker["encoding"], _worker["advance"])


class _Progress:
    """Logs progress every PROGRESS_SECONDS.

    Args:
      total: number of images in the pack.
      before: number of images that previous runs have processed.
    """

    def __init__(self, total: int, before: int):
        self.total, self.before, self.done = total, before, 0
        self.start = self.last = time.perf_counter()

    def advance(self) -> None:
        """Increments the number of processed images."""
        self.update(self.done + 1)

    def update(self, done: int) -> None:
        """Sets the number of images that this run has processed."""
        self.done, now = done, time.perf_counter()
        if now - self.last < PROGRESS_SECONDS or not done:
            return
        self.last, speed = now, done / (now - self.start)
        left = duration((self.total - self.before - done) / speed)
        log(f"Packed {self.before + done:,} of {self.total:,} images, {speed:.0f} per second, {left} left")
