"""The time of a run, over all of its starts, is told apart without a gap."""

import json
import math

import jax
import pytest

from conftest import write_scene
from muskie_jax import goodput as goodput_lib
from muskie_jax.data.pipeline import Pipeline
from muskie_jax.errors import AT_END
from muskie_jax.goodput import Goodput, Start, describe, read_starts, share, total_seconds
from muskie_jax.train import train
from muskie_tests.commands import run_in_process
from muskie_tests.runs import nano_config


@pytest.fixture
def clock(monkeypatch):
    """Seconds since the start of the test, as a list with one number."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("time.time", lambda: 1e9 + now[0])
    return now


def test_steps_that_were_lost_and_pauses_between_starts_count_against_goodput():
    starts = [
        Start(0, 100, 0, 80, seconds={"steps": 80, "start": 20}),  # killed 30 steps after its last save
        Start(110, 160, 50, 70, seconds={"steps": 40, "compile": 10}),
        Start(160, 200, 20, 60, True, {"steps": 40}),  # both checkpoints of the second start were damaged
        Start(900, 901, 60, 60, True, {"end": 1}),
    ]
    found = total_seconds(starts)
    assert found["steps"] == 20 + 0 + 40 and found["repeated"] == 60 + 40
    assert found["downtime"] == 10, "a pause after the last step is none"
    assert found["start"] == 20 and found["compile"] == 10 and found["end"] == 1
    assert sum(found.values()) == 901 - 700
    assert share(found) == pytest.approx(60 / 201)


def test_updates_that_never_finished_do_not_count():
    assert total_seconds([Start(0, 5, 7, 7, seconds={"steps": 5})])["repeated"] == 5
    assert share(total_seconds([])) == 0


def test_each_second_belongs_to_one_part(clock, tmp_path):
    with Goodput(tmp_path) as goodput:
        clock[0] = 2
        with goodput.during("compile"):
            clock[0] = 5
        goodput.continue_from(10)
        goodput.begin("steps")
        clock[0] = 9
        with pytest.raises(OSError), goodput.during("save"):
            clock[0] = 10
            raise OSError
        clock[0] = 12
        goodput.reached(20)
        assert AT_END[-1] == goodput.record, "the last record, if the process is ended at once"
        (start,) = read_starts(tmp_path)
        seconds = {"start": 2, "compile": 3, "steps": 6, "save": 1}
        assert start == Start(1e9, 1e9 + 12, 10, 20, False, seconds)
        goodput.begin("end")
        clock[0] = 12.5
        assert goodput.seconds()["end"] == 0.5
    assert goodput.record not in AT_END
    assert read_starts(tmp_path)[0].recorded == 1e9 + 12.5
    clock[0] = 20
    later = Goodput(tmp_path)
    assert later.seconds()["downtime"] == 7.5 and len(later.starts()) == 2


def test_a_run_that_logs_often_writes_once_a_second(clock, tmp_path):
    goodput = Goodput(tmp_path)
    goodput.continue_from(0)
    for step in range(1, 31):
        clock[0] = step / 10
        goodput.reached(step)
    assert read_starts(tmp_path)[0].step == 22  # of 1.1 and 2.2 seconds


def test_a_record_that_cannot_be_read_or_written_ends_nothing(tmp_path):
    (tmp_path / "goodput.json").write_text('[{"began": 1}, {"be')
    assert read_starts(tmp_path) == []
    for text in ('[{"began": 1, "unknown": 2}]', "[" * 100_000):
        (tmp_path / "goodput.json").write_text(text)
        assert read_starts(tmp_path) == []
    huge = "1" + "0" * 400
    for seconds in ('{"start": null}', '{"start": "1"}', f'{{"start": {huge}}}', "[]"):
        record = f'[{{"began": 1, "recorded": 2, "seconds": {seconds}}}]'
        (tmp_path / "goodput.json").write_text(record)
        assert read_starts(tmp_path) == []
    goodput = Goodput(tmp_path / "missing")
    goodput.record()
    assert not (tmp_path / "missing").exists()
    assert len(Goodput(None).starts()) == 1


def test_two_lines_name_all_parts():
    starts = [Start(0, 3000, 0, 30, seconds={"steps": 2400, "data_wait": 300, "compile": 300})]
    assert describe(starts) == [
        "Goodput: 80.0% of 50m00s was spent in steps that count, over 1 start.",
        "  compile 10.0%, data wait 10.0%",
    ]
    later = Start(3300, 3301, 20, 20)
    share_line, parts = describe([*starts, later])
    assert share_line.startswith("Goodput: 48.5% of 55m00s was spent in steps that count, over 2 starts")
    assert parts.endswith("repeated 24.2%, downtime 9.1%")


def test_a_run_records_its_starts_and_the_command_lists_them(tmp_path, monkeypatch, capfd):
    for number in range(2):
        write_scene(tmp_path / f"photos/{number}", 4, number)
    config = nano_config(tmp_path / "photos")
    config.buckets.update({"resolutions": (((32, 32),),), "views": (4,)})
    config.evaluation.pictures = 0
    config.duration, config.checkpoint.every, config.log.every = "8 steps", 3, 2
    workdir, updates = tmp_path / "run", Pipeline.updates

    class Killed(BaseException):
        """Not an error, so nothing is saved."""

    def dies(self, first=0, stop=None):
        for number, update in enumerate(updates(self, first, stop), start=first + 1):
            if number == 6 and stop is not None:
                raise Killed
            yield update

    with monkeypatch.context() as broken, pytest.raises(Killed):
        broken.setattr(Pipeline, "updates", dies)
        train(config, workdir, jax.devices()[:1])
    result = train(config, workdir, jax.devices()[:1])
    first, second = read_starts(workdir)
    assert (first.first_step, first.step, first.finished) == (0, 4, False)  # step 5 is not a multiple of 2
    assert (second.first_step, second.step, second.finished) == (3, 8, True)
    for start in (first, second):
        assert sum(start.seconds.values()) == pytest.approx(start.recorded - start.began, abs=0.1)
    assert {"start", "compile", "data_wait", "save", "steps"} <= first.seconds.keys()
    assert second.seconds["evaluation"] > 0
    seconds = total_seconds([first, second])
    assert seconds["repeated"] == pytest.approx(first.seconds["steps"] / 4)
    assert 0 < result["goodput"] < 1 and result["goodput"] == pytest.approx(share(seconds), rel=0.2)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["train/goodput"] < 1 for row in rows if "train/loss" in row)
    (row,) = [row for row in rows if "goodput/steps" in row]
    assert row["step"] == 8 and math.isclose(row["goodput/repeated"], seconds["repeated"])
    assert {name.partition("/")[2] for name in row if name != "step"} == set(goodput_lib.PARTS)
    printed = capfd.readouterr().out
    assert "Goodput: " in printed and "over 2 starts." in printed and "repeated " in printed
    done = run_in_process("muskie_jax", "checkpoints", "--workdir", workdir)
    assert json.loads(done.stdout)["goodput"] == pytest.approx(share(seconds))
    assert done.stderr.splitlines()[-2:] == describe([first, second])
