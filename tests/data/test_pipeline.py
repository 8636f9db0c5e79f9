"""Batches are a function of the seed and the step; workers, hosts and the first step do not matter."""

import dataclasses
import itertools
import multiprocessing
import os
import signal
from typing import Any

import numpy as np
import pytest
from absl import flags

from conftest import write_scene
from muskie_jax.buckets import Bucket, BucketSchedule
from muskie_jax.config import default_config, folder, synthetic
from muskie_jax.data.loads import PhotoLoad
from muskie_jax.data.mixture import build_mixture, evaluation_sampler, training_sampler
from muskie_jax.data.pipeline import BLOCK, Pipeline
from muskie_jax.data.samples import MAX_REPLACEMENTS
from muskie_jax.errors import UserError
from muskie_jax.masking import MaskOptions

GROUPS, VIEWS = 4, 4


def sampler_for(root, seed=0, **sources):
    config = default_config()
    config.seed = seed
    config.model.variant = "nano"
    config.batch = {"groups": GROUPS, "views": VIEWS, "reuse": 2, "passes": 1}
    config.buckets.update({"resolutions": (((32, 32),), ((48, 32), (32, 48))), "views": (1, 2, 4)})
    config.evaluation.update({"size": (32, 32), "views": 4})
    config.sources.update(sources or {"photos": folder(root=str(root))})
    mixture = build_mixture(config)
    return training_sampler(config, mixture), evaluation_sampler(config, mixture)


@pytest.fixture(scope="module")
def sampler(photo_folder):
    return sampler_for(photo_folder)[0]


@pytest.fixture(scope="module")
def mixed(photo_folder):
    """Draws from photographs and synthetic rooms."""
    return sampler_for(None, photos=folder(root=str(photo_folder)), rooms=synthetic())[0]


@pytest.fixture(scope="module")
def rooms():
    """Draws from two synthetic worlds."""
    return sampler_for(None, rooms=synthetic(weight=3.0), gentle=synthetic(roll_jitter=3.0))[0]


def take(sampler, count, first=0, rows=range(GROUPS), workers=0):
    pipeline = Pipeline(sampler, rows, workers)
    return list(itertools.islice(pipeline.updates(first), count))


def flat(updates):
    """All arrays of some updates in order, each with its bucket and key."""
    return [
        (bucket, key, batch[key]) for update in updates for bucket, batch in update for key in sorted(batch)
    ]


def assert_same(ours, other):
    assert len(flat(ours)) == len(flat(other)) > 0
    for (bucket, key, a), (other_bucket, other_key, b) in zip(flat(ours), flat(other)):
        assert (bucket, key) == (other_bucket, other_key)
        np.testing.assert_array_equal(a, b)


def test_shapes_and_types(sampler):
    for update in take(sampler, 6):
        assert len(update) == 2
        for bucket, batch in update:
            split = GROUPS * VIEWS // bucket.views
            patches = (bucket.height // 16) * (bucket.width // 16)
            assert batch["images"].shape == (split, bucket.views, bucket.height, bucket.width, 3)
            assert batch["mask"].shape == (split, bucket.views, patches)
            assert batch["source"].shape == (split,)
            assert [batch[k].dtype for k in ("images", "mask", "source")] == [np.uint8, bool, np.int32]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("first", [0, 3, 4])
def test_batches_do_not_depend_on_workers_or_the_first_step(mixed, workers, first):
    expected = take(mixed, 7)
    keys = {key for _, key, _ in flat(expected[4:])}
    assert {"images", "scene"} <= keys
    assert_same(take(mixed, 7 - first, first, workers=workers), expected[first:])


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_workers_run_on_after_a_signal_until_the_trainer_has_saved(sampler, name):
    updates = Pipeline(sampler, range(GROUPS), workers=1).updates()
    batches = [next(updates)]
    workers = multiprocessing.active_children()
    assert workers
    for worker in workers:
        assert worker.pid is not None
        os.kill(worker.pid, signal.Signals[name])
    batches += itertools.islice(updates, 20)  # more than are read ahead
    updates.close()
    assert_same(batches, take(sampler, 21))


def assert_hosts_load(sampler, updates, ends):
    """Hosts whose rows end at `ends` load the parts of `updates`."""
    parts = [take(sampler, len(updates), rows=range(*span)) for span in itertools.pairwise((0, *ends))]
    for step, update in enumerate(updates):
        for number, (bucket, batch) in enumerate(update):
            for key, value in batch.items():
                joined = np.concatenate([part[step][number][1][key] for part in parts])
                np.testing.assert_array_equal(joined, value, err_msg=f"{bucket} {key}")


def test_workers_start_in_a_script_that_parses_no_flags(sampler):
    flags.FLAGS.unparse_flags()
    try:
        assert_same(take(sampler, 1, workers=1), take(sampler, 1))
    finally:
        flags.FLAGS.mark_as_parsed()


def test_batches_do_not_depend_on_hosts(mixed):
    assert_hosts_load(mixed, take(mixed, 4), (1, 2, 4))


def test_batches_do_not_depend_on_hosts_whose_rows_split_a_block_of_rooms(rooms):
    groups = 2 * BLOCK + 5
    updates = take(rooms, 3, rows=range(groups))
    assert_hosts_load(rooms, updates, (3, BLOCK + 1, 2 * BLOCK, groups))
    assert_same(take(rooms, 2, 1, rows=range(groups)), updates[1:])


def test_rows_of_a_host_need_not_be_consecutive(mixed, rooms):
    for sampler, groups, rows in [(mixed, 4, (0, 3)), (rooms, 3 * BLOCK, (1, 2, 2 * BLOCK, 2 * BLOCK + 7))]:
        all_rows, some_rows = take(sampler, 4, rows=range(groups)), take(sampler, 4, rows=rows)
        for (bucket, key, ours), (_, _, all_hosts) in zip(flat(some_rows), flat(all_rows), strict=True):
            groups_first = all_hosts.reshape(groups, -1, *all_hosts.shape[1:])
            expected = groups_first[list(rows)].reshape(ours.shape)
            np.testing.assert_array_equal(ours, expected, err_msg=f"{bucket} {key}")


def test_rooms_of_a_load_are_drawn_independently(rooms):
    groups = 20 * BLOCK
    schedule = BucketSchedule((((128, 128),),), (2,), 0)
    sampler = dataclasses.replace(rooms, schedule=schedule, masks=MaskOptions((("random", 0.5),), 1))
    ((_, first),), ((_, second),), ((_, third),) = take(sampler, 3, rows=range(groups))
    assert len(np.unique(first["scene"], axis=0)) == groups
    assert (first["scene"] == second["scene"]).all() and (first["scene"] != third["scene"]).any(1).all()
    for batch in (first, second):
        assert batch["scene"].dtype == np.uint32 and batch["order"].dtype == np.int32
        assert (np.sort(batch["order"], axis=1) == np.arange(VIEWS)).all()
        # Each view has each position in a quarter of the groups, with a standard error of 0.024.
        at = (batch["order"][..., None] == np.arange(VIEWS)).mean(0)
        assert np.abs(at - 1 / VIEWS).max() < 5 * 0.024
        assert batch["mask"].shape == (2 * groups, 2, 64) and not batch["mask"][:, 0].any()
        assert len(np.unique(batch["mask"][:, 1], axis=0)) == 2 * groups
    assert (first["order"] != second["order"]).any(1).mean() > 0.9
    assert (first["mask"] != second["mask"])[:, 1].any(1).all()
    numbers = first["source"].reshape(groups, -1)
    assert (numbers == numbers[:, :1]).all() and first["source"].dtype == np.int32
    (heavy,) = [number for number, source in enumerate(sampler.sources) if source.weight == 3.0]
    assert np.mean(numbers[:, 0] == heavy) == pytest.approx(0.75, abs=0.12)


def test_synthetic_sources_start_no_worker_processes(rooms):
    before = multiprocessing.active_children()
    assert_same(take(rooms, 2, workers=2), take(rooms, 2))
    updates = Pipeline(rooms, range(GROUPS), workers=2).updates()
    next(updates)
    assert multiprocessing.active_children() == before


def test_seeds_differ(photo_folder, sampler):
    ours, other = take(sampler, 1), take(sampler_for(photo_folder, seed=1)[0], 1)
    assert any(
        a.shape != b.shape or (a != b).any() for (_, _, a), (_, _, b) in zip(flat(ours), flat(other))
    )


def with_bucket(sampler, height, width, views):
    """The sampler with a single bucket."""
    return dataclasses.replace(sampler, schedule=BucketSchedule((((height, width),),), (views,), 0))


def test_a_load_is_reused_with_views_permuted_and_new_masks(sampler):
    (first,), (second,), (third,) = take(with_bucket(sampler, 32, 32, 4), 3)
    images = [
        np.sort(b["images"].reshape(GROUPS, VIEWS, -1).astype(np.int64).sum(-1), axis=1)
        for _, b in (first, second, third)
    ]
    assert (images[0] == images[1]).all() and (images[1] != images[2]).any()
    assert (first[1]["images"] != second[1]["images"]).any()
    assert (first[1]["mask"] != second[1]["mask"]).any()


@pytest.mark.parametrize(
    "reuse, passes, uses",
    [
        # As published: the second pass of one load and the first pass of the next.
        (2, 2, [[(0, 1), (1, 0)], [(1, 1), (2, 0)], [(2, 1), (3, 0)]]),
        (1, 3, [[(0, 0), (1, 0), (2, 0)], [(3, 0), (4, 0), (5, 0)]]),
        (2, 3, [[(0, 1), (1, 0), (1, 1)], [(2, 0), (2, 1), (3, 0)]]),
        # Twice the passes, of half the groups: two loads take the place of one.
        (2, 4, [[(0, 1), (1, 1), (2, 0), (3, 0)], [(2, 1), (3, 1), (4, 0), (5, 0)]]),
        (3, 1, [[(0, 0)], [(0, 1)], [(0, 2)], [(1, 0)]]),
    ],
)
def test_updates_of_several_passes(mixed, reuse, passes, uses):
    """`uses` has the (load, use) of each pass of each update. A pass has a batch per resolution."""
    resolutions = (((32, 32),), ((48, 32), (32, 48)))
    sampler = dataclasses.replace(
        mixed, reuse=reuse, schedule=BucketSchedule(resolutions, (1, 2, 4), 0, passes)
    )
    pipeline = Pipeline(sampler, range(GROUPS))
    loads = list(itertools.islice(pipeline._loads(0), 2 * 6))
    expected = []
    for update in uses:
        batches = []
        for load, use in update:
            buckets = sampler.schedule.at(load * reuse + use)
            for resolution, bucket in enumerate(buckets):
                batches.append((bucket, loads[2 * load + resolution].batch(use, bucket)))
        expected.append(tuple(batches))
    for first in range(len(uses)):
        assert_same(take(sampler, len(uses) - first, first), expected[first:])


def test_a_split_group_is_consecutive_views_with_the_group_s_source_and_masks(photo_folder):
    sources: dict[str, Any] = {name: folder(root=str(photo_folder)) for name in ("photos", "copy")}
    sampler = with_bucket(sampler_for(None, **sources)[0], 32, 32, 2)
    load = next(Pipeline(sampler, range(GROUPS))._loads(0))
    assert isinstance(load, PhotoLoad) and len(set(load.source)) == 2
    for use in range(sampler.reuse):
        batch = load.batch(use, Bucket(32, 32, 2))
        assert len(batch["images"]) == len(batch["source"]) == len(batch["mask"]) == 2 * GROUPS
        for group, part in itertools.product(range(GROUPS), range(2)):
            row = 2 * group + part
            assert batch["source"][row] == load.source[group]
            np.testing.assert_array_equal(batch["mask"][row], load.masks[use][group, part])
            for view in range(2):
                number = load.orders[use][group, 2 * part + view]
                np.testing.assert_array_equal(batch["images"][row, view], load.images[group][number])


def test_rectangular_sizes_are_centre_crops_of_the_canvas(sampler):
    sampler = with_bucket(sampler, 48, 48, 4)
    (((_, square),),) = take(sampler, 1)
    load = next(Pipeline(sampler, range(GROUPS))._loads(0))
    cropped = load.batch(0, Bucket(16, 48, 4))["images"]
    np.testing.assert_array_equal(cropped, square["images"][:, :, 16:32])


def test_bucket_schedule_draws_every_bucket_with_its_probability():
    schedule = BucketSchedule((((32, 32),), ((48, 32), (48, 48), (48, 48), (32, 48))), (1, 2), seed=3)
    drawn = [schedule.at(step) for step in range(2000)]
    assert drawn == [schedule.at(step) for step in range(2000)]
    assert set(itertools.chain.from_iterable(drawn)) == set(schedule.all())
    squares = np.mean([second[:2] == (48, 48) for _, second in drawn])
    assert squares == pytest.approx(0.5, abs=0.05)
    views = np.array([[a.views, b.views] for a, b in drawn])
    assert (views == 1).mean(0) == pytest.approx([0.5, 0.5], abs=0.05)
    assert np.corrcoef(views.T)[0, 1] == pytest.approx(0, abs=0.08), "resolutions are drawn independently"
    assert schedule.canvas(1) == (48, 48)


def late_schedule(passes=1, reuse=1, **buckets):
    """The schedule of ten updates with two resolutions each, the last three with larger images."""
    config = default_config()
    config.batch.update(reuse=reuse, passes=passes)
    config.duration = "10 steps"
    early = {"resolutions": (((32, 32),), ((32, 48), (48, 32))), "views": (2, 4)}
    late = {"late": (((64, 64),), ((80, 80),)), "late_fraction": 0.3}
    config.buckets.update(early | late | buckets)
    return BucketSchedule.of(config)


def test_last_updates_use_the_late_resolutions():
    schedule, without = late_schedule(), late_schedule(late_fraction=0.0)
    drawn = [schedule.at(number) for number in range(10)]
    assert drawn[:7] == [without.at(number) for number in range(7)]
    assert [[bucket[:2] for bucket in buckets] for buckets in drawn[7:]] == [[(64, 64), (80, 80)]] * 3
    assert schedule.at(10_000)[0][:2] == (64, 64), "a prefetched update after the last"
    assert schedule.canvas(1, 6) == (48, 48) and schedule.canvas(1, 7) == (80, 80)
    assert schedule.batches_per_update == without.batches_per_update == 2
    sizes = [(32, 32), (32, 48), (48, 32)]
    assert {bucket[:2] for bucket in schedule.all()} == {*sizes, (64, 64), (80, 80)}
    assert {bucket[:2] for bucket in without.all()} == set(sizes), "no program is compiled in vain"


@pytest.mark.parametrize("passes, reuse", [(1, 2), (2, 2), (3, 2), (4, 2)])
def test_all_uses_of_a_load_have_resolutions_of_the_same_part(passes, reuse):
    schedule = late_schedule(passes, reuse)
    is_late = [schedule.at(number)[0][:2] == (64, 64) for number in range(10 * passes)]
    assert is_late == sorted(is_late) and sum(is_late) == pytest.approx(3 * passes, abs=reuse - 1)
    assert is_late[::reuse] == is_late[reuse - 1 :: reuse]


def test_batches_across_the_change_of_resolution_do_not_depend_on_the_first_step(mixed):
    sampler = dataclasses.replace(mixed, schedule=late_schedule(reuse=2))
    expected = take(sampler, 10)
    sizes = [[bucket[0] for bucket, _ in update] for update in expected]
    assert sizes[-2:] == [[64, 80]] * 2 and sizes[5][0] == 32
    assert_same(take(sampler, 3, first=7), expected[7:])


def test_mixed_sources_follow_their_weights(photo_folder):
    sources: dict[str, Any] = {
        "photos": folder(root=str(photo_folder), weight=3.0),
        "rooms": synthetic(weight=1.0),
    }
    sampler, evaluation = sampler_for(None, **sources)
    seen = [batch for update in take(sampler, 200) for _, batch in update]
    rendered = np.mean(["scene" in batch for batch in seen])
    assert rendered == pytest.approx(0.25, abs=0.08)
    for batch in seen:
        assert ("images" in batch) != ("scene" in batch)
        assert (batch["source"] == (1 if "scene" in batch else 0)).all()
    scenes = np.concatenate([b["scene"] for b in seen[::2] if "scene" in b])
    assert len(np.unique(scenes, axis=0)) >= len(scenes) / 2, "every load has other scenes"
    held = np.concatenate([b["scene"] for u in take(evaluation, 60) for _, b in u if "scene" in b])
    assert not {tuple(s) for s in held} & {tuple(s) for s in scenes}


def test_evaluation_is_the_same_for_every_seed(photo_folder):
    assert_same(
        take(sampler_for(photo_folder, seed=0)[1], 3), take(sampler_for(photo_folder, seed=5)[1], 3)
    )


def truncate(path, fraction=0.1):
    """Truncates a file: 0.1 ends in its header, 0.9 in its pixels."""
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])


@pytest.fixture
def small_folder(tmp_path):
    for number in range(3):
        write_scene(tmp_path / f"scene{number}", 6, number)
    return tmp_path


@pytest.mark.parametrize("workers, fraction", [(0, 0.1), (0, 0.9), (2, 0.9)])
def test_unreadable_images_are_replaced_counted_and_named(small_folder, workers, fraction):
    truncate(small_folder / "scene0" / "frame_2.jpg", fraction)
    sampler, _ = sampler_for(None, photos=folder(root=str(small_folder), holdout=0))
    pipeline = Pipeline(sampler, range(GROUPS), workers)
    updates = list(itertools.islice(pipeline.updates(), 16))
    assert all(batch["images"].std((2, 3, 4)).min() > 0 for update in updates for _, batch in update)
    (message,) = pipeline.skipped
    assert "scene0/frame_2.jpg" in message
    bad = pipeline.skipped[message]
    assert 0 < bad < 0.2 * pipeline.tried
    assert len(pipeline.skipped_lines()) == 2 and "frame_2.jpg" in pipeline.skipped_lines()[1]
    pipeline.check_bad_fraction(0.2)
    assert pipeline.tried > 200
    with pytest.raises(UserError, match=f"{bad} of {pipeline.tried} images .*frame_2.jpg"):
        pipeline.check_bad_fraction(0.01)
    assert_same(updates[5:], take(sampler, 11, 5))  # a resumed run uses the same replacements


@pytest.mark.parametrize("fraction", [0.1, 0.9])
def test_an_unreadable_image_only_changes_its_own_view(small_folder, fraction):
    sampler, _ = sampler_for(None, photos=folder(root=str(small_folder), holdout=0))
    sampler = dataclasses.replace(sampler, augmented=False)
    intact = [sampler.photo_group(load, 0, 0) for load in range(12)]
    truncate(small_folder / "scene0" / "frame_2.jpg", fraction)
    replaced = 0
    for load, before in enumerate(intact):
        after = sampler.photo_group(load, 0, 0)
        for a, b in zip(before.orders + before.masks, after.orders + after.masks, strict=True):
            np.testing.assert_array_equal(a, b)
        differs = (before.images != after.images).any((1, 2, 3))
        assert differs.sum() == len(after.skipped) <= 1
        replaced += differs.sum()
        assert len({view.tobytes() for view in after.images}) == VIEWS, "replaced by another frame"
    assert replaced


@pytest.mark.parametrize("workers", [0, 2])
def test_a_scene_without_a_readable_image_is_named(small_folder, workers):
    for path in (small_folder / "scene1").iterdir():
        truncate(path)
    sampler, _ = sampler_for(None, photos=folder(root=str(small_folder), holdout=0))
    with pytest.raises(UserError, match="scene 'scene1' of photos .*: none of its images can be read"):
        take(sampler, 20, workers=workers)


def test_at_most_max_replacements_are_tried(small_folder):
    write_scene(small_folder / "long", 60, 0, size=(20, 20))
    for path in (small_folder / "long").iterdir():
        truncate(path)
    sampler, _ = sampler_for(None, photos=folder(root=str(small_folder), glob="long/*", holdout=0))
    group = sampler.photo_group(0, 0, 0)
    assert group.tried == len(group.skipped) == VIEWS + MAX_REPLACEMENTS < 60
    assert f"none of {VIEWS + MAX_REPLACEMENTS} tried images can be read" in group.error
