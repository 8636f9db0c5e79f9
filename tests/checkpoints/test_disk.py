"""Before training, a run checks that it will be able to save."""

import collections
import os
import shutil

import jax
import jax.numpy as jnp
import pytest

from muskie_jax.checkpoints.disk import check_disk
from muskie_jax.config import default_config
from muskie_jax.errors import UserError

STATE = {"kernel": jax.ShapeDtypeStruct((500, 1000, 1000), jnp.float32)}  # 2 GB
Usage = collections.namedtuple("Usage", "free")


@pytest.mark.parametrize("existing, needed", [(0, 4), (2, 2), (9, 1)])
def test_a_disk_without_room_is_named(tmp_path, monkeypatch, capsys, existing, needed):
    keeping = default_config().checkpoint
    assert keeping.keep == 3
    for step in range(existing):
        (tmp_path / str(step)).mkdir()
    for free, warns in ((2e9 * needed, False), (2e9 * needed - 1, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: Usage(free))
        check_disk(tmp_path, STATE, keeping)
        log = capsys.readouterr().err
        assert (f"needs {needed} more checkpoints of 2.0 GB" in log) == warns


def test_a_folder_that_may_not_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(UserError, match=f"{tmp_path} is not writable: change its permissions"):
        check_disk(tmp_path, STATE, default_config().checkpoint)
