"""A training of other settings is neither continued nor taken for the one that is wanted."""

import jax.numpy as jnp
import pytest

from muskie_jax.checkpoint import Checkpointer
from muskie_jax.config import default_config, synthetic
from muskie_jax.errors import UserError
from muskie_jax.sweeps.trained_settings import WITHOUT_EFFECT, require_same_settings
from muskie_jax.train_step import TrainState


def config_of(**changes):
    config = default_config()
    config.sources.rooms = synthetic()
    config.duration = "30 steps"
    config.update_from_flattened_dict(changes)
    return config


def save(workdir, step, config):
    checkpoints = Checkpointer(workdir, keep=3)
    checkpoints.save(TrainState(jnp.int32(step), {"kernel": jnp.ones((8, 4))}, ()), config)
    checkpoints.close()


@pytest.mark.parametrize("step", [10, 30])
def test_other_settings_are_refused_and_named(tmp_path, step):
    require_same_settings(config_of(), tmp_path)
    save(tmp_path, step, config_of())
    require_same_settings(config_of(), tmp_path)
    changes = {"optim.learning_rate": 1e-5, "evaluation.size": (32, 32), "seed": 1}
    for path, value in changes.items():
        with pytest.raises(UserError, match=rf"config\.{path} was .* and is now .*: use another --workdir"):
            require_same_settings(config_of(**{path: value}), tmp_path)
    with pytest.raises(UserError) as refused:
        require_same_settings(config_of(**changes), tmp_path)
    assert all(f"config.{path} " in str(refused.value) for path in changes)
    assert "\n" not in str(refused.value)
    added = config_of()
    added.sources.more = synthetic()
    with pytest.raises(UserError, match=r"\(config.sources.more.kind was missing and is now 'synthetic'\)"):
        require_same_settings(added, tmp_path)


def test_settings_that_change_no_result_may_differ(tmp_path):
    save(tmp_path, 30, config_of())
    changes = {"data.workers": 1, "data.cache": "/cache", "log.every": 7, "watchdog.save_minutes": 3.0}
    changes |= {"mesh.fsdp": 2, "checkpoint.keep": 9, "max_minutes": 5.0, "model.remat": "block"}
    require_same_settings(config_of(**changes), tmp_path)
    for name in WITHOUT_EFFECT:  # a name that no setting has would do nothing
        section = default_config()
        for key in name.split("."):
            section = section[key]


def test_a_longer_duration_goes_on_and_a_shorter_one_is_refused(tmp_path):
    """The shorter one may have a checkpoint of the longer run, whose learning rate was higher."""
    for step in (20, 30):
        save(tmp_path, step, config_of())
    require_same_settings(config_of(duration="40 steps"), tmp_path)
    require_same_settings(config_of(duration=f"{30 * 32} examples"), tmp_path)
    with pytest.raises(UserError, match="config.duration was '30 steps' and is now '20 steps'"):
        require_same_settings(config_of(duration="20 steps"), tmp_path)


def test_settings_that_another_version_lacked_may_have_their_defaults(tmp_path, monkeypatch):
    old = config_of()
    with old.unlocked():
        del old.optim.cooldown
        old.optim.gone = 1
    save(tmp_path, 30, old)
    require_same_settings(config_of(), tmp_path)
    with pytest.raises(UserError, match="config.optim.cooldown was missing and is now 0.5"):
        require_same_settings(config_of(**{"optim.schedule": "cosine", "optim.cooldown": 0.5}), tmp_path)


def test_damaged_checkpoints_are_skipped_and_imported_weights_have_no_settings(tmp_path):
    save(tmp_path, 0, config_of(seed=5))
    require_same_settings(config_of(), tmp_path)
    save(tmp_path, 10, config_of(seed=5))
    (tmp_path / "checkpoints/20").mkdir()
    with pytest.raises(UserError, match="config.seed was 5 and is now 0"):
        require_same_settings(config_of(), tmp_path)
