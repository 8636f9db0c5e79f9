"""The command line as a user meets it: one line for every mistake, results on standard output."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import pytest

from conftest import write_scene, xla_flags
from muskie_jax.main import keep_compiled_programs

ROOT = pathlib.Path(__file__).parent.parent
SMALL = [
    "--config.model.variant=nano",
    "--config.batch.groups=4",
    "--config.buckets.resolutions=(((32,32),),)",
    "--config.buckets.views=(2,)",
    "--config.mask.num_reference=1",
    "--config.optim.warmup=1 steps",
    "--config.evaluation.groups=4",
    "--config.evaluation.size=(32,32)",
    "--config.evaluation.every=0",
    "--config.log.every=2",
]


def command(*arguments):
    return [sys.executable, "-m", "muskie_jax.main", *map(str, arguments)]


def start(*arguments, **streams):
    environment = os.environ | {"XLA_FLAGS": xla_flags(1)}  # one device, as on a laptop
    return subprocess.Popen(command(*arguments), cwd=ROOT, env=environment, text=True, **streams)


def run(*arguments):
    process = start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def complaint(*arguments):
    """The single line of a run that fails at once."""
    done = run(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--workdir", "{tmp}"], "--config is missing: write --config configs/quickstart.py"),
        (["--config", "configs/quickstart.py"], "--workdir is missing: write --workdir runs/"),
        (["--config", "configs/quikstart.py", "--workdir", "{tmp}"], "configs/quikstart.py"),
        (["--config", "configs/quickstart.py", "--workdir", "{tmp}", "--config.optim.lr=1"], "lr"),
        (["--config", "configs/quickstart.py", "--workdir", "{tmp}", "--config.optim.b1=high"], "high"),
        (["--config", "configs/quickstart.py", "--workdir", "{tmp}", "--config.model.variant=bse"],
         "'base'?"),
        (["--config", "configs/photos.py", "--workdir", "{tmp}"], "write --config.sources.photos.root="),
        (["--config", "configs/photos.py", "--workdir", "{tmp}", "--config.sources.photos.root=/nowhere"],
         "no folder '/nowhere'"),
        (["--config", "configs/photos.py", "--workdir", "{tmp}", "--config.sources.photos.root={tmp}"],
         "no image (.jpg, .jpeg, .png, .webp) matches '*/*'"),
        (["--config", "configs/photos.py", "--workdir", "{tmp}", "--config.sources.photos.rot=x"],
         "no setting 'rot' (in an override of --config). Did you mean"),
        (["--config", "configs/photos.py", "--workdir", "{tmp}", "--config.sources.photos.root=gs://b/x"],
         "config.sources.photos.root='gs://b/x': only packs may have an address"),
        (["--config", "configs/quickstart.py", "--workdir", "{tmp}/file"], "{tmp}/file"),
        (["--config", "configs/quickstart.py", "--workdir", "gs://b/run", "--config.job=plan"],
         "'gs://b/run' is an address: write a path"),
        (["--config", "configs/quickstart.py", "--workdir", "{tmp}", "--num_processes=2"],
         "--num_processes is for one of several processes: write --distributed too"),
        (["--config", "configs/quickstart.py", "--workdir", "{tmp}", "--distributed"],
         "write --coordinator=HOST:PORT --num_processes=N --process_id=I"),
        (["--config", "configs/quickstart.py", "--workdir", "{tmp}", "config.seed=1"],
         "write --config.seed=1"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(tmp_path, arguments, expected):
    (tmp_path / "file").touch()
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    assert expected.format(tmp=tmp_path) in complaint(*filled)


def test_photographs_train_survive_a_kill_and_name_a_bad_file(tmp_path):
    photos, workdir = tmp_path / "photos", tmp_path / "run"
    for number in range(5):
        write_scene(photos / f"scene{number}", 12, number)
    bad = photos / "scene0" / "frame_4.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    arguments = [
        "--config", "configs/photos.py", "--workdir", workdir, *SMALL,
        f"--config.sources.photos.root={photos}", "--config.duration=300 steps",
        "--config.checkpoint.every=20",
    ]  # fmt: skip
    process = start(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 200
    while not any(path.name.isdigit() for path in workdir.glob("checkpoints/*")):
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["job"] == "train" and result["step"] == 300
    assert process.returncode == -signal.SIGKILL and "Continuing from step" in done.stderr
    assert "scene0/frame_4.jpg" in done.stderr and "Skipped" in done.stderr
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert len(losses) == 150 and sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path):
    arguments = ["--config", "configs/quickstart.py", "--workdir", tmp_path, *SMALL,
                 "--config.duration=100000 steps", "--config.checkpoint.every=50000"]  # fmt: skip
    process = start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    told = ""
    while "step 4/" not in told:
        line = process.stderr.readline()
        assert line, told
        told += line
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, told + err
    result = json.loads(out.splitlines()[-1])
    assert result["stopped"] == "SIGINT" and f"Stopped by SIGINT at step {result['step']} of" in out
    assert (tmp_path / "checkpoints" / str(result["step"])).is_dir()
    done = run(
        *arguments[:-2], f"--config.duration={result['step'] + 2} steps", "--config.checkpoint.every=50000"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["step"] == result["step"] + 2


@pytest.mark.parametrize("told", [None, "", "/elsewhere"])
def test_compiled_programs_are_kept_unless_jax_was_told_otherwise(told, tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    if told is not None:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", told)
    try:
        keep_compiled_programs()
        kept = jax.config.jax_compilation_cache_dir
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert kept == (str(tmp_path / "muskie_jax") if told is None else before)
    assert (tmp_path / "muskie_jax").is_dir() == (told is None)
