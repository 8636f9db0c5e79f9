"""A continued run says if its data has changed since its last start."""

import shutil

import jax
import pytest

from muskie_jax.config import recordings, synthetic
from muskie_jax.data.changes import FILE, data_changes, measured_on
from muskie_jax.data.mixture import build_mixture
from muskie_jax.train import train
from muskie_tests import posed_trees
from muskie_tests.runs import nano_config, nano_reconstruction


@pytest.fixture
def root(photo_folder, tmp_path):
    return shutil.copytree(photo_folder, tmp_path / "photos")


def test_a_resumed_run_names_the_source_that_has_grown(root, tmp_path, capsys):
    config = nano_config(root)
    config.buckets.update({"resolutions": (((32, 32),),), "views": (2,)})
    config.evaluation.groups, config.evaluation.pictures = 4, 0
    config.optim.warmup = "0 steps"

    def log_of(steps):
        config.duration = f"{steps} steps"
        train(config, tmp_path / "run", jax.devices()[:1])
        return capsys.readouterr().err

    assert "photos had" not in log_of(1)
    assert "photos had" not in log_of(2)
    shutil.copytree(root / "dome", root / "elm")
    before, now = (
        f"{images} and 3 images in {scenes} and 1 scenes" for images, scenes in ((25, 3), (33, 4))
    )
    both = "(training and held out)"
    line = f"  photos had {before} {both}, and now has {now} {both}: examples differ from here on"
    assert line in log_of(3)
    assert "photos had" not in log_of(4)


def test_errors_are_comparable_unless_images_or_evaluation_change(root, tmp_path):
    def measured(**settings):
        config = nano_config(root)
        config.sources.rooms = synthetic()
        config.update(settings)
        return measured_on(config, build_mixture(config))

    before = measured()
    moved = shutil.copytree(root, tmp_path / "moved")
    assert measured(sources={"photos": {"root": str(moved)}}) == before
    assert measured(optim={"learning_rate": 1.0}, seed=5, evaluation={"every": 7, "pictures": 0}) == before
    changed = [
        measured(mask={"modes": (("random", 0.3),)}),
        measured(evaluation={"groups": 4}),
        measured(evaluation={"size": (48, 32)}),
        measured(sources={"photos": {"holdout": 0.5}}),
        measured(sources={"rooms": {"world": {"num_boxes": 1}}}),
        measured(sources={"rooms": {"weight": 2.0}}),
    ]
    for number in range(12):
        shutil.copytree(root / "dome", root / f"elm{number}")
    assert len({before, *changed, measured()}) == 8


def test_sources_of_every_kind_are_compared(tmp_path):
    config = nano_reconstruction()
    config.sources = {"rooms": synthetic(), "desk": recordings("cameras", str(tmp_path))}
    posed_trees.cameras(tmp_path, count=12)
    for _ in range(2):
        assert data_changes(build_mixture(config), tmp_path) == []
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()  # cannot be written
    assert data_changes(build_mixture(config), tmp_path) == []
    (tmp_path / FILE).rmdir()
    for damage in ("{", "[" * 100_000):  # is no change
        (tmp_path / FILE).write_text(damage)
        assert data_changes(build_mixture(config), tmp_path) == []
    posed_trees.cameras(tmp_path, count=9)
    (change,) = data_changes(build_mixture(config), tmp_path)
    assert change.startswith("desk had 12 images in 1 scenes, and now has 9 images in 1 scenes")
