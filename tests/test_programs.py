"""Which programs are compiled, and that they fit in memory."""

import functools
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.buckets import Bucket
from muskie_jax.errors import UserError
from muskie_jax.optim import make_optimizer
from muskie_jax.programs import (
    OPTIMIZER,
    ZERO_GRADIENTS,
    Programs,
    batch_shapes,
    device_bytes,
    fast_compilation,
    peak_bytes,
    training_programs,
)
from muskie_jax.sharding import make_mesh
from muskie_jax.train_step import abstract_state, init_state, make_task, single_batch_update
from muskie_tests.runs import nano_config

BUCKET = Bucket(32, 32, 2)


@pytest.fixture(scope="module")
def setting(photo_folder):
    """A config, its state's shapes, and compiled programs by the number of batches per update."""
    config = nano_config(photo_folder)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    task, optimizer = make_task(config, mesh, 1), make_optimizer(config)
    state = abstract_state(task.model, optimizer, mesh)
    programs = {}
    for count in (1, 2):
        shapes = {BUCKET: batch_shapes(BUCKET, config.batch.groups, 2, 16, mesh)}
        lowered = training_programs(task, optimizer, state, shapes, count, mesh)
        programs[count] = Programs(lowered, {}, quiet=True)
        programs[count].compile()
    return config, state, programs


def test_an_update_of_one_batch_is_one_program(setting):
    _, _, programs = setting
    assert set(programs[1]._compiled) == {BUCKET}
    assert set(programs[2]._compiled) == {BUCKET, ZERO_GRADIENTS, OPTIMIZER}


def test_two_passes_of_half_the_groups_are_one_update_of_all(setting):
    config, state_shapes, _ = setting
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    task, optimizer = make_task(config, mesh, 1), make_optimizer(config)
    rng = np.random.default_rng(0)
    shapes = batch_shapes(BUCKET, config.batch.groups, 2, 16, mesh)
    image_shape, mask_shape = shapes["images"].shape, shapes["mask"].shape
    halves = [
        {
            "images": rng.integers(0, 256, image_shape, np.uint8),
            "mask": rng.random(mask_shape) < probability,
            "source": np.zeros(len(shapes["source"]), np.int32),
        }
        for probability in (0.3, 0.9)
    ]
    lowered = training_programs(task, optimizer, state_shapes, {BUCKET: shapes}, 2, mesh)
    two_passes = Programs(lowered, {}, quiet=True)
    two_passes.compile()
    state = lambda: init_state(task.model, optimizer, 0, mesh)
    updated, _ = two_passes.update(state(), [(BUCKET, half) for half in halves])
    both = {key: np.concatenate([half[key] for half in halves]) for key in shapes}
    step = functools.partial(single_batch_update, task=task, optimizer=optimizer)
    expected, _ = jax.jit(step)(state(), both)
    assert int(updated.step) == int(expected.step) == 1
    # Compares Adam's first moments, since its parameters amplify rounding.
    same = functools.partial(np.testing.assert_allclose, atol=1e-7, rtol=1e-4)
    jax.tree.map(same, updated.opt_state[0].mu, expected.opt_state[0].mu)


class Device:
    """A device with a memory limit in bytes."""

    def __init__(self, limit):
        self.limit = limit

    def memory_stats(self):
        return {"bytes_limit": self.limit}


@pytest.mark.parametrize("count", [1, 2])
def test_a_program_that_does_not_fit_raises_with_its_sizes(setting, count, monkeypatch, capsys):
    config, state, programs = setting
    monkeypatch.setattr(programs[count], "_quiet", False)
    needed, key = programs[count].needed_bytes(state)
    assert needed > device_bytes(state) + device_bytes(state.params)  # the state and the gradients
    if count == 2:  # the optimizer state stays in memory while a gradient program runs
        beside = {k: 0 if k == OPTIMIZER else device_bytes(state.opt_state) for k in programs[2]._compiled}
        assert needed == max(peak_bytes(p) + beside[k] for k, p in programs[2]._compiled.items())
    programs[count].check_memory(state, Device(needed), config)
    assert f"Memory: 0.0 of 0.0 GiB, for {key}\n" in capsys.readouterr().err
    programs[count].check_memory(state, jax.devices("cpu")[0], config)  # a CPU reports no limit
    with pytest.raises(UserError, match=rf"{key} needs .* GiB .*lower config.batch.groups \(now 8"):
        programs[count].check_memory(state, Device(needed - 1), config)


def test_remedies_for_memory_save_more_than_the_config_does(setting):
    config, state, programs = setting
    config = config.copy_and_resolve_references()
    messages = {}
    for config.model.remat in ("block", "full"):
        with pytest.raises(UserError) as caught:
            programs[1].check_memory(state, Device(1), config)
        messages[config.model.remat] = str(caught.value)
    assert "set config.model.remat (now 'block') to 'full', or raise config.mesh.fsdp" in messages["block"]
    assert "config.model.remat" not in messages["full"]


class Traced:
    """A fake lowered program, which compiles by calling a function."""

    def __init__(self, compile):
        self._compile = compile
        self.options = None

    def compile(self, compiler_options=None):
        self.options = compiler_options
        return self._compile()


def test_out_of_memory_in_the_compiler_is_one_line_and_stops_compilation(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    all_traced, compiled = threading.Event(), []

    def refuse():
        assert all_traced.wait(10)
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in hbm\nmore lines")

    def trace(number):
        if number == 0:
            all_traced.set()
        return Traced(lambda: (time.sleep(0.01), compiled.append(number)))

    training = {number: functools.partial(trace, number) for number in range(100)}
    with pytest.raises(
        UserError, match="big does not fit .* lower config.batch.groups, .*Ran out of memory in hbm"
    ):
        Programs(training, {"big": lambda: Traced(refuse)}, quiet=True).compile()
    assert len(compiled) < 50


@pytest.mark.parametrize("threads", [1, 3])
def test_programs_are_traced_one_by_one_while_others_compile(threads, monkeypatch, capsys):
    """In any order of completion, all programs are compiled and each is counted once."""
    monkeypatch.setattr("os.cpu_count", lambda: threads)
    traced, tracing, free = [], threading.Lock(), threading.Event()

    def lower(key, is_last):
        def compile():
            assert is_last or free.wait(10)  # programs that are traced first finish last
            return key

        def trace():
            assert tracing.acquire(blocking=False)
            traced.append(key)
            if is_last:
                free.set()
            tracing.release()
            return Traced(compile)

        return trace

    training = {name: lower(name, name == "small") for name in ("small", "middle", "large")}
    programs = Programs(training, {"rendering": lower("rendering", False)})
    programs.compile()
    assert traced == ["rendering", "large", "middle", "small"]
    assert programs._compiled == {key: key for key in traced}
    log = capsys.readouterr().err
    lines = [line.split()[0] for line in log.splitlines() if "/4" in line]
    assert lines == ["1/4", "2/4", "3/4", "4/4"]


def test_compiler_options_are_those_of_training_programs():
    training, other = Traced(lambda: "step"), Traced(lambda: "rendering")
    options = {"xla_gpu_enable_triton_gemm": False}
    programs = {"step": lambda: training}, {"rendering": lambda: other}
    Programs(*programs, quiet=True, compiler_options=options).compile()
    assert training.options == options and other.options is None


def test_fast_compilation_is_for_gpus(monkeypatch):
    mesh = make_mesh({"data": 1, "fsdp": 1, "view": 1}, jax.devices()[:1])
    assert fast_compilation(mesh) is None
    monkeypatch.setattr("muskie_jax.programs.platform", lambda mesh: "gpu")
    jax.jit(jnp.sin).lower(1.0).compile(fast_compilation(mesh))  # raises for an unknown option
