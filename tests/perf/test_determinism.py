"""The comparison of repeated trainings, with a small program in the place of training."""

import pytest

from muskie_jax.errors import UserError
from muskie_jax.perf.determinism import Training, run_training, table

TRAINING = """
import json, os, pathlib, signal, sys, time
flags = dict(f.removeprefix("--").split("=", 1) for f in sys.argv[1:])
workdir = pathlib.Path(flags["workdir"])
is_new = not workdir.exists()
workdir.mkdir(parents=True, exist_ok=True)
with (workdir / "log").open("a") as file:
    file.write(os.environ["JAX_COMPILATION_CACHE_DIR"] + " " + flags["config.deterministic"] + "\\n")
if "fail" in flags:
    sys.exit("error: no such room")
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
print("step 20/40  loss 0.1", file=sys.stderr, flush=True)
if is_new and "wait" in flags:
    while not stopped:
        time.sleep(0.01)
rows = [{"train/seconds_per_step": 9.0}, {"train/seconds_per_step": 0.02}, {"evaluation/mse": 1}]
(workdir / "metrics.jsonl").write_text("\\n".join(map(json.dumps, rows)))
print("Trained 40 steps.")
result = {"params_digest": "d"} | ({"step": 20, "stopped": "SIGTERM"} if stopped else {})
print(json.dumps(result))
"""


def test_a_training_is_measured(fake_training):
    result = run_training(Training("warm cache", True, "a"), fake_training, [])
    assert result == {"params_digest": "d", "ms_per_update": 20.0}
    log = (fake_training / "deterministic_warm_cache" / "log").read_text()
    assert log == f"{fake_training / 'cache_a'} True\n"


def test_a_training_is_stopped_and_continued(fake_training):
    training = Training("stopped", False, "b", is_stopped=True)
    result = run_training(training, fake_training, ["--wait=1"])
    assert result == {"params_digest": "d", "ms_per_update": 20.0}
    log = (fake_training / "default_stopped" / "log").read_text()
    assert log == f"{fake_training / 'cache_b'} False\n" * 2


def test_a_training_that_fails_ends_the_comparison(fake_training):
    with pytest.raises(UserError, match="the training in .*default_empty failed: error: no such room"):
        run_training(Training("empty", False, "a"), fake_training, ["--fail=1"])


def test_trainings_are_compared_with_the_first_of_their_setting():
    digests = [(True, "a"), (True, "a"), (False, "b"), (False, "c"), (True, "d")]
    rows = [
        {"name": "n", "deterministic": setting, "params_digest": digest, "ms_per_update": 1.5}
        for setting, digest in digests
    ]
    found = [line.split()[3:-2] for line in table(rows).splitlines()]
    assert found == [[], ["equal"], [], ["UNEQUAL"], ["UNEQUAL"]]
