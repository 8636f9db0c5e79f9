"""Reads that fail for a moment are repeated; files that keep failing are replaced, but not in packs."""

import contextlib
import errno
import itertools
import os
import pathlib
import shutil

import numpy as np
import pytest

from muskie_jax.config import folder, packed
from muskie_jax.data import retries
from muskie_jax.data.images import BadImage, DiskFault, read_photograph
from muskie_jax.data.mixture import build_mixture, training_sampler
from muskie_jax.data.packing import packed_source
from muskie_jax.data.pipeline import Pipeline
from muskie_jax.errors import UserError
from muskie_tests.packs import batches, config_of, pack_of, sampler_of, write_scenes

STALE = "read() failed: Stale file handle [errno 116] reading a shard"


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The waiting times between attempts, which take no time here."""
    waited = []
    monkeypatch.setattr(retries, "sleep", waited.append)
    return waited


@contextlib.contextmanager
def failing(monkeypatch, number, names=("",), times=10**9):
    """Makes reads of files whose paths contain a name fail, each `times` times."""
    read, failures = pathlib.Path.read_bytes, {}

    def read_bytes(self):
        path = str(self)
        if any(name in path for name in names) and failures.get(path, 0) < times:
            failures[path] = failures.get(path, 0) + 1
            raise OSError(number, os.strerror(number), path)
        return read(self)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "read_bytes", read_bytes)
        yield failures


def drawn(pipeline, count=6):
    """Returns (bucket, key, array) of all batches of the first updates."""
    updates = itertools.islice(pipeline.updates(), count)
    return [(bucket, key, batch[key]) for u in updates for bucket, batch in u for key in sorted(batch)]


def assert_equal(ours, other):
    assert len(ours) == len(other) > 0
    for (*_, a), (*_, b) in zip(ours, other):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ECONNRESET])
def test_a_read_that_fails_three_times_changes_nothing(photo_folder, monkeypatch, waits, number):
    expected = batches(sampler_of(folder(root=str(photo_folder))))
    with failing(monkeypatch, number, ("frame_",), times=3) as failures:
        pipeline = Pipeline(sampler_of(folder(root=str(photo_folder))), range(4))
        assert_equal(drawn(pipeline), expected)
    assert failures and not pipeline.skipped
    assert len(waits) == 3 * len(failures) and set(waits) == set(retries.RETRY_SECONDS)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ECONNRESET])
def test_a_file_that_keeps_failing_is_replaced_like_an_unreadable_one(tmp_path, monkeypatch, number):
    source = write_scenes(tmp_path / "photos", 3, 6)
    bad = "scene0/frame_2"
    with failing(monkeypatch, number, (bad,)) as failures:
        pipeline = Pipeline(sampler_of(source), range(4))
        found = drawn(pipeline, 12)
    assert max(failures.values()) % 4 == 0, "four attempts each"
    (message,) = pipeline.skipped
    assert bad in message and os.strerror(number) in message
    (tmp_path / "photos" / f"{bad}.jpg").write_bytes(b"")
    assert_equal(found, drawn(Pipeline(sampler_of(source), range(4)), 12))


def test_faults_of_this_process_are_raised_and_missing_files_are_not_tried_again(
    photo_folder, tmp_path, monkeypatch, waits
):
    path = tmp_path / "own.jpg"  # which no thread of an earlier test reads
    shutil.copy(photo_folder / "attic" / "frame_0.jpg", path)
    with (
        failing(monkeypatch, errno.EMFILE, (path.name,)),
        pytest.raises(OSError, match="Too many open files"),
    ):
        read_photograph(path)
    assert len(waits) == 3
    with pytest.raises(BadImage, match="No such file") as caught:
        read_photograph(tmp_path / "missing.jpg")
    assert len(waits) == 3 and not isinstance(caught.value, DiskFault)


def test_a_pack_is_not_finished_without_an_image_that_a_disk_did_not_read(tmp_path, monkeypatch):
    source = write_scenes(tmp_path / "photos", 2, 3)
    message = "scene1/frame_1.jpg: Input/output error: repair the disk"
    with failing(monkeypatch, errno.EIO, ("scene1/frame_1",)), pytest.raises(UserError, match=message):
        pack_of(source, tmp_path / "pack", max_bad_fraction=1.0)
    info, packed_scenes = pack_of(source, tmp_path / "pack", max_bad_fraction=1.0)
    assert not info.skipped and packed_scenes.scenes.counts.sum() == 6


class FailingExamples:
    """The records of a pack, which cannot be read at first."""

    left = 0
    opened = 0

    def __init__(self, examples):
        self._examples = examples
        FailingExamples.opened += 1

    def __getitem__(self, number):
        if FailingExamples.left > 0:
            FailingExamples.left -= 1
            raise RuntimeError(STALE)
        return self._examples[number]

    def __len__(self):
        return len(self._examples)


@pytest.fixture
def failing_pack(photo_folder, tmp_path, monkeypatch):
    """A packed source whose records fail as often as `FailingExamples.left` says."""
    pack_of(folder(root=str(photo_folder)), tmp_path / "pack")
    reader = packed_source._Reader

    def make(**parts):
        return reader(**parts | {"examples": FailingExamples(parts["examples"])})

    monkeypatch.setattr(packed_source, "_Reader", make)
    monkeypatch.setattr(FailingExamples, "left", 0)
    monkeypatch.setattr(FailingExamples, "opened", 0)
    packed_source._open_reader.cache_clear()
    yield packed(root=str(tmp_path / "pack"))
    packed_source._open_reader.cache_clear()


def test_a_pack_is_opened_again_after_a_stale_handle(photo_folder, failing_pack, monkeypatch):
    expected = batches(sampler_of(folder(root=str(photo_folder))))
    sampler = sampler_of(failing_pack)
    opened = FailingExamples.opened
    monkeypatch.setattr(FailingExamples, "left", 2)
    pipeline = Pipeline(sampler, range(4), threads=1)
    assert_equal(drawn(pipeline), expected)
    assert not pipeline.skipped and FailingExamples.opened > opened


def test_records_that_keep_failing_are_named(failing_pack, monkeypatch):
    config = config_of(failing_pack)
    (source,) = training_sampler(config, build_mixture(config)).sources
    monkeypatch.setattr(FailingExamples, "left", 4)
    with pytest.raises(DiskFault, match="pack: attic/frame_0.jpg: read.. failed: Stale file handle"):
        source.open(0, 0)
    assert FailingExamples.left == 0
    assert source.open(0, 0).height == 72
