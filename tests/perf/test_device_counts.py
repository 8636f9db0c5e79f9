"""The comparison of losses on several numbers of devices, with a small program in the place of training."""

import pytest

from muskie_jax.perf.device_counts import environment, table_line, train_killed

TRAINING = """
import json, os, pathlib, sys, time
flags = dict(f.removeprefix("--").split("=", 1) for f in sys.argv[1:])
workdir = pathlib.Path(flags["workdir"])
workdir.mkdir(parents=True, exist_ok=True)
metrics = workdir / "metrics.jsonl"
rows = metrics.read_text().splitlines() if metrics.exists() else []
with (workdir / "log").open("a") as file:
    file.write(f"{len(rows)} on {os.environ['CUDA_VISIBLE_DEVICES']}\\n")
killed_at = {0: 75, 50: 125, 100: 175}.get(len(rows))
for step in range(len(rows) + 1, 201):
    rows.append(json.dumps({"step": step, "train/loss": 1 / step}))
    if step % 50 == 0:
        metrics.write_text("\\n".join(rows))
    print(f"step {step}/200  loss", file=sys.stderr, flush=True)
    if step == killed_at:
        time.sleep(60)
print(json.dumps({"step": 200}))
"""


def test_a_killed_training_goes_on_on_other_devices(fake_training):
    found = train_killed([4, 1], fake_training, [])
    assert found == [1 / step for step in range(1, 201)]
    log = (fake_training / "killed/log").read_text().splitlines()
    assert log == ["0 on 0,1,2,3", "50 on 0", "100 on 0,1,2,3", "150 on 0"]


def test_the_environment_replaces_the_number_of_virtual_devices(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_dump_to=x")
    assert environment(2)["XLA_FLAGS"] == "--xla_dump_to=x --xla_force_host_platform_device_count=2"
    assert environment(2)["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_the_largest_differences_are_shown():
    assert table_line("2", [2.0, 0.5], [2.2, 0.4]).split() == ["2", "2", "2.00e-01", "2.50e-01"]
    with pytest.raises(ValueError):
        table_line("2", [2.0], [2.2, 0.4])  # a training that lost updates
