"""Experiments: trainings side by side, their evaluation, the table, and pictures."""

import json
import sys
from xml.etree import ElementTree

import jax.numpy as jnp
import numpy as np
import pytest

from conftest import ROOT, xla_flags
from muskie_jax.checkpoint import Checkpointer
from muskie_jax.config_file import load_config
from muskie_jax.errors import UserError
from muskie_jax.evaluators.eval_models import ModelInfo
from muskie_jax.evaluators.results import ResultRow
from muskie_jax.report.results_file import ResultUnit, append, read
from muskie_jax.sweeps import job_queue
from muskie_jax.sweeps.drawing import Question, comparison_svg, time_curve_svg, verdict
from muskie_jax.sweeps.outcomes import (
    ALL_MEASURES,
    RECORDINGS,
    ROOMS,
    Summary,
    correspondence,
    geometry,
    markdown_table,
    minutes_at_steps,
    read_summaries,
    summarise,
    wall_minutes,
    write_summaries,
)
from muskie_jax.sweeps.predictor import PredictorName
from muskie_jax.train_step import TrainState
from muskie_tests.commands import complaint_of, run_in_process, run_module

REFINED = PredictorName.parse("attention+refined all")

# --- Outcomes ----------------------------------------------------------------------------------------


def add_result(folder, model, step, dataset, pairs, **px):
    """Appends the results of a model; `px` has the mean error of each predictor, "_" standing for "+"."""
    setting = {"dataset": dataset, "views": 4, "height": 128, "width": 128}
    rows = []
    for name, error in px.items():
        for part, factor in (("all", 1.0), ("0-10", 0.5)):
            labels = {"predictor": name.replace("_", "+"), "layer": "all", "protocol": "targets"}
            labels |= {"angle": part, "points": "all"}
            values = {"px_ate": factor * error, "px_10": 100 - factor * error, "pairs": pairs}
            rows.append(ResultRow(labels, values))
    folder.mkdir(parents=True, exist_ok=True)
    info = ModelInfo(model, "muskie", step, f"runs/{model}")
    identity = f"{model} {step} {dataset}"
    append(folder / "results.jsonl", ResultUnit(identity, info, "correspondence", setting, tuple(rows)))


def add_training(folder, name, steps, mse, seconds=()):
    (folder / name).mkdir(parents=True, exist_ok=True)
    row = {"step": steps, "evaluation/mse": mse, "evaluation/baseline_mse": 0.2}
    (folder / name / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    with (folder / "trainings.jsonl").open("a") as file:
        for each in seconds:
            file.write(json.dumps({"name": name, "seconds": each, "status": 0}) + "\n")


@pytest.fixture
def folder(tmp_path):
    """An experiment: run a with two seeds, run b with one finished of two."""
    add_training(tmp_path, "a-seed0", 10, 0.10, [60, 30])  # stopped once
    add_training(tmp_path, "a-seed1", 10, 0.12, [120])
    add_training(tmp_path, "b-seed0", 20, 0.15, [60])
    add_training(tmp_path, "b-seed1", 15, 0.01)  # not at its last step, 20
    for name, step, px in (("a-seed0", 10, 10), ("a-seed1", 10, 14), ("b-seed0", 20, 30)):
        add_result(
            tmp_path / "evaluation", name, step, "kitchen", 300, attention=2 * px, attention_refined=px
        )
        add_result(
            tmp_path / "evaluation", name, step, "desk", 100, attention=0.0, attention_refined=px + 8
        )
    for dataset in ("kitchen", "desk"):
        add_result(tmp_path / "evaluation", "did not move", None, dataset, 100, still=40.0)
    return tmp_path


DATASETS = {"kitchen": RECORDINGS, "desk": RECORDINGS}


def test_summaries_pool_datasets_by_pairs_and_average_over_seeds(folder):
    a, b, still = summarise(folder, {"a": 10, "b": 20}, range(2), DATASETS, REFINED)
    assert (a.name, b.name, still.name) == ("a", "b", "did not move")
    assert a.values["px"] == pytest.approx([12, 16]), "three quarters of the pairs are of the kitchen"
    assert a.values["minutes"] == [1.5, 2.0] and a.values["gain"] == pytest.approx([50, 40])
    assert a.mean("px") == pytest.approx(14) and a.deviation("px") == pytest.approx(np.sqrt(8))
    assert (b.seeds, b.deviation("px")) == (1, None) and b.values["px"] == pytest.approx([32])
    assert still.values["px"] == [40] and still.mean("gain") is None
    assert markdown_table([a, b, still]).splitlines()[2:] == [
        "| a | 2 | 1.8 ± 0.4 | 45.0 ± 7.1 | 14.0 ± 2.8 | 86.0 ± 2.8 |",
        "| b | 1 | 1.0 | 25.0 | 32.0 | 68.0 |",
        "| did not move |  |  |  | 40.0 | 60.0 |",
    ]


def test_other_datasets_do_not_count_and_partly_evaluated_models_are_left_out(folder):
    evaluation = folder / "evaluation"
    add_result(evaluation, "a-seed0", 10, "rooms", 1000, attention_refined=99)
    found = correspondence(evaluation, DATASETS, REFINED)
    assert found["a-seed0", 10]["px"] == pytest.approx(12)
    found = correspondence(evaluation, [*DATASETS, "rooms"], REFINED)
    assert list(found) == [("a-seed0", 10)]
    assert correspondence(folder / "nowhere", DATASETS, REFINED) == {}


def test_predictor_is_chosen_and_unknown_ones_are_reported(folder):
    plain = correspondence(folder / "evaluation", DATASETS, PredictorName.parse("attention all"))
    assert plain["a-seed0", 10]["px"] == pytest.approx(15)
    with pytest.raises(UserError, match="'feature 3' was not measured: choose from attention all, attent"):
        correspondence(folder / "evaluation", DATASETS, PredictorName.parse("feature 3"))
    for text in ("attention", "feature some", "feature 0/3", "feature 2/"):
        with pytest.raises(UserError, match=f"--predictor='{text}' must be a predictor and its layer"):
            PredictorName.parse(text)


def test_pooled_results_are_printed(folder):
    run = ["muskie_jax.sweeps.pooled", "--workdir", folder / "evaluation"]
    done = run_in_process(*run, f"--predictor={' '.join(REFINED)}")
    lines = done.stdout.splitlines()
    assert lines[0] == "| model | step | mean error, px | points within 10 px, % |"
    assert any(line.startswith("| a-seed0 | 10 | 12.0 | ") for line in lines), done.stdout
    assert "'feature 3' was not measured" in complaint_of(run_in_process(*run, "--predictor=feature 3"))


def test_layers_may_be_fractions_of_the_depth():
    name = PredictorName.parse("feature+refined 5/6")
    assert [name.layer_of(depth) for depth in (2, 3, 6, 12)] == ["2", "2", "5", "10"]
    assert PredictorName.parse("feature 4").layer_of(6) == "4" and REFINED.layer_of(6) == "all"


def test_predictor_of_a_fraction_is_found_among_layers(folder):
    """Layers of a result count; there is no attention of a numbered layer."""
    (folder / "layers").mkdir()
    units = read(folder / "evaluation")
    labels = {"predictor": "feature+refined", "protocol": "targets", "angle": "all", "points": "all"}
    for unit in units:
        rows = [ResultRow(labels | {"layer": n}, {"px_ate": n, "px_10": 0, "pairs": 1}) for n in (1, 2, 3)]
        append(folder / "layers/results.jsonl", unit._replace(rows=tuple(rows)))
    found = correspondence(folder / "layers", DATASETS, PredictorName.parse("feature+refined 5/6"))
    assert found["a-seed0", 10]["px"] == 2


def test_fraction_counts_all_layers_of_the_network_not_only_measured_ones(folder):
    (folder / "layers").mkdir()
    row = ResultRow(
        {
            "predictor": "feature+refined",
            "protocol": "targets",
            "angle": "all",
            "points": "all",
            "layer": 5,
        },
        {"px_ate": 7, "px_10": 0, "pairs": 1},
    )
    for unit in read(folder / "evaluation"):
        model = unit.model._replace(layers=6)
        append(folder / "layers/results.jsonl", unit._replace(model=model, rows=(row,)))
    found = correspondence(folder / "layers", DATASETS, PredictorName.parse("feature+refined 5/6"))
    assert found["a-seed0", 10]["px"] == 7


def test_summaries_survive_a_file(folder):
    summaries = summarise(folder, {"a": 10, "b": 20}, range(2), DATASETS, REFINED)
    write_summaries(folder / "summaries.json", summaries, REFINED)
    assert read_summaries(folder / "summaries.json") == ("attention+refined all", summaries)
    (folder / "summaries.json").write_text("{}")
    with pytest.raises(UserError, match="is not a summary of an experiment: run muskie experiment"):
        read_summaries(folder / "summaries.json")


def test_minutes_at_steps_include_compilation(tmp_path):
    run = tmp_path / "a-seed0"
    add_training(tmp_path, run.name, 20, 0.1, [200])
    rows = [{"step": 10, "train/seconds_per_step": 6.0}, {"step": 20, "train/seconds_per_step": 9.0}]
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    assert minutes_at_steps(run) == pytest.approx({10: 50 / 60 + 1, 20: 50 / 60 + 2.5})
    (tmp_path / "trainings.jsonl").unlink()
    assert minutes_at_steps(run) == pytest.approx({10: 1, 20: 2.5})
    assert minutes_at_steps(tmp_path) == {}


def test_minutes_count_starts_of_a_killed_experiment(tmp_path):
    add_training(tmp_path, "a-seed0", 20, 0.1, [60])
    starts = [{"began": 1000.0, "recorded": 1120.0}, {"began": 2000.0, "recorded": 2058.0}]
    (tmp_path / "a-seed0/goodput.json").write_text(json.dumps(starts))
    assert wall_minutes(tmp_path) == pytest.approx({"a-seed0": 178 / 60})
    (tmp_path / "a-seed0/goodput.json").write_text(json.dumps(starts[1:]))
    assert wall_minutes(tmp_path) == {"a-seed0": 1.0}, "with the start and the end of the process"


def test_damaged_lines_are_left_out_of_minutes(tmp_path):
    run = tmp_path / "a-seed0"
    add_training(tmp_path, run.name, 20, 0.1, [200])
    rows = [{"step": 10, "train/seconds_per_step": 6.0}, {"step": 15, "train/seconds_per_step": None}]
    with (run / "metrics.jsonl").open("ab") as file:
        for row in rows:
            file.write(json.dumps(row).encode() + b"\n")
        file.write(b'[10]\n{"train/seconds_per_step": 1}\n{"step": "x", "train/seconds_per_step": 1}\n')
        file.write(b'{"step": 20, "tra')
    with (tmp_path / "trainings.jsonl").open("ab") as file:
        file.write(b'{"name": "a-seed0", "seconds": "x"}\n{"name": "a-\xff", "sec\n3\n{"name": "a-seed0"')
    assert wall_minutes(tmp_path) == pytest.approx({"a-seed0": 200 / 60})
    assert minutes_at_steps(run) == pytest.approx({10: 200 / 60})


# --- Outcomes of the task "reconstruct" ---------------------------------------------------------------

KINDS = {"rooms": ROOMS, "kitchen": RECORDINGS, "desk": RECORDINGS}


def add_geometry(folder, model, step, dataset, pairs, auc, l1=None, groups=2):
    values = {"auc_5": auc / 10, "auc_15": auc / 2, "auc_30": auc, "view_pairs": pairs}
    values |= {"point_groups": 0} if l1 is None else {"l1_mean": l1, "point_groups": groups}
    setting = {"dataset": dataset, "views": 4, "height": 128, "width": 128}
    info = ModelInfo(model, "muskie", step, f"runs/{model}")
    row = ResultRow({"dataset": dataset}, values)
    unit = ResultUnit(f"geometry {model} {step} {dataset}", info, "geometry", setting, (row,))
    (folder / "evaluation").mkdir(exist_ok=True)
    append(folder / "evaluation/results.jsonl", unit)


def finish(folder, name, step=10):
    (folder / name).mkdir()
    (folder / name / "metrics.jsonl").write_text(json.dumps({"step": step, "evaluation/loss": 1.0}) + "\n")


@pytest.fixture
def reconstructions(tmp_path):
    """Run a with two seeds, run b with one that was not evaluated on the recordings yet."""
    for name in ("a-seed0", "a-seed1", "b-seed0"):
        finish(tmp_path, name)
        add_geometry(tmp_path, name, 10, "rooms", 60, 40.0 if name == "a-seed0" else 44.0, 0.05)
    for name in ("a-seed0", "a-seed1"):
        add_geometry(tmp_path, name, 10, "kitchen", 30, 20.0, 0.1, groups=1)
        add_geometry(tmp_path, name, 10, "desk", 10, 60.0, 0.4, groups=3)
    for dataset in KINDS:
        add_geometry(tmp_path, "did not move", None, dataset, 60, 3.0, 0.5)
    return tmp_path


def test_cameras_and_points_are_pooled_by_kind_of_data(reconstructions):
    found = geometry(reconstructions / "evaluation", KINDS)
    assert found.keys() == {("a-seed0", 10), ("a-seed1", 10), ("did not move", None)}
    first = found["a-seed0", 10]
    assert first["rooms_auc_30"] == 40 and first["recordings_auc_30"] == pytest.approx(30)
    assert first["recordings_auc_5"] == pytest.approx(3), "three quarters of the pairs have 2"
    assert first["recordings_l1_mean"] == pytest.approx(0.325), "three quarters of the groups have 0.4"


def test_the_table_of_reconstructions_has_rooms_recordings_and_the_baseline(reconstructions):
    summaries = summarise(reconstructions, {"a": 10, "b": 10}, range(2), KINDS, REFINED)
    head, _, a, b, still = markdown_table(summaries).splitlines()
    assert head.startswith("| run | seeds | rooms: AUC@5° | rooms: AUC@15° | rooms: AUC@30° | rooms: L1 of")
    assert "| recordings: AUC@30° | recordings: L1 of points, m |" in head and "minutes" not in head
    assert a.startswith("| a | 2 | 4.2 ± 0.3 | 21.0 ± 1.4 | 42.0 ± 2.8 | 0.050 ± 0.000 | 3.0 ± 0.0 |")
    assert a.endswith("| 0.325 ± 0.000 |") and b == f"| b | 0 |{'  |' * 8}"
    assert still == "| did not move |  | 0.3 | 1.5 | 3.0 | 0.500 | 0.3 | 1.5 | 3.0 | 0.500 |"
    write_summaries(reconstructions / "summaries.json", summaries, REFINED)
    assert read_summaries(reconstructions / "summaries.json")[1] == summaries


def test_without_recordings_the_table_has_rooms_alone(reconstructions):
    summaries = summarise(reconstructions, {"a": 10, "b": 10}, range(2), {"rooms": ROOMS}, REFINED)
    head, _, _, b, _ = markdown_table(summaries).splitlines()
    assert "recordings" not in head and b == "| b | 1 | 4.4 | 22.0 | 44.0 | 0.050 |"


def test_groups_without_depth_have_cameras_alone(tmp_path):
    finish(tmp_path, "a-seed0")
    add_geometry(tmp_path, "a-seed0", 10, "rooms", 60, 40.0)
    (summary,) = summarise(tmp_path, {"a": 10}, range(1), {"rooms": ROOMS}, REFINED)
    assert summary.mean("rooms_auc_30") == 40 and summary.mean("rooms_l1_mean") is None


def test_figure_of_reconstructions_draws_what_was_measured(reconstructions):
    summaries = summarise(reconstructions, {"a": 10, "b": 10}, range(2), KINDS, REFINED)
    write_summaries(reconstructions / "summaries.json", summaries, REFINED)
    command = ["muskie_jax.sweeps.figure", "--workdir", reconstructions, "--out", reconstructions / "a.svg"]
    command += ["--config", "configs/reconstruct_backbones.py"]
    done = run_in_process(*command)
    assert done.returncode == 0, done.stderr
    text = (reconstructions / "a.svg").read_text()
    assert ">Recordings: AUC@30°<" in text and ">30.0 ± 0.0<" in text and "correspondence by" not in text
    done = run_in_process(*command, "--measure=px")
    assert "--measure=px was not measured: choose from rooms_auc_5, " in complaint_of(done)
    assert (
        verdict(summary("did not move", 3.0), summary("a", 4.0), "rooms_auc_30")[0] == "\N{MINUS SIGN}1.0"
    )
    worse = verdict(summary("b", 0.5, 0.51), summary("a", 0.4, 0.41), "recordings_l1_mean")
    assert worse == ("+0.100, worse", "worse")


# --- Pictures ----------------------------------------------------------------------------------------


def summary(name, *values):
    return Summary(name, {measure: list(values) for measure in ALL_MEASURES})


def test_verdicts_compare_differences_with_the_deviation_of_seeds():
    base = summary("base", 50.0, 52.0)
    assert verdict(summary("a", 60.0, 61.0), base, "px_10") == ("+9.5, better", "better")
    assert verdict(summary("a", 60.0, 61.0), base, "px") == ("+9.5, worse", "worse")
    assert verdict(summary("a", 40.0, 41.0), base, "px_10") == ("\N{MINUS SIGN}10.5, worse", "worse")
    assert verdict(summary("a", 51.0, 53.0), base, "px_10") == ("+1.0, no clear difference", "")
    assert verdict(summary("a", 60.0), base, "px_10") == ("+9.0, one seed", "")


def test_comparison_has_a_row_per_run_with_values(tmp_path):
    questions = [Question("Masks", "all", ("a", "missing")), Question("Nothing", "", ("missing",))]
    svg = comparison_svg(
        questions, [summary("base", 50.0, 52.0), summary("a", 60.0, 61.0)], "px_10", "note <1>"
    )
    for text in ("Masks", "base: all", "51.0 ± 1.4", "60.5 ± 0.7", "+9.5, better", "note &lt;1&gt;"):
        assert f">{text}<" in svg, text
    assert ">missing<" not in svg and ">Nothing<" not in svg and svg.count("seed") == 1 + 4
    curve = time_curve_svg({"run": [(1.0, 20.0), (2.0, 40.0)]}, {"still": 11.4}, "px_10", "note")
    for text in (">run<", ">still: 11.4<", "minutes of training", ">note<"):
        assert text in curve, text


def test_lines_of_deviations_end_within_the_plot():
    svg = comparison_svg([], [summary("base", 2.0, 5.0, 5.0)], "px_10", "")
    lines = [each for each in ElementTree.fromstring(svg).iter() if each.get("class") == "curve"]
    (line,) = lines
    start, end = (float(line.get(key, "nan")) for key in ("x1", "x2"))
    assert 170 <= start < end <= 560


def test_figure_command_draws_experiments_and_curves(folder):
    summaries = summarise(folder, {"a": 10, "b": 20}, range(2), DATASETS, REFINED)
    write_summaries(folder / "summaries.json", summaries, REFINED)
    command = ["muskie_jax.sweeps.figure", "--workdir", folder, "--out", folder / "a.svg"]
    done = run_in_process(*command, "--config", "configs/controls.py", "--measure=px")
    assert done.returncode == 0, done.stderr
    text = (folder / "a.svg").read_text()
    assert ">32.0<" in text and "attention+refined all" in text
    done = run_in_process(*command, "--config", "configs/controls.py", "--measure=pix")
    assert "--measure: 'pix' is not a valid value; did you mean 'px'" in complaint_of(done)
    curve = [*command[:2], folder / "evaluation", f"--predictor={' '.join(REFINED)}"]
    curve += ["--out", folder / "b.svg"]
    done = run_in_process(*curve)
    assert "has no two checkpoints of a run with metrics.jsonl: evaluate it" in complaint_of(done)
    (folder / "a-seed0/metrics.jsonl").write_text(
        "".join(json.dumps({"step": step, "train/seconds_per_step": 6.0}) + "\n" for step in (5, 10))
    )
    for dataset in DATASETS:
        add_result(folder / "evaluation", "a-seed0", 5, dataset, 100, attention_refined=30)
    results = folder / "evaluation/results.jsonl"
    results.write_text(results.read_text().replace("runs/a-seed0", str(folder / "a-seed0")))
    done = run_in_process(*curve, "--levels=SIFT=40.5")
    assert done.returncode == 0, done.stderr
    text = (folder / "b.svg").read_text()
    assert ">a-seed0<" in text and ">SIFT: 40.5<" in text and ">did not move: 60<" in text
    assert "a-seed0: 88 at 1.5" in text, "three quarters of the pairs have 90%, after 1.5 minutes in all"
    assert "'SIFT', which must be a name and a number" in complaint_of(
        run_in_process(*curve, "--levels=SIFT")
    )
    done = run_in_process(*command[:-1], folder / "a.png")
    assert "must be a file whose name ends with .svg" in complaint_of(done)


# --- The command -------------------------------------------------------------------------------------

SWEEP = """
from muskie_jax.config import default_config, synthetic
from muskie_jax.sweeps import choose, override


def sweep():
    return {"base": {}, "muon": {"optim.name": "muon"}}


def get_config(arg=None):
    _, overrides = choose(arg, sweep())
    config = default_config()
    config.model.update(variant="nano", dtype="float32")
    config.sources.rooms = synthetic()
    config.data.workers = 0
    config.batch.update(groups=2, views=2, reuse=1, passes=1)
    config.buckets.update(resolutions=(((32, 32),),), views=(2,))
    config.mask.num_reference = 1
    config.duration, config.optim.warmup = "3 steps", "1 steps"
    config.evaluation.update(every=0, groups=2, size=(32, 32), views=2, pictures=0)
    config.log.update(every=1, tensorboard=False)
    return override(config, overrides)
"""
EVALUATION = """
from muskie_jax.config import default_config, posed


def get_config(arg=None):
    config = default_config()
    config.job = "evaluate"
    config.posed.rooms = posed("synthetic", groups=2)
    config.evaluate.update(models=("untrained:nano",), sizes=((32, 32),), views=(2,), points=9)
    return config
"""
# Does what a training or an evaluation leaves behind, and appends its arguments to a file.
FAKE = """
import json, os, pathlib, sys
arguments = dict(zip(sys.argv[3::1], sys.argv[4::1]))
workdir = pathlib.Path(arguments["--workdir"])
gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
with open(os.environ["CALLS"], "a") as file: file.write(json.dumps([gpu, sys.argv[3:]]) + "\\n")
print("first line"); print("the reason")
if os.environ.get("FAILS", "nothing") in workdir.name: sys.exit(2)
if workdir.name != "evaluation":
    (workdir / "checkpoints/3").mkdir(parents=True, exist_ok=True)
    mse = None if os.environ.get("RUINS", "nothing") in workdir.name else 0.1
    row = {"step": 3, "evaluation/mse": mse, "evaluation/loss": mse, "evaluation/baseline_mse": 0.2}
    (workdir / "metrics.jsonl").write_text(json.dumps(row))
"""


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """Runs the command with a fake trainer; returns the result and the calls of the trainer."""
    for name, text in (("sweep.py", SWEEP), ("evaluation.py", EVALUATION), ("fake.py", FAKE)):
        (tmp_path / name).write_text(text)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path / "fake.py"} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(job_queue, "POLL_SECONDS", 0.02)

    def run(*arguments):
        calls = tmp_path / "calls"
        calls.write_text("")
        monkeypatch.setenv("CALLS", str(calls))
        common = ["--config", tmp_path / "sweep.py", "--workdir", tmp_path / "runs"]
        if not any(str(argument).startswith("--recordings") for argument in arguments):
            common += ["--evaluation", tmp_path / "evaluation.py"]
        done = run_in_process("muskie_jax.sweeps.experiment", *common, *arguments)
        return done, [json.loads(line) for line in calls.read_text().splitlines()]

    return run


def test_all_trainings_run_once_and_are_evaluated_together(experiment, tmp_path):
    done, calls = experiment("--seeds=2", "--gpus=0,1", "--config.model.registers=2")
    assert done.returncode == 0, done.stderr
    *trainings, (gpu, evaluation) = calls
    names = [f"{run}-seed{seed}" for seed in (0, 1) for run in ("base", "muon")]
    settings = [
        ["--config", f"{tmp_path}/sweep.py:{name.split('-')[0]}", "--workdir", f"{tmp_path}/runs/{name}",
         "--stopped_exit_code=75", f"--config.seed={name[-1]}", "--config.model.registers=2"]
        for name in names
    ]  # fmt: skip
    assert sorted(arguments for _, arguments in trainings) == sorted(settings)
    assert {gpu for gpu, _ in trainings} == {"0", "1"} and gpu == "0"
    (models,) = [word for word in evaluation if word.startswith("--config.evaluate.models=")]
    assert all(f"'{tmp_path}/runs/{name}'" in models for name in names)
    (layers,) = [word for word in evaluation if word.startswith("--config.evaluate.layers=")]
    assert layers.endswith("=(2,)"), "of three layers, only the one of the predictor"
    assert "| base | 2 | 0.0 ± 0.0 | 50.0 ± 0.0 |  |  |" in done.stdout
    assert (tmp_path / "runs/table.md").read_text() == done.stdout
    done, calls = experiment("--seeds=2", "--gpus=0,1")
    assert len(calls) == 1 and "4 trainings, 0 to do" in done.stderr, "only the evaluation, which resumes"
    done, calls = experiment("--seeds=3", "--runs=muon")
    assert calls[0][1][3].endswith("/muon-seed2")
    done, calls = experiment("--only_table")
    assert calls == [] and "| muon | 3 |" in done.stdout
    before = (tmp_path / "runs/table.md").read_text()
    done, _ = experiment("--only_table", "--runs=base")
    assert "muon" not in done.stdout and (tmp_path / "runs/table.md").read_text() == before
    done, _ = experiment("--only_table", "--config.duration=20 steps")
    assert "no training in " in complaint_of(done), "none has this duration"


@pytest.mark.parametrize("arguments", [[], ["--only_table"]])
def test_trainings_of_other_settings_are_refused(experiment, tmp_path, arguments):
    """Their results would be in the table of the settings that are wanted."""
    trained = load_config(f"{tmp_path}/sweep.py:muon")
    trained.seed = 1
    state = TrainState(jnp.int32(3), {"kernel": jnp.ones((8, 4))}, ())
    checkpoints = Checkpointer(tmp_path / "runs/muon-seed1", keep=1)
    checkpoints.save(state, trained)
    checkpoints.close()
    done, calls = experiment("--seeds=2", *arguments, "--config.optim.learning_rate=1e-5")
    expected = f"{tmp_path}/runs/muon-seed1 was trained with other settings (config.optim.learning_rate was"
    assert expected in complaint_of(done) and calls == []
    done, calls = experiment("--seeds=2", "--config.data.workers=1")
    assert done.returncode == 0 and "4 trainings, 4 to do" in done.stderr, "not evaluated yet"


def test_failed_training_is_reported_after_the_table_of_the_others(experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("FAILS", "muon")
    done, calls = experiment("--seeds=1")
    assert done.returncode == 2 and "| base | 1 |" in done.stdout and "muon" not in done.stdout
    assert "muon-seed0: FAILED: the reason" in done.stderr
    assert "error: not complete: muon-seed0: see logs/*.txt there" in done.stderr
    assert len(calls) == 3 and "muon" not in calls[-1][1][3]


def test_a_training_that_ends_in_a_ruined_network_is_not_complete(experiment, monkeypatch):
    monkeypatch.setenv("RUINS", "base")
    done, calls = experiment("--seeds=1")
    assert done.returncode == 2 and "not complete: base-seed0: see" in done.stderr
    assert "  base-seed0: FAILED: the reason, after" in done.stderr
    assert "| muon | 1 |" in done.stdout and "base" not in done.stdout and len(calls) == 3
    assert "base" not in next(word for word in calls[-1][1] if "evaluate.models" in word)
    monkeypatch.delenv("RUINS")
    done, calls = experiment("--seeds=1")
    assert len(calls) == 2 and "| base | 1 |" in done.stdout


def test_files_that_cannot_be_written_are_one_line(experiment, tmp_path):
    (tmp_path / "runs/trainings.jsonl").mkdir(parents=True)
    (tmp_path / "runs/table.md").mkdir()
    done, calls = experiment("--seeds=1", "--runs=base")
    assert len(calls) == 2 and "base-seed0: its time is not recorded ([Errno 21]" in done.stderr
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        "error: the experiment ended ([Errno 21] Is a directory: "
    )


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--config.seed=3"], "--config.seed is set by --seeds: leave it out"),
        (["--runs=moun"], "sweep.py: 'moun' is not a valid value; did you mean 'muon'?"),
        (["--predictor=attention"], "--predictor='attention' must be a predictor and its layer, such as"),
        (["--recordings=/nowhere"], "--recordings=/nowhere is not a folder"),
        (["--only_table"], "no training in "),
        (["--config.optim.b1=2.0"], "run 'base': config.optim.b1=2.0 must be from 0 to below 1"),
    ],
)
def test_mistakes_are_reported_before_anything_runs(experiment, arguments, expected):
    done, calls = experiment(*arguments)
    assert expected in complaint_of(done) and calls == []


RECONSTRUCT = ["--config.task=reconstruct", "--runs=base"]


def test_networks_with_a_decoder_are_evaluated_by_geometry(experiment, tmp_path):
    (tmp_path / "sequences").mkdir()
    done, calls = experiment(*RECONSTRUCT, "--seeds=1", f"--recordings={tmp_path / 'sequences'}")
    assert done.returncode == 0, done.stderr
    _, evaluation = calls[-1]
    assert "--config.evaluate.evaluators=('geometry',)" in evaluation
    assert evaluation[1] == str(ROOT / "configs/evaluate.py:geometry_recordings")
    assert f"--config.data.root={tmp_path / 'sequences'}" in evaluation
    _, calls = experiment("--seeds=1", "--runs=base", f"--recordings={tmp_path / 'sequences'}")
    assert calls[-1][1][1] == str(ROOT / "configs/evaluate.py:recordings")


def test_backbones_of_every_seed_must_exist_before_anything_runs(experiment, tmp_path):
    (tmp_path / "backbone-0.safetensors").touch()
    path = f"--config.reconstruct.backbone={tmp_path}/backbone-{{seed}}.safetensors"
    done, calls = experiment(*RECONSTRUCT, "--seeds=2", path)
    expected = f"run 'base' with seed 1 starts from the weights {tmp_path}/backbone-1.safetensors, which do"
    assert expected in complaint_of(done) and calls == []
    done, calls = experiment(*RECONSTRUCT, "--seeds=1", path)
    assert done.returncode == 0 and len(calls) == 2


def test_runs_of_two_tasks_are_refused(experiment, tmp_path):
    sweep = (tmp_path / "sweep.py").read_text()
    (tmp_path / "sweep.py").write_text(sweep.replace('{"optim.name": "muon"}', '{"task": "reconstruct"}'))
    done, calls = experiment()
    assert "runs of one experiment must have one config.task" in complaint_of(done) and calls == []


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("1 +", "SyntaxError: invalid syntax (broken.py, line 1)"),
        ("def get_config():\n    raise KeyError('a')", "KeyError: a"),
        ("def get_config():\n    raise ValueError('b')", "b"),
    ],
)
def test_a_config_file_that_raises_is_one_line_for_both_flags(experiment, tmp_path, text, expected):
    broken = tmp_path / "broken.py"
    broken.write_text(text + "\n")
    done, calls = experiment("--evaluation", broken)
    message = f"the config could not be loaded: {expected}"
    assert complaint_of(done) == f"error: --evaluation={broken}: {message}" and calls == []
    assert complaint_of(experiment("--config", broken)[0]) == f"error: {message}"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("x = 1", "the config file has no get_config(): define one as in configs/quickstart.py"),
        ("def get_config():\n    pass", "get_config() returned None: return a config"),
    ],
)
def test_an_evaluation_without_a_config_is_one_line(experiment, tmp_path, text, expected):
    (tmp_path / "broken.py").write_text(text + "\n")
    done, _ = experiment("--evaluation", tmp_path / "broken.py")
    assert complaint_of(done) == f"error: --evaluation={tmp_path / 'broken.py'}: {expected}"


@pytest.mark.slow
def test_experiment_of_backbones_measures_cameras_and_points(tmp_path):
    """Trains and evaluates a real network, three updates on two views of 32x32."""
    for name, text in (("sweep.py", SWEEP), ("evaluation.py", EVALUATION)):
        (tmp_path / name).write_text(text)
    command = ["muskie_jax.sweeps.experiment", "--config", tmp_path / "sweep.py", "--seeds=1", *RECONSTRUCT]
    command += ["--workdir", tmp_path / "runs", "--evaluation", tmp_path / "evaluation.py"]
    done = run_module(*command, XLA_FLAGS=xla_flags(1))
    assert done.returncode == 0, done.stderr
    head, _, base, still = done.stdout.splitlines()
    assert head.startswith("| run | seeds | minutes | rooms: AUC@5° |")
    assert base.startswith("| base | 1 |") and still.startswith("| did not move |  |  |")
    assert all(cell.strip() for cell in base.strip("| ").split("|"))


@pytest.mark.slow
def test_a_toy_experiment_from_the_command_line(tmp_path):
    for name, text in (("sweep.py", SWEEP), ("evaluation.py", EVALUATION)):
        (tmp_path / name).write_text(text)
    command = ["muskie_jax.sweeps.experiment", "--config", tmp_path / "sweep.py", "--seeds=1"]
    command += ["--workdir", tmp_path / "runs", "--evaluation", tmp_path / "evaluation.py"]
    done = run_module(*command, XLA_FLAGS=xla_flags(1))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| base", "| muon", "| did not move"]
    assert all(cell.strip() for cell in lines[2].strip("| ").split("|"))


def test_recordings_are_evaluated_as_the_protocol_says():
    config = load_config(ROOT / "configs/evaluate.py:recordings")
    assert len(config.posed) == 5 and {each.groups for each in config.posed.values()} == {12}
    evaluate = config.evaluate
    assert (evaluate.sizes, evaluate.views, evaluate.protocols) == (((128, 128),), (4,), ("targets",))
