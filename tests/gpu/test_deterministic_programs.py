"""`config.deterministic` sets XLA's flag before the first device is used."""

import os

import jax
import jax.numpy as jnp
import pytest
from jax._src import xla_bridge
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from muskie_jax.config import default_config, synthetic, validate
from muskie_jax.errors import UserError
from muskie_jax.evaluate import evaluate
from muskie_jax.gpu import determinism
from muskie_jax.gpu.determinism import require_deterministic_programs
from muskie_jax.perf.benchmark import benchmark
from muskie_jax.sharding import make_mesh
from muskie_jax.train import train
from muskie_jax.train_step import make_task

FLAG = "--xla_gpu_deterministic_ops"


@pytest.fixture
def config():
    config = default_config()
    config.sources.rooms = synthetic()
    config.deterministic = True
    return config


@pytest.fixture(autouse=True)
def restore_cudnn(monkeypatch):
    name = "create_dot_product_attention_backend_config_base"
    monkeypatch.setattr(cudnn, name, getattr(cudnn, name))


def start_jax(monkeypatch, started: bool, platform: str = "gpu") -> None:
    monkeypatch.setattr(xla_bridge, "backends_are_initialized", lambda: started)
    monkeypatch.setattr(determinism.jax, "default_backend", lambda: platform)


def test_the_installed_jax_reports_that_it_has_started():
    jax.devices()
    assert xla_bridge.backends_are_initialized()


@pytest.mark.parametrize(
    "before, after",
    [
        (None, f"{FLAG}=true"),
        ("--xla_a=1  --xla_b", f"--xla_a=1 --xla_b {FLAG}=true"),
        (f"{FLAG}=true --xla_a=1", f"{FLAG}=true --xla_a=1"),
        (FLAG, FLAG),
        (f"{FLAG}_other=false", f"{FLAG}_other=false {FLAG}=true"),
    ],
)
def test_the_flag_is_added_to_those_of_the_user(before, after, monkeypatch):
    start_jax(monkeypatch, started=False)
    monkeypatch.setenv("XLA_FLAGS", before or "")
    if before is None:
        monkeypatch.delenv("XLA_FLAGS")
    for _ in range(2):  # a second job of one process changes nothing
        require_deterministic_programs()
        assert os.environ["XLA_FLAGS"] == after


def test_a_gpu_that_started_without_the_flag_is_an_error(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    start_jax(monkeypatch, started=True)
    with pytest.raises(UserError, match=f"JAX has already started on the GPU: set XLA_FLAGS={FLAG}=true"):
        require_deterministic_programs()
    assert os.environ["XLA_FLAGS"] == "--xla_a=1"
    for platform in ("cpu", "tpu"):  # they need no flag
        start_jax(monkeypatch, started=True, platform=platform)
        require_deterministic_programs()
    monkeypatch.setenv("XLA_FLAGS", f"{FLAG}=true")
    start_jax(monkeypatch, started=True)
    require_deterministic_programs()


@pytest.mark.parametrize("job", [train, evaluate, benchmark])
def test_every_job_requires_it_before_it_uses_devices(job, config, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"{FLAG}=false")
    monkeypatch.setattr(jax, "devices", lambda *_: pytest.fail("devices were used"))
    with pytest.raises(UserError, match=f"XLA_FLAGS has {FLAG}=false, which contradicts config.determinis"):
        job(config, tmp_path)


def test_attention_is_told(config):
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    assert make_task(config, mesh, 1).model.attention.deterministic
    config.deterministic = False
    assert not make_task(config, mesh, 1).model.attention.deterministic


def test_a_kernel_that_is_not_deterministic_is_an_error(config):
    config.model.attention = "flash"
    with pytest.raises(UserError, match="attention='flash' is not deterministic, but .* use 'auto'"):
        validate(config)
    config.deterministic = False
    validate(config)
    config.deterministic, config.model.attention = True, "auto"
    validate(config)


def test_every_backward_call_of_cudnn_asks_for_determinism(monkeypatch):
    """XLA asks only in the first of several equal calls, and then fails."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91300)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda *_: False)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda *_: False)
    shape = jax.ShapeDtypeStruct((2, 16, 4, 64), jnp.bfloat16)

    def program():  # a new function, since JAX keeps traces
        attend = lambda x: jax.nn.dot_product_attention(x, x, x, implementation="cudnn")
        loss = lambda x: attend(attend(x)).astype(jnp.float32).sum()
        return jax.jit(jax.grad(loss)).trace(shape).lower(lowering_platforms=("cuda",)).as_text()

    marks = lambda text: text.count("force_deterministic\\22: true")
    assert marks(program()) == 0
    for _ in range(2):
        monkeypatch.setenv("XLA_FLAGS", "")
        start_jax(monkeypatch, started=False)
        require_deterministic_programs()
        text = program()
        assert text.count("fmhaSoftmaxBackward") == marks(text) == 2
