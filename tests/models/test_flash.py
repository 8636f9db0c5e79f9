"""FlashAttention-3: when it is selected, and what it is given. On CPUs a stand-in computes the result."""

import functools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from muskie_jax.buckets import Bucket
from muskie_jax.models import attention, flash
from muskie_jax.models.attention import ATTENTION, Attention, keep_only, xla_attention
from muskie_jax.models.muskie import REMAT, build_model
from muskie_jax.progress import describe_attention
from muskie_jax.sharding import make_mesh

BFLOAT16 = jnp.dtype("bfloat16")


@pytest.fixture
def calls(monkeypatch):
    """Installs the stand-in, and returns the list of the (queries, keys) shapes that it is given."""
    shapes = []

    def flash_mha(query, key, value):
        assert query.dtype == key.dtype == value.dtype == BFLOAT16
        assert key.shape == value.shape and query.shape[2:] == key.shape[2:]
        shapes.append((query.shape, key.shape))
        return xla_attention(query, key, value)

    monkeypatch.setitem(sys.modules, "dew_flash_attn", types.SimpleNamespace(flash_mha=flash_mha))
    flash.is_installed.cache_clear()
    yield shapes
    flash.is_installed.cache_clear()


@pytest.fixture
def missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "dew_flash_attn", None)  # its import then fails
    flash.is_installed.cache_clear()
    yield
    flash.is_installed.cache_clear()


@pytest.fixture
def hopper(monkeypatch):
    monkeypatch.setattr(Attention, "platform", "gpu")
    monkeypatch.setattr(flash, "runs_on", lambda device: True)


@pytest.mark.parametrize(
    "dtype, head_size, keys, expected",
    [
        (BFLOAT16, 64, 544, "flash"),
        (BFLOAT16, 64, flash.FEWEST_KEYS, "flash"),
        (BFLOAT16, 64, flash.FEWEST_KEYS - 1, "cudnn"),
        (BFLOAT16, 80, 8224, "flash"),
        (BFLOAT16, 12, 68, "flash"),  # cuDNN needs a multiple of 8
        (BFLOAT16, 264, 544, "cudnn"),
        (jnp.dtype("float32"), 64, 544, "xla"),
    ],
)
def test_auto_selects_the_faster_kernel(calls, hopper, dtype, head_size, keys, expected):
    assert Attention().kernel(dtype, head_size, keys) == expected


def test_a_deterministic_run_does_without(calls, hopper):
    attend = Attention(deterministic=True)
    assert attend.kernel(BFLOAT16, 64, 544) == "cudnn" and attend.kernel(BFLOAT16, 12, 68) == "xla"


def test_without_package_or_hopper_cudnn_is_selected(missing, hopper, monkeypatch):
    assert Attention().kernel(BFLOAT16, 64, 544) == "cudnn"
    assert Attention().kernel(BFLOAT16, 12, 544) == "xla"
    assert Attention().misses_flash(BFLOAT16, 64, 544)
    assert not Attention().misses_flash(BFLOAT16, 64, 68)
    assert not Attention().misses_flash(jnp.dtype("float32"), 64, 544)
    assert not Attention(deterministic=True).misses_flash(BFLOAT16, 64, 544)
    monkeypatch.setattr(flash, "runs_on", lambda device: False)
    assert not Attention().misses_flash(BFLOAT16, 64, 544)


def test_a_missing_package_or_other_gpu_is_an_error(missing, hopper, monkeypatch):
    with pytest.raises(ValueError, match=r"python -m pip install dew-flash-attn-cu13==0\.3\.6 \(Linux"):
        Attention("flash")
    monkeypatch.setattr(flash, "runs_on", lambda device: False)
    with pytest.raises(ValueError, match="'flash' needs an H100 or H200, and this is a cpu: use 'auto'"):
        Attention("flash")


def test_the_architecture_decides():
    device = lambda capability: types.SimpleNamespace(compute_capability=capability)
    assert flash.runs_on(device("9.0"))
    assert not flash.runs_on(device("8.9")) and not flash.runs_on(device("10.0"))
    assert not flash.runs_on(jax.devices()[0])


def test_the_log_names_kernels_and_package(calls, hopper, capsys):
    model = build_model("base", dtype="bfloat16")
    describe_attention(model, [Bucket(224, 224, 8), Bucket(512, 512, 8)])
    assert "Attention: cudnn and flash within views, flash across views\n" in capsys.readouterr().err
    describe_attention(model, [Bucket(512, 512, 8)])
    assert capsys.readouterr().err.endswith("Attention: flash\n")


def test_the_log_names_a_missing_package(missing, hopper, capsys):
    describe_attention(build_model("base", dtype="bfloat16"), [Bucket(512, 512, 8)])
    log = capsys.readouterr().err
    assert "Attention: cudnn\n" in log and f"{flash.INSTALL}\n" in log


def draw(*shape):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), BFLOAT16) for _ in range(3)]


def test_sequences_are_groups_or_views(calls, hopper):
    arrays = draw(2, 4, 5, 3, 8)
    attend = Attention("flash")
    for across_views, sequences in ((True, (2, 20)), (False, (8, 5))):
        out = attend(*arrays, across_views)
        shape = (*sequences, 3, 8)
        assert calls.pop() == (shape, shape)
        expected = xla_attention(*(x.reshape(shape) for x in arrays)).reshape(out.shape)
        np.testing.assert_array_equal(np.float32(out), np.float32(expected))


@pytest.mark.parametrize("sizes, keys", [((4, 2, 1), 20), ((2, 2, 2), 20), ((1, 1, 4), 20)])
def test_every_device_calls_it_with_its_groups_and_all_keys(calls, hopper, sizes, keys):
    arrays = draw(8, 4, 5, 3, 8)
    groups, views = 8 // (sizes[0] * sizes[1]), 4 // sizes[2]
    mesh = make_mesh(dict(zip(("data", "fsdp", "view"), sizes)), jax.devices()[: np.prod(sizes)])
    out = jax.jit(lambda *arrays: Attention("flash", mesh)(*arrays, True))(*arrays)
    assert calls == [((groups, views * 5, 3, 8), (groups, keys, 3, 8))]
    single = Attention("flash")(*arrays, True)
    np.testing.assert_allclose(np.float32(out), np.float32(single), atol=2e-2)


@functools.partial(jax.custom_vjp)
def foreign(x):
    return foreign_forward(x)[0]


def foreign_forward(x):
    """Two results of a foreign function call, as FlashAttention's: output and softmax statistics."""
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    out, statistics = jax.ffi.ffi_call(flash.FORWARD_CALL, (shape, shape))(x)
    return out, (out, statistics)


foreign.defvjp(foreign_forward, lambda saved, gradient: (gradient * saved[0] * saved[1],))


@pytest.mark.parametrize("remat", [remat for remat in REMAT if REMAT[remat] is not None])
def test_rematerialisation_keeps_output_and_statistics(remat):
    def block(x):
        return jnp.sin(foreign(jnp.cos(checkpoint_name(x, "qkv"))))

    remat_block = jax.checkpoint(block, policy=keep_only(REMAT[remat]))
    text = str(jax.make_jaxpr(jax.grad(lambda x: remat_block(x).sum()))(jnp.ones(3)))
    assert text.count("ffi_call") == (1 if ATTENTION in REMAT[remat] else 2)


def test_every_kernel_has_one_platform_or_all():
    assert set(attention.PLATFORMS) == set(attention.KERNELS) - {"xla"}
