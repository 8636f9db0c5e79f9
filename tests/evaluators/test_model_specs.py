"""Parsing of `config.evaluate.models`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from muskie_jax.checkpoint import Checkpointer
from muskie_jax.config import default_config
from muskie_jax.errors import UserError
from muskie_jax.evaluators import model_specs
from muskie_jax.evaluators.eval_models import FramewiseNetwork, MuskieNetwork
from muskie_jax.evaluators.model_specs import find_models
from muskie_jax.models.muskie import build_model
from muskie_jax.optim import make_optimizer
from muskie_jax.train_step import TrainState
from muskie_tests import framewise_networks

STEPS = (10, 20, 30, 40)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of the smallest network, with a checkpoint every ten steps."""
    root = tmp_path_factory.mktemp("runs")
    config = default_config()
    config.model.variant = "nano"
    images, mask = jnp.zeros((1, 1, 16, 16, 3)), jnp.zeros((1, 1, 1), bool)
    for seed, (name, steps) in enumerate({"first": STEPS, "second": (5,)}.items()):
        params = jax.jit(build_model("nano").init)(jax.random.key(seed), images, mask)["params"]
        checkpoints = Checkpointer(root / name, keep=9)
        for step in steps:
            checkpoints.save(
                TrainState(jnp.int32(step), params, make_optimizer(config).init(params)), config
            )
        checkpoints.close()
    (root / "scene_index").mkdir()
    (root / "scene_index" / "list.json").write_text("{}")
    return root


def found(*entries, checkpoints="last"):
    return find_models(entries, checkpoints, "float32")


@pytest.mark.parametrize(
    "checkpoints, steps",
    [("last", [40]), ("all", [10, 20, 30, 40]), ("every 2", [20, 40]), ("every 3", [30, 40])],
)
def test_checkpoints_of_a_run(runs, checkpoints, steps):
    models = found(str(runs / "first"), checkpoints=checkpoints)
    assert [model.step for model in models] == steps
    assert {(model.name, model.source) for model in models} == {("first", str(runs / "first"))}
    assert len({model.version for model in models}) == len(models)


@pytest.mark.parametrize("path", ["first/20", "first/checkpoints/20"])
def test_one_checkpoint(runs, path):
    (spec,) = found(f"mine={runs / path}", checkpoints="all")
    assert (spec.name, spec.step, spec.source) == ("mine", 20, str(runs / "first"))
    model = spec.load()
    assert isinstance(model.network, MuskieNetwork) and model.network.module.width == 48
    assert model.info.step == 20 and model.info.parameters > 1e5 and len(model.info.digest) == 16


def test_a_pattern_matches_runs_only(runs):
    models = found(str(runs / "*"))
    assert [(model.name, model.step) for model in models] == [("first", 40), ("second", 5)]
    named = found(f"ours={runs / '*'}")
    assert [model.name for model in named] == ["ours/first", "ours/second"]


def test_untrained_has_the_size_of_the_first_muskie_before_it(runs):
    _, twin, small = found(str(runs / "first"), "untrained", "untrained:tiny")
    assert (twin.name, twin.step, small.name, small.step) == ("untrained", 0, "untrained (tiny)", 0)
    model = twin.load()
    assert (model.network.module.width, model.network.module.depth, model.info.step) == (48, 2, 0)
    first, again = (np.asarray(twin.load().params["patch_embed"]["kernel"]) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert small.load().network.module.width == 192


def test_baselines_and_backbones(tmp_path):
    (tmp_path / "dino.pth").write_bytes(b"no weights")
    still, patches, dino = found("still", "raw=patches", f"dinov2:{tmp_path / 'dino.pth'}")
    assert (still.kind, patches.kind, patches.name) == ("still", "patches", "raw")
    assert still.load().info.kind == "still" and patches.load().info.name == "raw"
    assert (dino.kind, dino.name, dino.step) == ("dinov2", "dinov2 dino", None)
    with pytest.raises(UserError, match=r"dino\.pth"):
        dino.load()


@pytest.mark.extras
def test_a_backbone_is_loaded(tmp_path, monkeypatch):
    # No published network is this small, so its number of heads must be given.
    load = functools.partial(model_specs.load_framewise, num_heads=framewise_networks.HEADS)
    monkeypatch.setattr(model_specs, "load_framewise", load)
    safetensors.numpy.save_file(
        framewise_networks.transformers_tensors("dinov2"), tmp_path / "dino.safetensors"
    )
    (spec,) = found(f"ours=dinov2:{tmp_path / 'dino.safetensors'}")
    model = spec.load()
    assert isinstance(model.network, FramewiseNetwork) and model.info.name == "ours"
    images = jnp.zeros((1, 2, 30, 44, 3))
    activations = jax.eval_shape(model.network.activations, model.params, images)
    patch = model.network.module.settings.patch
    rows, columns = round(30 / patch), round(44 / patch)
    assert [x.shape[:4] for x in activations.features] == [
        (1, 2, rows, columns)
    ] * model.network.module.settings.depth
    assert not activations.to_others


@pytest.mark.parametrize(
    "entries, message",
    [
        (("untrained",), "use 'untrained:small'"),
        (("untrained:smal",), "did you mean 'small'"),
        (("runs/nowhere/at all",), "'runs/nowhere/at all' does not exist"),
        (("=runs/a",), "must be 'name=source'"),
        (("name=",), "must be 'name=source'"),
        (("nothing/like/*/this",), "no weights match 'nothing/like/*/this'"),
        (("dinov2:nowhere/at/all.pth",), "'nowhere/at/all.pth' does not exist"),
        (("a=still", "a=patches"), "still and patches would both be called 'a'"),
    ],
)
def test_invalid_entries(entries, message):
    with pytest.raises(UserError) as caught:
        found(*entries)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_rewritten_weights_have_another_version(tmp_path):
    path = tmp_path / "saved" / "model.safetensors"
    path.parent.mkdir()
    versions = set()
    for content in (b"one", b"others"):
        path.write_bytes(content)
        versions |= {found(str(source))[0].version for source in (path, path.parent)}
    assert len(versions) == 2


def test_a_mistyped_run_is_not_taken_for_a_hub_repository(runs, monkeypatch):
    monkeypatch.chdir(runs.parent)
    with pytest.raises(UserError, match=f"'{runs.name}/frist' does not exist"):
        found(f"{runs.name}/frist")
    assert found("user/name")[0].version == "elsewhere"


def test_a_run_without_checkpoints(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="has no checkpoint yet"):
        found(str(tmp_path / "run"))
    with pytest.raises(UserError, match="has no checkpoint 7"):
        found(str(tmp_path / "run" / "7"))
