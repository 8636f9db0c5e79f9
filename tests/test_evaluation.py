"""The trainer's evaluator measures every source on its own held-out scenes."""

import pytest

from conftest import write_scene
from muskie_jax.config import folder
from muskie_jax.data.mixture import build_mixture
from muskie_jax.evaluators.reconstruction import ReconstructionEvaluator
from muskie_jax.optim import make_optimizer
from muskie_jax.sharding import make_mesh
from muskie_jax.train_step import init_state, make_task
from muskie_tests.runs import nano_config


def test_sources_are_evaluated_alike_whatever_their_weights(photo_folder, tmp_path):
    for number in range(3):
        write_scene(tmp_path / "others" / f"scene{number}", 4, 40 + number)
    results = []
    for run, weight in enumerate((1.0, 0.01)):
        config = nano_config(photo_folder)
        config.sources.others = folder(root=str(tmp_path / "others"), weight=weight)
        config.evaluation.groups = 16
        mesh, mixture = make_mesh(config.mesh), build_mixture(config, tmp_path / str(run))
        task = make_task(config, mesh, len(mixture.names))
        params = init_state(task.model, make_optimizer(config), config.seed, mesh).params
        evaluator = ReconstructionEvaluator(config, task, mixture, mesh)
        batches = evaluator.load()
        results.append(dict(evaluator.run(params)))
        assert evaluator.load() is batches, "loaded once"
    for result in results:
        mean = (result["mse/photos"] + result["mse/others"]) / 2
        assert result["mse"] == pytest.approx(mean, rel=0.05)  # nearly as many patches are hidden in each
        assert result["mse/photos"] != pytest.approx(result["mse/others"], rel=1e-3)
    assert results[0] == results[1], "the same groups in every run"


@pytest.mark.parametrize(
    "baseline, text",
    [
        (0.2, "masked error 0.1000, 50% below filling with the visible mean (0.2000)"),
        (0.08, "masked error 0.1000, 25% ABOVE filling with the visible mean (0.0800)"),
        (0.0, "masked error 0.1000; each view has one colour, so filling with the visible mean is exact"),
    ],
)
def test_an_evaluation_is_compared_with_its_baseline(photo_folder, tmp_path, baseline, text):
    config = nano_config(photo_folder)
    mesh, mixture = make_mesh(config.mesh), build_mixture(config, tmp_path)
    evaluator = ReconstructionEvaluator(config, make_task(config, mesh, 1), mixture, mesh)
    assert evaluator.describe({"mse": 0.1, "baseline_mse": baseline}) == text
