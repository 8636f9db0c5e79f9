"""The FLOPs and views that progress lines count."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from muskie_jax.buckets import Bucket
from muskie_jax.config import default_config, synthetic
from muskie_jax.models.initial_params import draw_params
from muskie_jax.models.muskie import build_model
from muskie_jax.models.reconstruction import Reconstruction
from muskie_jax.perf.flops import training_flops
from muskie_jax.progress import Progress, describe_changes


def test_views_and_flops_of_all_groups_count():
    bucket, model = Bucket(128, 128, 8), build_model("nano")
    progress = Progress(model, jax.devices()[0], 1, 0, 10)
    progress.count([(bucket, {"source": np.zeros(3, np.int32)})] * 2)
    assert progress.views == 2 * 3 * 8
    assert progress.flops == 6 * training_flops(model, bucket)


def test_flops_of_a_reconstruction_are_those_that_the_compiler_counts():
    bucket, model = Bucket(128, 128, 2), Reconstruction(build_model("small"), decoder_depth=1)
    params = jax.eval_shape(lambda key: draw_params(model, key), jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, 2, 128, 128, 3), np.float32)

    def counted(network, params, **options):
        forward = lambda params, images: network.apply({"params": params}, images, **options)
        return jax.jit(forward).lower(params, images).cost_analysis()["flops"]

    everything = counted(model, params)
    assert training_flops(model, bucket) == pytest.approx(3 * everything, rel=0.03)
    frozen = model.clone(freeze_backbone=True)
    backbone = counted(model.backbone, params["backbone"], method="features")
    assert training_flops(frozen, bucket) == pytest.approx(3 * everything - 2 * backbone, rel=0.03)


def test_settings_of_old_checkpoints_are_compared_under_their_new_names(capfd):
    config = default_config()
    old = json.loads(config.to_json_best_effort())
    old["sweep"] = old.pop("evaluate")
    old["sweep"]["share"] = old["sweep"].pop("shard")
    old["data"]["max_bad_share"] = old["data"].pop("max_bad_fraction")
    old["sources"] = json.loads(synthetic_sources().to_json_best_effort())
    world = old["sources"]["rooms"]["world"]
    world["photo_texture_share"] = world.pop("photo_texture_fraction")
    config.sources = synthetic_sources()
    describe_changes(old, config)
    assert capfd.readouterr().err == ""
    config.seed, config.data.max_bad_fraction = 1, 0.5
    describe_changes(old, config)
    lines = capfd.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["config.data.max_bad_fraction", "config.seed"]


def synthetic_sources():
    return ConfigDict({"rooms": synthetic()})
