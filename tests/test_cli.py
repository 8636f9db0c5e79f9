"""The command line: one line for every mistake, results on standard output."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import jax
import pytest

import muskie_jax
from conftest import ROOT, write_scene, xla_flags
from muskie_jax import __main__ as muskie
from muskie_jax import jobs
from muskie_jax.compilation_cache import keep_compiled_programs
from muskie_jax.config import default_config, posed, synthetic
from muskie_jax.errors import UserError
from muskie_tests.commands import complaint_of, run_in_process, run_module
from muskie_tests.runs import SMALL_FLAGS

SMALL = [
    *SMALL_FLAGS,
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


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--workdir", "{tmp}"], "--config is missing: pass --config configs/quickstart.py"),
        (["--config", "configs/quickstart.py"], "--workdir is missing: pass --workdir runs/"),
        (["--config", "configs/quikstart.py", "--workdir", "{tmp}"],
         "no config file 'configs/quikstart.py': pass --config configs/quickstart.py"),
        (["--config", "photos", "--workdir", "{tmp}"],
         "no config file 'photos': pass --config configs/photos.py"),
        (["--config=photo:packed", "--workdir", "{tmp}"],
         "no config file 'photo': pass --config configs/photos.py:packed"),
        (["--config", "{tmp}", "--workdir", "{tmp}"],
         "no config file '{tmp}': pass the path of a Python file, such as one of configs: ablations, "),
        (["--config", "{tmp}/file", "--workdir", "{tmp}"],
         "{tmp}/file is not a Python file: choose one such as configs/quickstart.py"),
        (["--config", "configs/quickstart.py:foo", "--workdir", "{tmp}"],
         "configs/quickstart.py takes no argument: pass --config configs/quickstart.py"),
        (["--config", "configs/quickstart.py", "--workdir", ""],
         "--workdir is empty: pass --workdir runs/my_first"),
        (["--config", "configs/quickstart.py", "--workdir", "{tmp}", "--config.optim.learning_rate=inf"],
         "config.optim.learning_rate=inf must be a finite number"),
        (["--config", "configs/quickstart.py", "--workdir", "{tmp}", "--stopped_exit_code=256"],
         "--stopped_exit_code=256: 256 is not an integer in the range [0, 255]"),
        (["--config", "configs/quickstart.py", "--workdir", "{tmp}", "--distributed",
          "--connect_minutes=nan"], "--connect_minutes=nan must be a finite number"),
        (["--config", "configs/quickstart.py", "--workdir", "{tmp}", "--connect_minutes=5"],
         "--connect_minutes is for one of several processes: pass --distributed too"),
        (["--config", "configs/quickstart.py", "--workdir", "{tmp}", "--distributed",
          "--coordinator=localhost"], "--coordinator=localhost must be HOST:PORT, such as node1:8476"),
        (["--config", "configs/quickstart.py", "--workdir", "{tmp}", "--config.optim.lr=1"], "lr"),
        (["--config", "configs/quickstart.py", "--workdir", "{tmp}", "--config.optim.b1=high"], "high"),
        (["--config", "configs/quickstart.py", "--workdir", "{tmp}", "--config.model.variant=bse"],
         "'base'?"),
        (["--config", "configs/photos.py", "--workdir", "{tmp}"], "pass --config.sources.photos.root="),
        (["--config", "configs/photos.py", "--workdir", "{tmp}", "--config.sources.photos.root=/nowhere"],
         "the folder '/nowhere' does not exist"),
        (["--config", "configs/photos.py", "--workdir", "{tmp}", "--config.sources.photos.root={tmp}"],
         "no image (.jpg, .jpeg, .png, .webp, .tif, .tiff, .bmp"),
        (["--config", "configs/photos.py", "--workdir", "{tmp}", "--config.sources.photos.rot=x"],
         "--config.sources.photos.rot=x: unknown setting 'rot'; did you mean 'root'? (choices: glob, "),
        (["--config", "configs/evaluate.py:scannet", "--workdir", "{tmp}", "--config.posed.scannet.unit=1"],
         "--config.posed.scannet.unit=1: unknown setting 'unit' (choices: check, every, groups, "),
        (["--config", "configs/photos.py", "--workdir", "{tmp}", "--config.batch.groups=eight"],
         "--config.batch.groups=eight must be a whole number (all flags: "),
        (["--config", "configs/photos.py", "--workdir", "{tmp}", "--config.sources.photos.holdout=10%"],
         "--config.sources.photos.holdout=10% must be a number (all flags: "),
        (["--config", "configs/evaluate.py:navi", "--workdir", "{tmp}", "--config.posed.navi.depth_unit=1"],
         "; of the readers of posed data, only these have it: cameras, transforms, colmap, tum"),
        (["--config", "configs/evaluate.py:tum", "--config.posed.yours.depth_unit=mm"],
         "config.posed.yours.depth_unit=mm must be metres per step of the depth maps: 0.001 for"),
        (["--config", "configs/photos.py", "--workdir", "{tmp}", "--config.sources.photos.root=gs://b/x"],
         "config.sources.photos.root='gs://b/x' is a URL, but only packs are read from URLs"),
        (["--config", "configs/quickstart.py", "--workdir", "{tmp}/file"], "{tmp}/file"),
        (["--config", "configs/quickstart.py", "--workdir", "gs://b/run", "--config.job=plan"],
         "'gs://b/run' is a URL, but a local path is needed: mount"),
        (["--config", "configs/quickstart.py", "--workdir", "{tmp}", "--num_processes=2"],
         "--num_processes is for one of several processes: pass --distributed too"),
        (["--config", "configs/quickstart.py", "--workdir", "{tmp}", "config.seed=1"],
         "pass --config.seed=1"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(tmp_path, arguments, expected):
    (tmp_path / "file").touch()
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    assert expected.format(tmp=tmp_path) in complaint_of(run_in_process("muskie_jax.main", *filled))


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (
            ["--config.model.variant=bse"],
            "config.model.variant: 'bse' is not a valid value; did you mean 'base'? (",
        ),
        (["--distributed"], "needs --coordinator=HOST:PORT --num_processes=N --process_id=I"),
    ],
)
def test_mistakes_are_one_line_in_a_process_of_their_own(tmp_path, arguments, expected):
    workdir = tmp_path / "run"
    done = run_module("muskie_jax.main", "--config=configs/quickstart.py", "--workdir", workdir, *arguments)
    assert expected in complaint_of(done)
    assert not workdir.exists(), "settings are checked first"


def test_a_file_without_get_config_is_one_line(tmp_path):
    (tmp_path / "empty.py").touch()
    done = run_module("muskie_jax.main", "--config", tmp_path / "empty.py", "--workdir", tmp_path / "run")
    assert complaint_of(done).endswith("has no get_config(): define one as in configs/quickstart.py")


QUICKSTART = ("--config", "configs/quickstart.py", "--workdir", "runs/x")


@pytest.mark.parametrize(
    "override, expected",
    [
        ("--config.sweep.models=('a',)",
         "config.sweep is now config.evaluate: pass --config.evaluate.models=('a',)"),
        ("--config.sweep.share=2/4",
         "config.sweep.share is now config.evaluate.shard: pass --config.evaluate.shard=2/4"),
        ("--config.data.max_bad_share=0.1",
         "config.data.max_bad_share is now config.data.max_bad_fraction: pass "
         "--config.data.max_bad_fraction=0.1"),
        ("--config.sources.rooms.world.photo_texture_share=1",
         "config.sources.rooms.world.photo_texture_share is now "
         "config.sources.rooms.world.photo_texture_fraction: pass "
         "--config.sources.rooms.world.photo_texture_fraction=1"),
    ],
)  # fmt: skip
def test_overrides_of_renamed_settings_name_the_new_ones(override, expected):
    done = run_in_process("muskie_jax.main", *QUICKSTART, override)
    assert complaint_of(done) == f"error: {expected}"


@pytest.mark.parametrize(
    "line, expected",
    [
        ("config.sweep.models = ('a',)", "config.sweep is now config.evaluate"),
        ("config.sweep = {}", "config.sweep is now config.evaluate"),
        ("config.data.max_bad_share = 0.1",
         "config.data.max_bad_share is now config.data.max_bad_fraction"),
        ("config.data.update(max_bad_share=0.1)",
         "config.data.max_bad_share is now config.data.max_bad_fraction"),
        ("config.sources.rooms = synthetic(photo_texture_share=1.0)",
         "synthetic(): photo_texture_share is now photo_texture_fraction"),
    ],
)  # fmt: skip
def test_config_files_with_renamed_settings_name_the_new_ones(tmp_path, line, expected):
    path = tmp_path / "old.py"
    path.write_text(
        "from muskie_jax.config import default_config, synthetic\n"
        f"def get_config():\n    config = default_config()\n    {line}\n    return config\n"
    )
    done = run_in_process("muskie_jax.main", "--config", path, "--workdir", tmp_path / "run")
    reason = complaint_of(done).removeprefix("error: ").removeprefix("the config could not be loaded: ")
    assert reason == expected


@pytest.mark.parametrize(
    "old, new",
    [
        ("muskie_jax.data.synthetic.speed", "muskie_jax.perf.rendering"),
        ("muskie_jax.correspondence.speed", "muskie_jax.perf.correspondence"),
    ],
)
def test_moved_modules_name_the_new_ones(old, new):
    assert complaint_of(run_module(old)) == f"error: {old} has moved: run python -m {new}"
    assert importlib.util.find_spec(new)


# --- The command `muskie` ---------------------------------------------------------------------------


def test_programs_import_only_what_they_use():
    """Data workers import `muskie_jax.main` again."""
    code = (
        "import gc, sys, muskie_jax.main; assert 'jax' not in sys.modules; "
        "from muskie_jax.jobs import load_job; load_job('train'); "
        "assert not {'muskie_jax.evaluate', 'scipy.spatial'} & sys.modules.keys(); "
        "assert gc.isenabled() and gc.get_freeze_count() > 100_000"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_muskie_lists_its_commands_without_importing_jax():
    code = "import sys; from muskie_jax.__main__ import main; main(); assert 'jax' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert listed == list(muskie.COMMANDS)
    assert done.stdout == run_in_process("muskie_jax", "help").stdout


def test_muskie_prints_its_version():
    assert run_in_process("muskie_jax", "--version").stdout == f"muskie_jax {muskie_jax.__version__}\n"


@pytest.mark.parametrize("command", [["train", *QUICKSTART], ["checkpoints"]])
def test_a_platform_without_a_device_is_one_line(tmp_path, command):
    """JAX's error is an AssertionError without a message, of whatever computes first."""
    (tmp_path / "checkpoints").mkdir()
    done = run_module("muskie_jax", *command, "--workdir", tmp_path, JAX_PLATFORMS="cuda")
    assert done.returncode != 0 and "JAX_PLATFORMS=cuda" in done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr and "JAX_PLATFORMS=cpu" in done.stderr


@pytest.mark.parametrize("command", muskie.COMMANDS)
def test_every_command_of_muskie_has_help(command):
    done = run_in_process("muskie_jax", command, "--help")
    assert done.returncode == 0 and done.stderr == "" and len(done.stdout) > 100
    assert "([])" not in done.stdout and "\\  " not in done.stdout, "defaults and examples are readable"
    if command not in ("data", "interop"):
        assert done.stdout.startswith(f"muskie {command} ")


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], "muskie needs a command: use one of train, evaluate, "),
        (["trian"], "muskie has no command 'trian' (did you mean 'train'?): use one of train, "),
        (["evaluate", *QUICKSTART], "configs/quickstart.py is for `muskie train`: run that instead of "
         "`muskie evaluate`, or add --config.job=evaluate"),
        (["train", *QUICKSTART, "--config.job=trian"], "config.job: 'trian' is not a valid value; did"),
        (["plan", "--config", "configs/plan.py:rooms"], "--workdir is missing: pass --workdir runs/plan"),
        (["train", *QUICKSTART, "--out=x"], "`muskie train` has no flag --out: leave it out (muskie train"),
        (["data", "verify"], "got 0 arguments instead of 1: run muskie data verify <folder or URL> <"),
        (["data", "pak"], "muskie data has no command 'pak': use one of inspect, groups, pack, "),
        (["figure"], "--workdir and --out are missing: pass --workdir runs/ablations --out ablations.svg"),
        (["interop", "export", "--out=m.pth"], "--checkpoint is missing: pass --checkpoint runs/quicks"),
        (["report", "--workdir", "runs", "x"], "'x' is not a flag: leave it out"),
        (["sweeps", "--config", "configs/ablations.py", "--config.optim.b1=2.0"], "run 'base': config."),
    ],
)  # fmt: skip
def test_mistakes_of_muskie_are_one_line(arguments, expected):
    assert expected in complaint_of(run_in_process("muskie_jax", *arguments))


def test_muskie_runs_the_job(tmp_path, monkeypatch):
    """The command reaches the job, with the overrides, and prints its result."""
    calls = []
    job = lambda config, workdir: calls.append((config.seed, workdir)) or {"job": "train"}
    monkeypatch.setattr("muskie_jax.train.train", job)
    flags = ("--config", "configs/quickstart.py", "--config.seed=3", "--workdir", tmp_path)
    done = run_in_process("muskie_jax", "train", *flags)
    assert done.returncode == 0 and json.loads(done.stdout) == {"job": "train"}, done.stderr
    assert calls == [(3, tmp_path)]


@pytest.mark.parametrize("job", jobs.JOBS)
def test_every_job_validates_before_anything_else(job, tmp_path):
    config = default_config()
    config.job = job
    config.optim.b1 = 2.0
    config.sources.rooms = synthetic()
    config.posed.rooms = posed("synthetic")
    config.evaluate.models = ("still",)
    with pytest.raises(UserError, match="config.optim.b1=2.0"):
        jobs.load_job(job)(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- Runs ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_photographs_train_survive_a_kill_and_name_a_bad_file(tmp_path):
    photos, workdir = tmp_path / "photos", tmp_path / "run"
    for number in range(5):
        write_scene(photos / f"scene{number}", 12, number)
    bad = photos / "scene0" / "frame_4.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    arguments = [
        "--config", "configs/photos.py", "--workdir", workdir, *SMALL,
        f"--config.sources.photos.root={photos}", "--config.duration=120 steps",
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
    assert result["job"] == "train" and result["step"] == 120
    assert process.returncode == -signal.SIGKILL and "Continuing from step" in done.stderr
    assert "scene0/frame_4.jpg" in done.stderr and "Skipped" in done.stderr
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert len(losses) == 60 and sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path):
    arguments = ["--config", "configs/quickstart.py", "--workdir", tmp_path, *SMALL,
                 "--config.duration=100000 steps", "--config.checkpoint.every=50000"]  # fmt: skip
    process = start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    log = ""
    while "step 4/" not in log:
        line = process.stderr.readline()
        assert line, log
        log += line
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, log + err
    result = json.loads(out.splitlines()[-1])
    assert result["stopped"] == "SIGINT" and f"Stopped by SIGINT at step {result['step']} of" in out
    assert (tmp_path / "checkpoints" / str(result["step"])).is_dir()
    done = run(
        *arguments[:-2], f"--config.duration={result['step'] + 2} steps", "--config.checkpoint.every=50000"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["step"] == result["step"] + 2


def test_a_user_without_a_home_has_no_cache_of_compiled_programs(monkeypatch):
    """As in a container with any user id."""
    before = jax.config.jax_compilation_cache_dir
    for name in ("XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 123_456_789)
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == before


@pytest.mark.parametrize("setting", [None, "", "/elsewhere"])
def test_compiled_programs_are_cached_unless_jax_is_configured(setting, tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    if setting is not None:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", setting)
    try:
        keep_compiled_programs()
        kept = jax.config.jax_compilation_cache_dir
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert kept == (str(tmp_path / "muskie_jax") if setting is None else before)
    assert (tmp_path / "muskie_jax").is_dir() == (setting is None)
