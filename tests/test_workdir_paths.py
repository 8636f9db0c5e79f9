"""A work directory keeps its meaning during a job, whatever its path."""

import jax
import pytest

from muskie_jax.checkpoint import Checkpointer
from muskie_jax.checkpoints.saved_steps import saved_steps
from muskie_jax.errors import UserError
from muskie_jax.storage.address import prepare_workdir
from muskie_jax.train import train
from muskie_tests.runs import nano_config


@pytest.mark.parametrize("name", ["run[1]", "a*b", "who?", "back\\slash", "[x]/run"])
def test_paths_that_would_be_patterns_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="checkpoints cannot be written to a path with"):
        prepare_workdir(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_relative_paths_are_kept_and_links_are_followed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real").mkdir()
    real, link = (type(tmp_path)(name) for name in ("real", "link"))
    assert prepare_workdir(real) == real
    assert prepare_workdir(link) == prepare_workdir(tmp_path / "link") == tmp_path / "real"


def test_a_link_that_changes_during_a_run_moves_no_run(photo_folder, tmp_path, monkeypatch):
    config = nano_config(photo_folder)
    config.buckets.update({"resolutions": (((32, 32),),), "views": (4,)})
    config.evaluation.pictures, config.duration, config.optim.warmup = 0, "2 steps", "0 steps"
    config.checkpoint.keep = 1
    link, ours, other = tmp_path / "link", tmp_path / "ours", tmp_path / "other"
    ours.mkdir()
    train(config, other, jax.devices()[:1])
    before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    link.symlink_to(ours)
    save = Checkpointer.save

    def save_after_change(self, state, settings):
        link.unlink()
        link.symlink_to(other)
        save(self, state, settings)

    monkeypatch.setattr(Checkpointer, "save", save_after_change)
    config.seed = 1
    result = train(config, link, jax.devices()[:1])
    assert {path: path.read_bytes() for path in other.rglob("*") if path.is_file()} == before
    assert saved_steps(ours) == [2] and result["workdir"] == str(ours)
    assert (ours / "metrics.jsonl").is_file()
