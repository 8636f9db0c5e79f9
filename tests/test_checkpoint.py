"""A restored checkpoint is exactly what was saved; any other is not used."""

import errno
import gc
import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from muskie_jax.checkpoint import Checkpointer
from muskie_jax.checkpoints.contents import Unreadable, read_params, verify
from muskie_jax.checkpoints.saved_steps import best_step, saved_steps
from muskie_jax.config import default_config
from muskie_jax.errors import NotFinite, UserError
from muskie_jax.fingerprint import LoweredExaminations, digest, examine
from muskie_jax.optim import make_optimizer
from muskie_jax.sharding import make_mesh
from muskie_jax.train_step import TrainState

# Orbax abandons the other coroutines of a failed read; collecting them warns.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def state_at(step, width=64):
    key = jax.random.key(step)
    params = {"kernel": jax.random.normal(key, (width, 32)), "bias": jnp.arange(32.0)}
    return TrainState(jnp.int32(step), params, (jax.random.normal(key, (width, 32)),))


def like(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def saved(workdir, *steps):
    checkpoints = Checkpointer(workdir, keep=3)
    for step in steps:
        checkpoints.save(state_at(step), default_config())
    checkpoints.close()


def restored(workdir, width=64):
    checkpoints = Checkpointer(workdir, keep=3)
    try:
        return checkpoints.restore(like(state_at(0, width)), default_config())
    finally:
        checkpoints.close()
        gc.collect()  # those coroutines now, not in a test of another file


def array_files(folder):
    """Returns the files with array data, largest first."""
    files = [path for path in (folder / "state").rglob("*") if path.is_file() and "/d/" in str(path)]
    return sorted(files, key=lambda path: -path.stat().st_size)


def test_restoring_returns_what_was_saved(tmp_path):
    assert restored(tmp_path) is None
    saved(tmp_path, 1, 2, 3, 4)
    state, config = restored(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, state, state_at(4))
    assert config["optim"]["b2"] == 0.95
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert kept == [2, 3, 4]


def test_a_flipped_bit_in_the_data_is_detected(tmp_path):
    saved(tmp_path, 1, 2)
    path = array_files(tmp_path / "checkpoints" / "2")[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    state, _ = restored(tmp_path)
    assert int(state.step) == 1
    assert (tmp_path / "checkpoints_damaged" / "2").is_dir()
    assert not (tmp_path / "checkpoints" / "2").exists()
    saved(tmp_path, 2)
    assert int(restored(tmp_path)[0].step) == 2


@pytest.mark.parametrize("damage", ["half copied", "no meta", "meta edited", "truncated"])
def test_other_damage_falls_back_too(tmp_path, damage):
    saved(tmp_path, 1, 2)
    folder = tmp_path / "checkpoints" / "2"
    meta = next(
        path for path in (folder / "meta").rglob("*") if path.is_file() and "kernel" in path.read_text()
    )
    if damage == "half copied":
        for path in array_files(folder):
            path.unlink()
    elif damage == "no meta":
        meta.unlink()
    elif damage == "meta edited":
        meta.write_text(meta.read_text().replace("64x32", "64x33", 1))
    else:
        path = array_files(folder)[0]
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert int(restored(tmp_path)[0].step) == 1


def test_steps_to_keep_are_kept_beside_the_newest(tmp_path):
    checkpoints = Checkpointer(tmp_path, keep=2, keep_every=3)
    for step in range(1, 9):
        checkpoints.save(state_at(step), default_config())
    checkpoints.close()
    assert sorted(int(folder.name) for folder in checkpoints.folder.iterdir()) == [3, 6, 7, 8]


def test_without_an_intact_checkpoint_restoring_raises(tmp_path):
    saved(tmp_path, 1)
    for path in array_files(tmp_path / "checkpoints" / "1"):
        path.unlink()
    for _ in range(2):  # training must not silently start from the beginning, the second time either
        with pytest.raises(UserError, match="none of the checkpoints .* is intact") as raised:
            restored(tmp_path)
    assert str(tmp_path / "errors.txt") in str(raised.value)
    assert "Traceback" in (tmp_path / "errors.txt").read_text()
    assert not (tmp_path / "checkpoints_damaged").exists()  # without an intact one, nothing is moved
    shutil.rmtree(tmp_path / "checkpoints")
    assert restored(tmp_path) is None


def test_a_damaged_checkpoint_is_moved_to_another_disk(tmp_path, monkeypatch):
    saved(tmp_path, 1, 2)
    array_files(tmp_path / "checkpoints" / "2")[0].unlink()
    rename = os.rename

    def within_a_disk(source, target, **options):
        if "checkpoints_damaged" in str(target):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(source, target, **options)

    monkeypatch.setattr(os, "rename", within_a_disk)
    assert int(restored(tmp_path)[0].step) == 1
    assert (tmp_path / "checkpoints_damaged/2/meta").is_dir()
    assert saved_steps(tmp_path) == [1]


@pytest.mark.parametrize(
    "error, reason",
    [
        (OSError(116, "Stale file handle"), "Stale file handle"),
        (
            ValueError("UNKNOWN: read: Input/output error [os_error_code='5']"),
            "Input/output error",
        ),
        (
            ValueError("RESOURCE_EXHAUSTED: a: Too many open files [os_error_code='24']"),
            "Too many open files",
        ),
        (RuntimeError("can't start new thread"), "can't start new thread"),
    ],
)
def test_a_failing_machine_does_not_move_checkpoints(tmp_path, monkeypatch, error, reason):
    saved(tmp_path, 1, 2)

    def fails(*args, **kwargs):
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(ocp.PyTreeCheckpointHandler, "restore", fails)
        with pytest.raises(UserError, match=f"could not be read .*{reason}"):
            restored(tmp_path)
        with pytest.raises(Unreadable, match=reason):
            verify(tmp_path / "checkpoints/2")
    assert int(restored(tmp_path)[0].step) == 2


def test_a_failure_that_passes_is_no_mismatch(tmp_path, monkeypatch):
    saved(tmp_path, 1, 2)
    restore, calls = ocp.PyTreeCheckpointHandler.restore, []

    def fails_once(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            raise ValueError("a failure that Orbax does not name")
        return restore(self, *args, **kwargs)

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", fails_once)
    assert int(restored(tmp_path)[0].step) == 2
    assert not (tmp_path / "checkpoints_damaged").exists()


def test_without_a_device_no_checkpoint_is_called_damaged(tmp_path, monkeypatch):
    saved(tmp_path, 1)

    def no_device(*args, **kwargs):
        raise AssertionError  # as JAX does for a platform that it knows and cannot use

    with monkeypatch.context() as broken:
        broken.setattr(ocp.PyTreeCheckpointHandler, "restore", no_device)
        broken.setattr(jax, "devices", no_device)
        with pytest.raises(Unreadable, match="could not be read .JAX cannot use the devices"):
            read_params(tmp_path / "checkpoints/1")
    assert read_params(tmp_path / "checkpoints/1")[1] == 1


def test_a_checkpoint_that_may_not_be_read_is_not_moved(tmp_path, monkeypatch):
    """Orbax does not find what is in a folder that it may not read."""
    saved(tmp_path, 1, 2)
    meta = tmp_path / "checkpoints/2/meta"
    content = {path: path.read_bytes() for path in meta.rglob("*") if path.is_file()}
    with monkeypatch.context() as denied:
        for path in content:
            path.unlink()
        denied.setattr(os, "access", lambda path, mode: "checkpoints/2/" not in str(path))
        with pytest.raises(UserError, match="checkpoint 2 .* could not be read .*Permission denied.*/2/"):
            restored(tmp_path)
    for path, data in content.items():
        path.write_bytes(data)
    assert int(restored(tmp_path)[0].step) == 2


def test_a_checkpoint_of_another_network_raises_and_is_not_moved(tmp_path):
    saved(tmp_path, 1)
    with pytest.raises(
        UserError, match=r"params/kernel is float32 64x32 in the checkpoint and float32 48x32 in the config"
    ):
        restored(tmp_path, width=48)
    assert int(restored(tmp_path)[0].step) == 1


@pytest.mark.parametrize(
    "setting, before, after", [("decay", "all", "matrices"), ("spike_factor", 0.0, 10.0)]
)
def test_another_structure_names_its_setting_and_moves_nothing(tmp_path, setting, before, after):
    """The optimizers nest their arrays in another way, or have further ones, which is no damage."""
    config = default_config()
    params = {"kernel": jnp.ones((8, 4)), "bias": jnp.zeros(4)}
    state = lambda: TrainState(jnp.int32(5), params, make_optimizer(config).init(params))
    checkpoints = Checkpointer(tmp_path, keep=3)
    checkpoints.save(state(), config)
    checkpoints.close()
    config.optim[setting] = after
    checkpoints = Checkpointer(tmp_path, keep=3)
    change = f"config.optim.{setting} was {before!r} and is now {after!r}"
    with pytest.raises(UserError, match=change) as raised:
        checkpoints.restore(like(state()), config)
    assert "optim.learning_rate" not in str(raised.value)
    assert (tmp_path / "checkpoints" / "5").is_dir() and not (tmp_path / "checkpoints_damaged").exists()
    config.optim[setting] = before
    assert int(checkpoints.restore(like(state()), config)[0].step) == 5
    checkpoints.close()


def test_damage_is_found_in_another_structure_too(tmp_path):
    """A checkpoint that is both damaged and of another optimizer is damaged."""
    config = default_config()
    params = {"kernel": jnp.ones((64, 32)), "bias": jnp.zeros(32)}
    checkpoints = Checkpointer(tmp_path, keep=3)
    for step in (1, 2):
        state = TrainState(jnp.int32(step), params, make_optimizer(config).init(params))
        checkpoints.save(state, config)
    checkpoints.close()
    for path in array_files(tmp_path / "checkpoints" / "2"):
        path.unlink()
    config.optim.decay = "matrices"
    other = TrainState(jnp.int32(0), params, make_optimizer(config).init(params))
    checkpoints = Checkpointer(tmp_path, keep=3)
    with pytest.raises(UserError, match="checkpoint 1 .* does not match the config"):
        checkpoints.restore(like(other), config)
    checkpoints.close()
    assert (tmp_path / "checkpoints" / "2").is_dir()  # moved only once an older one is restored


def test_an_error_in_the_code_that_reads_moves_nothing(tmp_path, monkeypatch):
    saved(tmp_path, 1, 2)
    with monkeypatch.context() as broken:

        def incompatible(*args, **kwargs):
            raise TypeError("restore() got an unexpected keyword argument")

        broken.setattr(ocp.PyTreeCheckpointHandler, "restore", incompatible)
        with pytest.raises(UserError, match="none of the checkpoints .* is intact"):
            restored(tmp_path)
    assert int(restored(tmp_path)[0].step) == 2


def test_the_best_checkpoints_are_kept_beside_the_newest(tmp_path):
    checkpoints = Checkpointer(tmp_path, keep=1, keep_best=2)
    for step, error in enumerate([0.9, 0.3, None, 0.5, 0.3, 0.8, None], start=1):
        if error is not None:
            checkpoints.errors[step] = error
        checkpoints.save(state_at(step), default_config())
    checkpoints.close()
    assert saved_steps(tmp_path) == [2, 5, 7]
    rows = [{"step": step, "evaluation/mse": error} for step, error in checkpoints.errors.items()]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 9')
    assert best_step(tmp_path) == 5  # of two equal ones, the later
    continued = Checkpointer(tmp_path, keep=1, keep_best=1)
    continued.save(state_at(8), default_config())
    continued.close()
    assert saved_steps(tmp_path) == [5, 8]


def test_a_save_compiles_nothing(tmp_path):
    """A compiler that is killed during a save, with the process group, would cost the state."""
    mesh = make_mesh({"data": 2, "fsdp": 4, "view": 1})
    shardings = NamedSharding(mesh, P()), NamedSharding(mesh, P("fsdp"))
    arrays = [jax.device_put(np.ones((88, 23), np.float32), each) for each in shardings]
    state = TrainState(jax.device_put(np.int32(5), shardings[0]), {"a": arrays[0], "b": arrays[1]}, ())
    LoweredExaminations(like(state)).compile()
    compiled = []
    count = lambda name, seconds, **more: compiled.append(more) if "backend_compile" in name else None
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        checkpoints = Checkpointer(tmp_path, keep=1)
        checkpoints.save(state, default_config())
        checkpoints.close()
        assert not compiled
        examine({"another shape": np.ones((7, 13))})
        assert compiled  # the event has this name
    finally:
        jax.monitoring.unregister_event_duration_listener(count)


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    checkpoints = Checkpointer(tmp_path, keep=3)
    for bad in (jnp.nan, jnp.inf):
        state = state_at(1)
        state = state.replace(opt_state=(state.opt_state[0].at[3, 4].set(bad),))
        with pytest.raises(NotFinite, match="after step 1"):
            checkpoints.save(state, default_config())
    assert checkpoints.latest() is None
    checkpoints.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_changing_any_element_changes_the_fingerprint(dtype):
    rng = np.random.default_rng(0)
    array = np.asarray(jnp.asarray(rng.integers(0, 2, (7, 5, 3))).astype(dtype))
    before = digest({"a": array})
    seen = {before}
    for index in np.ndindex(array.shape):
        changed = array.copy()
        changed[index] = not changed[index] if dtype == "bool" else changed[index] + 1
        seen.add(digest({"a": changed}))
    assert len(seen) == array.size + 1
    swapped = array[::-1]
    assert digest({"a": swapped}) != before and digest({"b": array}) != before


def test_fingerprints_are_the_same_on_any_mesh():
    array = np.random.default_rng(0).standard_normal((16, 24)).astype(np.float32)
    digests = set()
    for shape, spec in [((1, 1, 1), P()), ((2, 4, 1), P("fsdp", "data")), ((1, 8, 1), P("fsdp"))]:
        sizes = dict(zip(("data", "fsdp", "view"), shape))
        mesh = make_mesh(sizes, jax.devices()[: np.prod(shape)])
        digests.add(digest({"x": jax.device_put(array, NamedSharding(mesh, spec))}))
    assert len(digests) == 1
    assert examine({"x": array, "n": np.int32(3)}).finite and not examine({"x": array * np.nan}).finite


def test_arrays_without_elements_are_saved(tmp_path):
    """A network without register tokens has such a parameter, and Orbax refuses to write it."""
    state = state_at(7)
    empty = {"register_tokens": jnp.zeros((0, 8))}
    state = TrainState(state.step, state.params | empty, (empty,))
    checkpoints = Checkpointer(tmp_path, keep=3)
    checkpoints.save(state, default_config())
    found, _ = checkpoints.restore(like(state), default_config())
    checkpoints.close()
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), found) == jax.tree.map(
        lambda x: (x.shape, x.dtype, x.sharding), state
    )
    np.testing.assert_array_equal(found.params["kernel"], state.params["kernel"])
    params, step, _ = read_params(tmp_path / "checkpoints/7")
    assert step == 7 and params["register_tokens"].shape == (0, 8)
    np.testing.assert_array_equal(params["kernel"], state.params["kernel"])


def test_the_newest_checkpoint_before_a_spike_is_kept(tmp_path):
    checkpoints = Checkpointer(tmp_path, keep=2)
    for step in range(1, 12):
        checkpoints.spike = {5: 5, 6: 5, 7: 5, 8: 5, 9: 8, 10: 8, 11: 8}.get(step)
        checkpoints.save(state_at(step), default_config())
        checkpoints._manager.wait_until_finished()
        if step == 7:
            assert saved_steps(tmp_path) == [4, 6, 7]
    assert saved_steps(tmp_path) == [7, 10, 11], "that before the newest spike"
    rows = [{"step": 7, "train/spike": 5}, {"step": 10, "train/spike": 8}, {"step": 11, "train/loss": 1}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    checkpoints.close()
    continued = Checkpointer(tmp_path, keep=2)
    assert continued.spike == 8
    continued.restore(like(state_at(0)), default_config())
    for step in (12, 13):
        continued.save(state_at(step), default_config())
    continued.close()
    assert saved_steps(tmp_path) == [7, 12, 13]
    shutil.rmtree(tmp_path / "checkpoints/12")
    shutil.rmtree(tmp_path / "checkpoints/13")
    assert Checkpointer(tmp_path, keep=2).spike == 8
    earlier = Checkpointer(tmp_path, keep=2)
    earlier.restore(like(state_at(0)), default_config())
    assert earlier.spike == 5, "the run continues from step 7, and makes update 8 again"
    earlier.close()


def test_a_start_reads_the_metrics_once(tmp_path, monkeypatch):
    rows = [{"step": 2, "evaluation/mse": 0.25}, {"step": 3, "train/spike": 3}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reads, read_bytes = [], pathlib.Path.read_bytes
    monkeypatch.setattr(
        pathlib.Path, "read_bytes", lambda path: reads.append(path.name) or read_bytes(path)
    )
    checkpoints = Checkpointer(tmp_path, keep=1)
    assert (checkpoints.errors, checkpoints.spike) == ({2: 0.25}, 3)
    assert reads.count("metrics.jsonl") == 1
