"""Evaluation measures every source on its own held-out scenes."""

import pytest

from conftest import write_scene
from muskie_jax.config import folder
from muskie_jax.train import train
from muskie_tests.runs import nano_config


def test_every_source_is_evaluated_alike_whatever_its_weight(photo_folder, tmp_path):
    for number in range(3):
        write_scene(tmp_path / "others" / f"scene{number}", 4, 40 + number)
    results = []
    for run, weight in enumerate((1.0, 0.01)):
        config = nano_config(photo_folder)
        config.sources.others = folder(root=str(tmp_path / "others"), weight=weight)
        config.buckets = {"resolutions": (((32, 32),),), "views": (4,)}
        config.evaluation.groups = 16
        config.duration, config.optim.warmup = "1 steps", "0 steps"
        results.append(train(config, tmp_path / str(run)))
    for result in results:
        both = (result["mse/photos"] + result["mse/others"]) / 2
        assert result["mse"] == pytest.approx(both, rel=0.05)  # nearly as many patches are hidden in each
        assert result["mse/photos"] != pytest.approx(result["mse/others"], rel=1e-3)
    for name in ("baseline_mse", "baseline_mse/photos", "baseline_mse/others"):
        assert results[0][name] == results[1][name], "the same groups in every run"
