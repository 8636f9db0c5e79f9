"""Experiments: trainings side by side, their evaluation, the table, and pictures."""

import json
import math
import os
import signal
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from conftest import ROOT, xla_flags
from muskie_jax.config_file import load_config
from muskie_jax.errors import UserError
from muskie_jax.evaluators.eval_models import ModelInfo
from muskie_jax.evaluators.results import ResultRow
from muskie_jax.report.results_file import ResultUnit, append, read
from muskie_jax.sweeps import job_queue
from muskie_jax.sweeps.drawing import Question, comparison_svg, time_curve_svg, verdict
from muskie_jax.sweeps.job_queue import Job, run_jobs
from muskie_jax.sweeps.outcomes import (
    MEASURES,
    Summary,
    correspondence,
    markdown_table,
    minutes_at_steps,
    read_summaries,
    summarise,
    write_summaries,
)
from muskie_jax.sweeps.predictor import PredictorName
from muskie_tests.commands import complaint_of, run_in_process, run_module

REFINED = PredictorName.parse("attention+refined all")

# --- The queue ---------------------------------------------------------------------------------------


def job(tmp_path, name, code):
    return Job(name, (sys.executable, "-c", code), tmp_path / f"logs/{name}.txt")


def run_all(jobs, gpus):
    started, ended = [], {}
    stopped = run_jobs(
        jobs,
        gpus,
        lambda job, gpu: started.append((job.name, gpu)),
        lambda end: ended.__setitem__(end.job.name, end.status),
    )
    return started, ended, stopped


@pytest.mark.parametrize("gpus, memory", [(["0", "3"], "all"), (["3", "3"], "0.45")])
def test_jobs_run_side_by_side_each_on_its_gpu(tmp_path, monkeypatch, gpus, memory):
    """Either job waits for the other's file, so they must run at the same time."""
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    code = """
        import os, pathlib, time
        folder, name = pathlib.Path({folder!r}), {name!r}
        memory = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "all")
        (folder / name).write_text(os.environ["CUDA_VISIBLE_DEVICES"] + " " + memory)
        while not (folder / {other!r}).exists(): time.sleep(0.01)
    """
    jobs = [
        job(tmp_path, name, textwrap.dedent(code).format(folder=str(tmp_path), name=name, other=other))
        for name, other in (("a", "b"), ("b", "a"))
    ]
    started, ended, stopped = run_all(jobs, gpus)
    assert started == [("a", gpus[0]), ("b", gpus[1])] and ended == {"a": 0, "b": 0} and not stopped
    assert [(tmp_path / name).read_text() for name in "ab"] == [f"{gpu} {memory}" for gpu in gpus]


def test_failing_job_does_not_stop_the_others_and_one_gpu_runs_one_at_a_time(tmp_path):
    record = f"import sys, time; f = open({str(tmp_path / 'order')!r}, 'a'); "
    steps = "f.write(sys.argv[0] and '<'); f.flush(); time.sleep(0.2); f.write('>'); f.flush(); "
    jobs = [
        job(tmp_path, "bad", f"{record}{steps}print('a reason'); sys.exit(3)"),
        job(tmp_path, "good", record + steps),
    ]
    started, ended, stopped = run_all(jobs, [""])
    assert started == [("bad", ""), ("good", "")] and ended == {"bad": 3, "good": 0} and not stopped
    assert (tmp_path / "order").read_text() == "<><>"
    assert (tmp_path / "logs/bad.txt").read_text() == "a reason\n"


def test_signal_reaches_running_jobs_and_no_further_job_starts(tmp_path):
    ready = tmp_path / "ready"
    saves = f"""
        import pathlib, signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: (print("saved"), sys.exit(75)))
        pathlib.Path({str(ready)!r}).touch()
        time.sleep(60)
    """
    jobs = [job(tmp_path, "first", textwrap.dedent(saves)), job(tmp_path, "second", "print()")]

    def interrupt():
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    threading.Thread(target=interrupt).start()
    started, ended, stopped = run_all(jobs, [""])
    assert stopped and started == [("first", "")] and ended == {"first": 75}
    assert (tmp_path / "logs/first.txt").read_text() == "saved\n"
    assert signal.getsignal(signal.SIGINT) == before


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


def test_the_table_of_reconstructions_has_their_losses(tmp_path):
    for seed, points in enumerate((0.2, 0.4)):
        folder = tmp_path / f"a-seed{seed}"
        folder.mkdir()
        row = {"loss": 1.0, "points": points, "translation": 0.01, "rotation": math.pi / 18}
        row = {f"evaluation/{name}": value for name, value in row.items()} | {"step": 10}
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    summaries = summarise(tmp_path, {"a": 10}, range(2), DATASETS, REFINED)
    assert markdown_table(summaries).splitlines() == [
        "| run | seeds | minutes | loss of points | loss of translations | error of rotations, degrees |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| a | 2 |  | 0.3000 ± 0.1414 | 0.0100 ± 0.0000 | 10.0 ± 0.0 |",
    ]
    write_summaries(tmp_path / "summaries.json", summaries, REFINED)
    assert read_summaries(tmp_path / "summaries.json")[1] == summaries


DATASETS = ("kitchen", "desk")


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
    found = correspondence(evaluation, (*DATASETS, "rooms"), REFINED)
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


# --- Pictures ----------------------------------------------------------------------------------------


def summary(name, *values):
    return Summary(name, {measure: list(values) for measure in MEASURES})


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
    (workdir / "checkpoints/3").mkdir(parents=True)
    row = {"step": 3, "evaluation/mse": 0.1, "evaluation/baseline_mse": 0.2}
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


def test_failed_training_is_reported_after_the_table_of_the_others(experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("FAILS", "muon")
    done, calls = experiment("--seeds=1")
    assert done.returncode == 2 and "| base | 1 |" in done.stdout and "muon" not in done.stdout
    assert "muon-seed0: FAILED: the reason" in done.stderr
    assert "error: not complete: muon-seed0: see logs/*.txt there" in done.stderr
    assert len(calls) == 3 and "muon" not in calls[-1][1][3]


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
