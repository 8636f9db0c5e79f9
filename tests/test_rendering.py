"""Synthetic groups become the same batches as photographs do."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from conftest import write_scene
from muskie_jax import rendering
from muskie_jax.buckets import Bucket
from muskie_jax.config import default_config, synthetic
from muskie_jax.data.mixture import build_mixture, photo_textures
from muskie_jax.data.synthetic import WorldConfig, render_groups
from muskie_jax.errors import UserError
from muskie_jax.rendering import BatchPlacer, order_for_splitting, split_groups
from muskie_jax.sharding import make_mesh

BUCKET = Bucket(32, 48, 2)
WORLD = WorldConfig(num_boxes=2, num_ellipsoids=1, num_cylinders=1)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "scene": rng.integers(2**32, size=(2, 2), dtype=np.uint32),
        "order": np.stack([rng.permutation(4) for _ in range(2)]).astype(np.int32),
        "mask": np.zeros((4, 2, 6), bool),
        "source": np.array([0, 0, 1, 1], np.int32),
    }


def place(batch, *worlds, photos=None, devices=1, view=1):
    mesh = make_mesh({"data": -1, "fsdp": 1, "view": view}, jax.devices()[:devices])
    return BatchPlacer(2, worlds, photos or {}, mesh)(BUCKET, batch)


@pytest.fixture(scope="module")
def plain(batch):
    return np.asarray(place(batch, WORLD, WORLD)["images"], int)


@functools.cache
def renderer(world):
    size = {"num_views": 4, "height": 32, "width": 48}
    return jax.jit(lambda seeds: render_groups(seeds, config=world, **size).images)


def rendered(batch, world):
    groups = renderer(world)(batch["scene"])
    ordered = np.take_along_axis(np.asarray(groups), batch["order"][:, :, None, None, None], axis=1)
    return ordered.reshape(4, 2, 32, 48, 3)


@pytest.mark.slow
def test_one_program_renders_all_buckets_of_a_size(batch):
    mesh = make_mesh({"data": 1, "fsdp": 1, "view": 1}, jax.devices()[:1])
    placer, evaluator = (BatchPlacer(2, (WORLD, WORLD), {}, mesh) for _ in range(2))
    buckets = [Bucket(32, 48, views) for views in (1, 2, 4)]
    programs = placer.to_compile(buckets, 4)
    assert sum("as groups" not in name for name in programs) == 1 and len(programs) == 3
    assert set(evaluator.to_compile(buckets[2:], 4)) < set(programs)
    for lower in programs.values():  # fills the cache for the calls below
        lower().compile()
    compiled = []
    count = lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        for bucket in buckets:
            masks = {"mask": np.zeros((8 // bucket.views, bucket.views, 6), bool)}
            split = {**batch, **masks, "source": np.zeros(8 // bucket.views, np.int32)}
            images = placer(bucket, split)["images"]
            assert images.shape == (8 // bucket.views, bucket.views, 32, 48, 3)
        evaluator(bucket, split)
        assert not compiled
        jax.jit(lambda x: x + 1)(1)
        assert compiled  # the listener does see compilations
    finally:
        jax.monitoring.unregister_event_duration_listener(count)


@pytest.mark.slow
def test_views_are_reordered_and_split_like_photographs(batch, plain):
    # Programs compiled differently may round single pixels differently.
    assert np.abs(plain - rendered(batch, WORLD)).max() <= 1
    sharded = place(batch, WORLD, WORLD, devices=4, view=2)
    assert sorted(sharded) == ["images", "mask", "source"]
    assert {shard.data.shape for shard in sharded["images"].addressable_shards} == {(2, 1, 32, 48, 3)}
    assert np.abs(plain - np.asarray(sharded["images"], int)).max() <= 1


@pytest.mark.slow
def test_camera_faults_do_not_depend_on_sharding(batch, plain):
    world = dataclasses.replace(
        WORLD,
        orbit=(30.0, 90.0),
        defocus=0.02,
        motion_blur=0.05,
        vignetting=0.4,
        contrast=0.3,
        noise=0.05,
        jpeg=1.5,
    )
    alone = np.asarray(place(batch, world, world)["images"], int)
    sharded = np.asarray(place(batch, world, world, devices=4, view=2)["images"], int)
    # Equal where programs are optimised. As compiled for tests, they may round single pixels differently,
    # and JPEG passes that on to a block.
    assert (alone == sharded).mean() > 0.97 and np.abs(alone - sharded).mean() < 0.05
    assert np.abs(alone - plain).mean() > 5


def test_splitting_groups_needs_no_communication():
    mesh = make_mesh({"data": 1, "fsdp": 2, "view": 2}, jax.devices()[:4])
    placer = BatchPlacer(2, (WORLD,), {}, mesh)
    (name,) = (name for name in placer.to_compile([BUCKET], 8) if name.endswith("groups of 2"))
    program = placer.to_compile([BUCKET], 8)[name]().compile().as_text()
    assert not re.search("all-to-all|all-gather|all-reduce|collective-permute", program)
    numbers = order_for_splitting(np.arange(16, dtype=np.int32).reshape(2, 8), views=2, shards=2)
    split = split_groups(numbers[..., None, None, None], views=2, shards=2)
    np.testing.assert_array_equal(split.ravel(), range(16))


def test_every_group_is_rendered_in_the_world_of_its_source(batch):
    other = dataclasses.replace(WORLD, exposure=0.0, num_boxes=3)
    images = np.asarray(place(batch, WORLD, other)["images"], int)
    assert np.abs(images[:2] - rendered(batch, WORLD)[:2]).max() <= 1
    assert np.abs(images[2:] - rendered(batch, other)[2:]).max() <= 1
    assert np.abs(images[2:] - rendered(batch, WORLD)[2:]).max() > 30


@pytest.mark.slow
def test_groups_of_several_worlds_are_rendered_in_chunks(monkeypatch):
    """Chunks of 3 of 7 groups: some are not full, and one may not be needed."""
    monkeypatch.setattr(rendering, "GROUPS_AT_ONCE", 3)
    other = dataclasses.replace(WORLD, exposure=0.0, num_boxes=3)
    rng = np.random.default_rng(1)
    seeds = rng.integers(2**32, size=(7, 2), dtype=np.uint32)
    order = np.stack([rng.permutation(4) for _ in range(7)]).astype(np.int32)
    worlds = {"size": (32, 48), "worlds": (WORLD, None, other)}
    render_by_world = jax.jit(functools.partial(rendering.render_by_world, **worlds))
    render_views = jax.jit(functools.partial(rendering.render_views, **worlds))
    for sources in ([0] * 7, [2] * 7, [2, 0, 0, 2, 0, 0, 0], [0, 2, 2, 2, 0, 2, 0]):
        arguments = seeds, order, np.array(sources, np.int32), {}
        by_world = np.asarray(render_by_world(*arguments)["images"], int)
        everywhere = np.asarray(render_views(*arguments)["images"], int)
        equal = (np.abs(by_world - everywhere) <= 1).mean()
        assert equal > 0.999, f"{sources}: programs may round single pixels differently"
        assert len({image.tobytes() for image in by_world}) == 7, sources


@pytest.mark.slow
def test_devices_render_their_groups_alone(batch):
    other = dataclasses.replace(WORLD, num_boxes=3)
    alone, sharded = (
        np.asarray(place(batch, WORLD, other, devices=devices)["images"], int) for devices in (1, 2)
    )
    assert np.abs(alone - sharded).max() <= 1


@pytest.mark.slow
def test_photographs_become_textures(batch, tmp_path):
    write_scene(tmp_path / "deep" / "down" / "scene", 6, 0)
    (tmp_path / "deep" / "broken.jpg").write_text("no image")
    assert photo_textures(str(tmp_path), most=4).shape[1:] == (256, 256, 3)
    assert len(photo_textures(str(tmp_path), most=100)) == 6
    config = default_config()
    config.sources.rooms = synthetic(photos=str(tmp_path), photo_texture_fraction=1.0)
    mixture = build_mixture(config)
    with_photos = place(batch, WORLD, WORLD, photos={0: mixture.photos[0]})["images"]
    plain = rendered(batch, WORLD)
    assert np.abs(np.asarray(with_photos, int)[:2] - plain[:2]).mean() > 5
    assert np.abs(np.asarray(with_photos, int)[2:] - plain[2:]).max() <= 1
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=f"no image .*'{empty}'"):
        photo_textures(str(empty), most=4)
