"""All processes of a run restore one checkpoint, which each of them can read."""

import pytest

from muskie_jax.checkpoints import restoring
from muskie_jax.checkpoints.restoring import Damaged, agree_on_steps, restore_together
from muskie_jax.checkpoints.saved_steps import saved_steps
from muskie_jax.errors import UserError
from muskie_tests.attacked import Run

SHARDED = ["--config.checkpoint.every=2", "--config.mesh.data=1", "--config.mesh.fsdp=-1"]


class Peers:
    """Process 0 of two; the other answers with the texts in `of_other`."""

    def __init__(self, *of_other):
        self.of_other = list(of_other)

    def gather(self, key, text):
        return [text, self.of_other.pop(0)]


class Listing:
    """Lists the checkpoints of a folder that changes each time it is read."""

    directory = "runs/a/checkpoints"

    def __init__(self, *listings):
        self.listings = list(listings)

    def all_steps(self):
        return self.listings[0]

    def reload(self):
        self.listings.pop(0)


@pytest.mark.parametrize(
    "found, own, other, error",
    [
        (Damaged("a file is missing"), "a file is missing", "read None", Damaged),
        (None, "process 1: a file is too short", "damaged a file is too short", Damaged),
        (Damaged("a file is missing"), "process 1: no permission", "refused no permission", UserError),
        (UserError("no permission"), "no permission", "damaged a file is too short", UserError),
    ],
    ids=["own damage", "damage of the other", "a refusal is worse", "the own refusal is worse"],
)
def test_a_failure_of_one_process_is_that_of_all(found, own, other, error, tmp_path, monkeypatch):
    def read(*arguments):
        if found:
            raise found
        return {}, {"fingerprints": {}}

    monkeypatch.setattr(restoring, "_read", read)
    with pytest.raises(error) as raised:
        restore_together(tmp_path / "2", None, None, Peers(other))
    assert str(raised.value) == own


def test_processes_wait_until_they_see_the_same_checkpoints(monkeypatch):
    monkeypatch.setattr(restoring.time, "sleep", lambda seconds: None)
    late = Peers('[[2], "b"]', '[[2, 4], "b"]')
    assert agree_on_steps(Listing([2, 4], [2, 4]), late) == [2, 4]
    own_is_late = Peers('[[2, 4], "b"]', '[[2, 4], "b"]')
    assert agree_on_steps(Listing([2], [2, 4]), own_is_late) == [2, 4]


def test_different_checkpoints_are_refused(monkeypatch):
    monkeypatch.setattr(restoring.time, "sleep", lambda seconds: None)
    looks = restoring.LOOKS
    expected = "process 0 sees 2, 4 in runs/a/checkpoints; process 1 sees none in b: pass a --workdir on"
    with pytest.raises(UserError, match=expected):
        agree_on_steps(Listing(*[[2, 4]] * looks), Peers(*['[[], "b"]'] * looks))


@pytest.mark.slow
def test_a_shard_that_one_process_cannot_read_makes_both_fall_back(tmp_path):
    expected = Run(tmp_path / "run", 4, processes=2, flags=SHARDED).end()
    saved = tmp_path / "run/checkpoints"
    for path in (saved / "4/state/ocdbt.process_1/d").iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = Run(tmp_path / "run", 4, processes=2, flags=SHARDED)
    assert again.end()["params_digest"] == expected["params_digest"]
    assert "Checkpoint 4 is damaged and was moved to" in again.log
    assert "process 1: a file is too short" in again.log and "Continuing from step 2" in again.log
    assert saved_steps(tmp_path / "run") == [2, 4]
