"""launch/sweep.sh with a fake Python and a fake SLURM: which runs it starts, how, and when it stops."""

import ast
import os
import re
import signal
import subprocess

import pytest

from muskie_tests.launched import ROOT, TRAINER, Project, commands

SWEEP = ["configs/photos.py", "--workdir", 'runs/it\'s "mine"\\new']
FOLDER = SWEEP[-1]
SETTINGS = [
    "--config.duration=50_000 steps", "--config.buckets.views=(2, 4)", "--config.seed", "1",
    '--config.sources.photos.glob=*/"images"/$HOME/`id`\\*;&|<>#~!{a,b}?',
]  # fmt: skip
RUNS = "base waiting\nrandom waiting\nviews_1 waiting"
TASK = {"SLURM_JOB_ID": "79", "SLURM_ARRAY_JOB_ID": "77", "SLURM_GPUS_ON_NODE": "1"}


@pytest.fixture
def project(tmp_path):
    project = Project(tmp_path)
    (project.programs / "python").symlink_to(project.programs / "stand_in")  # dry runs make no .venv
    yield project
    project.end()


def arguments(name, config="configs/photos.py"):
    return ["--config", f"{config}:{name}", "--workdir", f"{FOLDER}/{name}"]


def trained(project):
    return [call["arguments"][2:] for call in project.trainings()]


@pytest.mark.parametrize(
    "words, environment, expected",
    [
        (["--workdir", "a"], {}, "--config is missing"),
        (["--workdir=a", "--config.seed=1"], {}, "--config is missing"),
        (["configs/photos.py"], {}, "--workdir is missing"),
        (["configs/photos.py", "--workdir"], {}, "--workdir is missing"),
        (["configs/photos.py", "--workdir=gs://a"], {}, "--workdir=gs://a is a URL: choose a folder"),
        (SWEEP, {"GPUS": "two"}, "GPUS=two must be all, or numbers such as 0 or 0,1"),
        (SWEEP, {"DRY_RUN": "1"}, "run 'base': config.duration is wrong"),
        (SWEEP, {"DRY_RUN": "1", "RUNS": RUNS, "SLURM_ARRAY_TASK_ID": "0"}, "run sbatch --array=1-3"),
        (
            SWEEP,
            {"DRY_RUN": "1", "RUNS": RUNS, "SLURM_ARRAY_TASK_ID": "4"},
            "configs/photos.py has no run 4: run sbatch --array=1-3",
        ),
    ],
)
def test_mistakes_are_reported_in_one_line_before_anything_runs(project, words, environment, expected):
    done = project.run("sweep.sh", *words, **environment)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert expected in done.stderr
    assert project.calls() == [] and not (project.folder / ".venv").exists()


# --- One after the other -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config, separator", [("configs/photos.py", ":"), ("configs/photos.py:packed", ",")]
)
def test_dry_run_prints_waiting_trainings_and_the_evaluation(project, config, separator):
    runs = RUNS.replace("random waiting", "random complete")
    printed = project.dry_run("sweep.sh", config, *SWEEP[1:], *SETTINGS, RUNS=runs, GPUS="0")
    lines = printed.splitlines()
    settings = [f"JAX_COMPILATION_CACHE_DIR={project.cache}", "CUDA_VISIBLE_DEVICES=0"]
    found = commands("\n".join(line for line in lines if not line.startswith("#")))
    assert found == [
        ["env", *settings, *TRAINER, "--stopped_exit_code=75", "--config", f"{config}{separator}{name}",
         "--workdir", f"{FOLDER}/{name}", *SETTINGS]
        for name in ("base", "views_1")
    ]  # fmt: skip
    comments = [line for line in lines if line.startswith("#")]
    assert "# 2/3 random: complete" in comments
    (array,) = commands(comments[0].partition("array: ")[2])
    assert array == ["sbatch", "--array=1-3", "...", "launch/sweep.sh", config, *SWEEP[1:], *SETTINGS]
    (evaluation,) = commands(comments[-1].partition(": ")[2])
    *start, models = evaluation
    assert start == [*TRAINER, "--config", "configs/evaluate.py", "--workdir", f"{FOLDER}/evaluation"]
    flag, _, value = models.partition("=")
    assert flag == "--config.evaluate.models"
    assert ast.literal_eval(value) == (f"{FOLDER}/*", "untrained", "still", "patches")


def test_config_may_be_a_flag(project):
    plain = project.dry_run("sweep.sh", *SWEEP, *SETTINGS, RUNS=RUNS)
    for words in (
        ["--config", SWEEP[0], *SETTINGS, *SWEEP[1:]],
        [f"--config={SWEEP[0]}", f"--workdir={FOLDER}/", *SETTINGS],
    ):
        assert project.dry_run("sweep.sh", *words, RUNS=RUNS) == plain


def test_failed_run_is_reported_and_does_not_stop_the_others(project):
    runs = f"done complete\n{RUNS}"
    done = project.run("sweep.sh", *SWEEP, *SETTINGS, RUNS=runs, EXIT="3", FAILS="/base")
    (listing,) = [call for call in project.calls("python") if call["arguments"][1] == "muskie_jax.sweeps"]
    assert listing["arguments"][2:] == ["--config", *SWEEP, *SETTINGS]
    assert trained(project) == [
        ["--stopped_exit_code=75", *arguments(name), *SETTINGS] for name in ("base", "random", "views_1")
    ]
    environment = project.trainings()[0]["environment"]
    assert environment["JAX_COMPILATION_CACHE_DIR"] == str(project.cache)
    assert done.returncode == 1 and done.stdout == "training\n" * 3
    assert done.stderr.splitlines()[-1].startswith("error: not complete: base (")
    assert "To evaluate them: python -m muskie_jax.main" in done.stderr
    again = project.run("sweep.sh", *SWEEP, RUNS=RUNS.replace("waiting", "complete"))
    assert again.returncode == 0 and len(trained(project)) == 3 and "error" not in again.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_signal_reaches_the_training_once_and_ends_the_sweep(project, number):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child inherits an ignored signal
    try:
        process = project.start("sweep.sh", *SWEEP, RUNS=RUNS, FOREVER="1", SAVING="0.5")
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stdout.readline() == "training\n", process.communicate()
    (call,) = project.trainings()
    assert call["group"] == call["process"] != process.pid, "Ctrl-C would arrive twice"
    process.send_signal(number)
    assert process.wait(timeout=20) == 130
    with pytest.raises(ProcessLookupError):  # the script waited until it had saved
        os.kill(call["process"], 0)
    out, err = process.communicate()
    assert out == "saved\n", err
    assert err.splitlines()[-1] == "stopped in base: the same command goes on from there"
    assert len(trained(project)) == 1


def test_training_that_stops_itself_is_not_complete(project):
    done = project.run("sweep.sh", *SWEEP, RUNS=RUNS, EXIT="75", FAILS="/random")
    assert done.returncode == 1 and len(trained(project)) == 3
    assert "error: not complete: random (" in done.stderr


def test_without_a_gpu_nothing_is_trained_unless_the_cpu_is_requested(project):
    done = project.run("sweep.sh", *SWEEP, RUNS=RUNS, NO_GPU="all")
    assert done.returncode == 2 and trained(project) == []
    assert "error: JAX sees no GPU with GPUS=all: run" in done.stderr
    done = project.run("sweep.sh", *SWEEP, RUNS=RUNS, NO_GPU="all", JAX_PLATFORMS="cpu")
    assert done.returncode == 0 and len(trained(project)) == 3


# --- As a SLURM array --------------------------------------------------------------------------------


def test_sweep_requests_the_same_from_slurm_as_one_training():
    options = [
        [line for line in (ROOT / "launch" / name).read_text().partition("\nset -euo")[0].splitlines()
         if line.startswith("#SBATCH") and "job-name" not in line]
        for name in ("slurm.sbatch", "sweep.sh")
    ]  # fmt: skip
    assert options[0] == options[1] and len(options[0]) == 4


@pytest.mark.parametrize("code, requeued", [(0, False), (75, True), (3, False)])
def test_array_task_trains_its_run_and_requeues_only_itself(project, tmp_path, code, requeued):
    home, project.folder = project.folder, tmp_path / "spool/job79"  # SLURM runs a copy, from elsewhere
    (project.folder / "launch").mkdir(parents=True)
    (project.folder / "launch/sweep.sh").write_text((home / "launch/sweep.sh").read_text())
    task = TASK | {"SLURM_ARRAY_TASK_ID": "2", "SLURM_SUBMIT_DIR": str(home), "RUNS": RUNS}
    done = project.run("sweep.sh", *SWEEP, *SETTINGS, **task, EXIT=str(code))
    assert trained(project) == [
        ["--distributed", "--stopped_exit_code=75", *arguments("random"), *SETTINGS]
    ], done.stderr
    asked = [call["arguments"] for call in project.calls("scontrol")]
    assert asked == ([["requeue", "Incomplete", "77_2"]] if requeued else [])
    assert done.returncode == (0 if requeued else code)


def test_array_task_of_a_complete_run_ends_at_once(project):
    runs = RUNS.replace("random waiting", "random complete")
    done = project.run("sweep.sh", *SWEEP, RUNS=runs, SLURM_ARRAY_TASK_ID="2", **TASK)
    assert done.returncode == 0 and trained(project) == project.calls("srun") == []
    assert done.stderr.splitlines()[-1] == "random is complete"


def test_copy_outside_the_project_is_reported(project, tmp_path):
    script = tmp_path / "elsewhere/launch/sweep.sh"
    script.parent.mkdir(parents=True)
    script.write_text((ROOT / "launch/sweep.sh").read_text())
    done = subprocess.run(
        ["bash", script, *SWEEP], capture_output=True, text=True,
        env=project.environment | {"SLURM_SUBMIT_DIR": "/"},
    )  # fmt: skip
    assert done.returncode == 2
    assert re.fullmatch("error: / is not the project's folder: change to it, .*\n", done.stderr)
