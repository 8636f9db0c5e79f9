"""A work directory does not use or delete the checkpoints of another."""

import contextlib
import shutil

import jax
import pytest

from muskie_jax.checkpoints.ownership import (
    IDENTITY,
    OWNER,
    exclusive_run,
    require_outside_of_checkpoints,
)
from muskie_jax.checkpoints.saved_steps import saved_steps
from muskie_jax.errors import UserError
from muskie_jax.evaluate import evaluate
from muskie_jax.train import LOCK, train
from muskie_tests.runs import nano_config


@pytest.fixture
def config(photo_folder):
    config = nano_config(photo_folder)
    config.buckets.update({"resolutions": (((32, 32),),), "views": (4,)})
    config.evaluation.pictures, config.optim.warmup = 0, "0 steps"
    config.duration, config.checkpoint.keep = "2 steps", 1
    return config


def linked(tmp_path, name, folder="disk/x"):
    """Returns a new work directory whose checkpoints are a link to a folder."""
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / name).mkdir()
    (tmp_path / name / "checkpoints").symlink_to(tmp_path / folder)
    return tmp_path / name


def start(workdir):
    with exclusive_run(workdir, LOCK):
        pass


def refused(workdir, match):
    with pytest.raises(UserError, match=match) as error:
        start(workdir)
    assert "\n" not in str(error.value)
    assert not list(workdir.glob(f"{LOCK}*")) and not (workdir / f"checkpoints/{LOCK}.1").exists()


def test_runs_with_one_folder_of_checkpoints_are_refused(config, tmp_path):
    a, b = linked(tmp_path, "a"), linked(tmp_path, "b")
    one_device = jax.devices()[:1]
    train(config, a, one_device)
    config.seed, config.duration = 1, "3 steps"
    with pytest.raises(
        UserError, match=f"in {tmp_path}/disk/x belong to the work directory {a}, not to {b}"
    ):
        train(config, b, one_device)
    assert saved_steps(a) == [2] and not (b / "metrics.jsonl").exists()
    assert train(config, a, one_device)["step"] == 3
    assert saved_steps(a) == [3]


def test_two_jobs_cannot_use_one_linked_folder_at_a_time(tmp_path):
    a, b = linked(tmp_path, "a"), linked(tmp_path, "b")
    with exclusive_run(a, LOCK):
        with pytest.raises(UserError, match=f"{tmp_path}/disk/x is in use by process .* stop that job"):
            start(b)
        assert [path.name for path in b.iterdir()] == ["checkpoints"]
    assert sorted(path.name for path in (tmp_path / "disk/x").iterdir()) == [OWNER]


def test_a_work_directory_and_its_disk_may_be_moved(tmp_path):
    a = linked(tmp_path, "a")
    start(a)
    moved = a.rename(tmp_path / "moved")
    start(moved)
    a.mkdir()  # another run, in the place of the first
    start(a)
    (tmp_path / "disk").rename(tmp_path / "mounted")
    for workdir in (moved, a):
        with contextlib.suppress(FileNotFoundError):
            (workdir / "checkpoints").unlink()
        (workdir / "checkpoints").symlink_to(tmp_path / "mounted/x")
    start(moved)
    refused(a, f"belong to the work directory {moved}, not to {a}")
    shutil.rmtree(moved)
    (tmp_path / "mounted/x" / OWNER).unlink()  # as the message says
    start(a)
    (a / "checkpoints").unlink()
    (tmp_path / "mounted/x").rename(a / "checkpoints")  # a folder again
    start(a)


def test_a_copy_of_a_work_directory_does_not_get_the_checkpoints_of_the_original(tmp_path):
    a = linked(tmp_path, "a")
    start(a)
    copy = shutil.copytree(a, tmp_path / "copy", symlinks=True)
    refused(copy, f"belong to the work directory {a}, not to {copy}")
    start(a)
    shutil.rmtree(a)
    start(copy)


def test_a_link_to_the_checkpoints_of_a_work_directory_is_refused(tmp_path):
    (tmp_path / "other/checkpoints").mkdir(parents=True)
    (tmp_path / "other/metrics.jsonl").touch()
    refused(
        linked(tmp_path, "a", "other/checkpoints"), "is a link to .*other/checkpoints, the checkpoints of"
    )
    (tmp_path / "other/metrics.jsonl").unlink()
    start(tmp_path / "a")  # no run yet
    refused(tmp_path / "other", "other/checkpoints belong to the work directory .*/a, not to .*/other")


@pytest.mark.parametrize("inner", ["checkpoints/30", "checkpoints/30/state", "checkpoints_damaged/30"])
def test_a_link_into_the_checkpoints_of_another_run_is_refused(tmp_path, inner):
    """They are deleted with the step."""
    (tmp_path / "other" / inner).mkdir(parents=True)
    (tmp_path / "other/metrics.jsonl").touch()
    refused(
        linked(tmp_path, "a", f"other/{inner}"), "30.*, inside .*other/checkpoints.*: link another folder"
    )
    start(linked(tmp_path, "owner"))
    refused(
        linked(tmp_path, "b", "disk/x/30"), "disk/x/30, inside .*/disk/x, the checkpoints of another run"
    )


def test_a_work_directory_whose_link_is_gone_is_refused(tmp_path):
    """As a copy without links: it would start from the beginning."""
    a = linked(tmp_path, "a")
    start(a)
    copy = tmp_path / "copy"
    shutil.copytree(a, copy, ignore=shutil.ignore_patterns("checkpoints"))
    match = f"{copy}/checkpoints is gone, which was a link.*: restore the link, or delete {copy / IDENTITY}"
    for _ in range(2):
        refused(copy, match)
        assert [path.name for path in copy.iterdir()] == [IDENTITY]
    (copy / IDENTITY).unlink()
    start(copy)
    (a / "checkpoints").unlink()
    refused(a, "restore the link")
    (a / "checkpoints").symlink_to(tmp_path / "disk/x")
    start(a)


def test_a_damaged_record_ends_nothing(tmp_path):
    a = linked(tmp_path, "a")
    for text in ("", "{", "[]", "\xff", '{"path": 3}', "[" * 100_000):
        (tmp_path / "disk/x" / OWNER).write_text(text)
        start(a)


@pytest.mark.parametrize(
    "inner", ["checkpoints/7", "checkpoints/7/run", "checkpoints_damaged/7", "checkpoints"]
)
@pytest.mark.parametrize("is_linked", [False, True])
def test_a_work_directory_in_the_checkpoints_of_another_is_refused(inner, is_linked, config, tmp_path):
    a = linked(tmp_path, "a") if is_linked else tmp_path / "a"
    a.mkdir(exist_ok=True)
    require_outside_of_checkpoints(a / inner)  # nothing is trained in `a`
    start(a)
    (a / "metrics.jsonl").touch()
    before = sorted(a.rglob("*"))
    for job in (train, evaluate):
        with pytest.raises(
            UserError, match=f"--workdir={a / inner} is inside {a}/checkpoints.* choose another"
        ):
            job(config, a / inner)
    assert sorted(a.rglob("*")) == before
    require_outside_of_checkpoints(a)
    require_outside_of_checkpoints(a / "inner")
    if is_linked and inner.startswith("checkpoints/"):
        path = tmp_path / "disk/x" / inner.removeprefix("checkpoints/")
        with pytest.raises(UserError, match=f"is inside {tmp_path}/disk/x, the checkpoints of another"):
            require_outside_of_checkpoints(path)
