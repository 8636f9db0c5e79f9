"""What makes shards a pack: the index of scenes, TFDS's metadata, and our own."""

import dataclasses
import pathlib
import shutil

import numpy as np
import tensorflow_datasets as tfds

from muskie_jax import __version__
from muskie_jax.data.packing.encoding import Encoding
from muskie_jax.data.packing.frames import Frames
from muskie_jax.data.packing.pack_plan import PackPlan
from muskie_jax.data.packing.packed import DATASET, FORMAT, INDEX, KEY, SPLIT, UNFINISHED, Pack
from muskie_jax.data.packing.records import features
from muskie_jax.data.packing.shards import Shard, sha256_of
from muskie_jax.data.scenes import Scene, SceneTable


def finish(
    plan: PackPlan, shards: list[Shard], frames: Frames, encoding: Encoding, out: pathlib.Path
) -> None:
    """Writes everything but the shards; they are there."""
    dropped = _write_index(plan, shards, frames, out)
    pack = Pack(
        settings=plan.description["settings"],
        encoding=dataclasses.asdict(encoding),
        lossless=encoding.lossless and frames.parallel,
        geometry=frames.geometry,
        upright=frames.upright,
        shards=[
            {
                "name": plan.name_of_shard(number),
                "bytes": shard.bytes,
                "sha256": shard.sha256,
                "records": shard.records,
            }
            for number, shard in enumerate(shards)
        ],
        index=[
            {
                "name": f"{INDEX}/{path.name}",
                "bytes": path.stat().st_size,
                "sha256": sha256_of(path),
            }
            for path in sorted((out / INDEX).iterdir())
        ],
        skipped=[message for shard in shards for message in shard.skipped],
        dropped=dropped,
        plan=plan.digest,
    )
    values = {"format": FORMAT, "version": __version__} | dataclasses.asdict(pack)
    _write_tfds(pack, values, out)


def _write_index(plan: PackPlan, shards: list[Shard], frames: Frames, out: pathlib.Path) -> list[str]:
    """The scenes, and which records their frames are; returns the names of those without any."""
    kept = np.array([kept for shard in shards for kept in shard.kept], bool)
    sizes = np.array([size for shard in shards for size in shard.sizes], np.int32).reshape(-1, 2)
    boxes = [box or (np.nan,) * 4 for shard in shards for box in shard.boxes]
    new_numbers = np.where(kept, np.cumsum(kept) - 1, -1)[plan.numbers]
    scenes, first, dropped, start = [], [], [], 0
    for name, paths in frames.scenes:
        numbers = new_numbers[start : start + len(paths)]
        start += len(paths)
        there = np.flatnonzero(numbers >= 0)
        if len(there):
            scenes.append(Scene(name, tuple(paths[i] for i in there)))
            first.append(sizes[numbers[there[0]]])
        else:
            dropped.append(name)
    # Written aside, so that a killed run leaves no half of it.
    part = out / UNFINISHED / INDEX
    shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(out / INDEX, ignore_errors=True)
    part.mkdir()
    SceneTable.of(scenes, np.array(first)).save(part)
    np.save(part / "records.npy", new_numbers[new_numbers >= 0])
    if np.isfinite(boxes).any():
        np.save(part / "boxes.npy", np.array(boxes, np.float64))
    part.rename(out / INDEX)
    return dropped


def _write_tfds(pack: Pack, values: dict, out: pathlib.Path) -> None:
    template = tfds.core.ShardedFileTemplate(
        data_dir=out, dataset_name=DATASET, split=SPLIT, filetype_suffix="array_record"
    )
    split = tfds.core.SplitInfo(
        name=SPLIT,
        shard_lengths=[shard["records"] for shard in pack.shards],
        num_bytes=sum(shard["bytes"] for shard in pack.shards),
        filename_template=template,
    )
    tfds.folder_dataset.write_metadata(
        data_dir=out,
        features=features(pack.geometry),
        split_infos=[split],
        filename_template=template,
        check_data=False,  # it would need TensorFlow; every record was read back
        description=f"Views of scenes ({pack.settings['source']}), packed by muskie_jax {__version__}.",
        metadata=tfds.core.MetadataDict({KEY: values}),
    )
