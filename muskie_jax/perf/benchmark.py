"""Job `benchmark`: times training steps on the local devices and compares them with a composed roofline."""

import dataclasses
import datetime
import json
import pathlib
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from muskie_jax.buckets import Bucket, BucketSchedule
from muskie_jax.config import validate
from muskie_jax.errors import UserError
from muskie_jax.files import create_workdir
from muskie_jax.gpu.determinism import require_deterministic_programs
from muskie_jax.masking import MaskOptions, group_masks
from muskie_jax.optim import make_optimizer
from muskie_jax.perf.flops import peak_flops, training_flops
from muskie_jax.perf.machines import GIB
from muskie_jax.perf.roofline import Roofline, best_time, composed_roofline
from muskie_jax.programs import Programs, batch_shapes, explain_out_of_memory, training_programs
from muskie_jax.reconstruction.settings import check_reconstruct, has_geometry
from muskie_jax.sharding import check_batch, group_shards, make_mesh
from muskie_jax.train_step import Batch, Pretraining, TrainState, abstract_state, init_state, make_task
from muskie_jax.writers import log_main, table_head, table_row

COLUMNS = (
    ("model", 8), ("size", 9), ("views", 7), ("remat", 11), ("devices", 7), ("ms/step", 8), ("views/s", 8),
    ("TFLOP/s", 7), ("MFU", 5), ("roofline", 9), ("reached", 7), ("GiB", 6), ("compile", 7),
    ("efficiency", 10),
)  # fmt: skip
# Rooflines measured so far, by model, bucket and groups; None for a roofline that does not fit in memory.
Rooflines = dict[Hashable, Roofline | None]


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of the table: a size of the backbone, its rematerialisation, a bucket, and a device count."""

    variant: str
    bucket: Bucket
    remat: str
    devices: int


def device_counts(listed: Sequence[int | str], total: int) -> list[int]:
    """Returns the device counts of `config.benchmark.devices`, ascending, on `total` devices.

    Raises:
      UserError: for a count above `total`.
    """
    named = {"all": [total], "doubling": [*(2**power for power in range(total.bit_length())), total]}
    counts = sorted(
        {count for entry in listed for count in (named[entry] if isinstance(entry, str) else [entry])}
    )
    if counts[-1] > total:
        raise UserError(
            f"config.benchmark.devices has {counts[-1]}, but there are {total} devices: "
            f"use at most {total}, or 'all'"
        )
    return counts


def listed_cases(config: ConfigDict, counts: Sequence[int]) -> Iterator[Case]:
    """Yields the cases of `config.benchmark`: by default, the config's model at each of its buckets."""
    listed = [
        (variant, Bucket(height, width, config.batch.views), remat)
        for variant, (height, width), remat in config.benchmark.cases
    ]
    if not listed:
        buckets = BucketSchedule.of(config).all()
        listed = [(config.model.variant, bucket, config.model.remat) for bucket in buckets]
    for variant, bucket, remat in listed:
        for count in counts:
            yield Case(variant, bucket, remat, count)


def benchmark(
    config: ConfigDict, workdir: pathlib.Path, devices: Sequence[jax.Device] | None = None
) -> dict[str, Any]:
    """Times training steps of `config.task`, optimizer included, on random images, and prints a table.

    Args:
      config: the config (`muskie_jax.config.default_config`), mainly its section `benchmark`.
      workdir: folder of `benchmark.jsonl`, to which each case appends a line with its results, the
        device, the version of jax and the date.
      devices: devices to benchmark; all devices by default.

    Returns:
      `device`, and `cases`: one dictionary per case, with `step_ms`, `views_per_second`, `tflops` (model
      TFLOP/s per device), `mfu` (their fraction of the peak; None for an unknown device), and `gib` per
      device. For the task "pretrain", also `roofline_ms` and its parts, and `reached` (roofline time over
      step time). With several device counts there is also `efficiency`: views per second per device,
      relative to the smallest device count. A case that does not fit has `too_big`, the error message,
      instead.

    Raises:
      UserError: before any case runs, if a case is invalid on these devices.
    """
    validate(config)
    if config.deterministic:
        require_deterministic_programs()
    create_workdir(workdir)
    devices = jax.devices() if devices is None else list(devices)
    counts = device_counts(config.benchmark.devices, len(devices))
    cases = [(case, *configure(config, case, devices)) for case in listed_cases(config, counts)]
    columns = COLUMNS if len(counts) > 1 else COLUMNS[:-1]
    rows: list[dict[str, Any]] = []
    baselines: dict[Case, dict[str, Any]] = {}  # rows of the smallest device count
    rooflines: Rooflines = {}
    if has_geometry(config) and config.benchmark.roofline:
        log_main("The composed roofline does not cover decoders: it is not measured for this task")
    log_main(table_head(columns))
    for case, case_config, mesh in cases:
        row: dict[str, Any] = {
            "device": devices[0].device_kind,
            "jax": jax.__version__,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        row |= run_case(case_config, case, mesh, rooflines)
        if "step_ms" in row:
            baseline = baselines.setdefault(dataclasses.replace(case, devices=0), row)
            if baseline is not row:
                row["efficiency"] = _views_per_device_second(row) / _views_per_device_second(baseline)
        rows.append(row)
        log_main(table_row(row_cells(row), columns))
        with (workdir / "benchmark.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
    return {"job": "benchmark", "device": devices[0].device_kind, "cases": rows, "workdir": str(workdir)}


def _views_per_device_second(row: dict[str, Any]) -> float:
    return row["views_per_second"] / row["devices"]


def configure(config: ConfigDict, case: Case, devices: Sequence[jax.Device]) -> tuple[ConfigDict, Mesh]:
    """Returns a case's config and mesh.

    Raises:
      UserError: if the case's batch cannot be split over the mesh, or if no decoder fits the backbone.
    """
    config = config.copy_and_resolve_references()
    config.model.update(variant=case.variant, remat=case.remat)
    if has_geometry(config):
        check_reconstruct(config)
    if config.benchmark.groups_per_device:
        config.batch.groups = config.benchmark.groups_per_device * case.devices
    else:
        config.batch.groups = max(1, config.batch.groups * case.devices // len(devices))
    config.evaluation.groups, config.evaluation.views = config.batch.groups, case.bucket.views
    config.buckets.update(resolutions=((case.bucket[:2],),), views=(case.bucket.views,), late_fraction=0.0)
    mesh = make_mesh(config.mesh, devices[: case.devices])
    check_batch(config, mesh)
    return config, mesh


def run_case(config: ConfigDict, case: Case, mesh: Mesh, rooflines: Rooflines) -> dict[str, Any]:
    """Returns the measurements of one case. `rooflines` caches rooflines."""
    task, optimizer, patch = make_task(config, mesh, 1), make_optimizer(config), config.model.patch
    batch = config.batch
    shapes = batch_shapes(case.bucket, batch.groups, batch.views, patch, mesh, has_geometry(config))
    state_shapes = abstract_state(task.model, optimizer, mesh)
    lowered = training_programs(task, optimizer, state_shapes, {case.bucket: shapes}, 1, mesh)
    programs = Programs(lowered, {}, quiet=True)
    groups = batch.groups * batch.views // case.bucket.views
    row = {
        "task": config.task,
        "variant": case.variant,
        "size": list(case.bucket[:2]),
        "views": case.bucket.views,
        "groups": groups,
        "remat": case.remat,
        "mesh": dict(mesh.shape),
        "devices": case.devices,
    }
    if has_geometry(config):
        settings = config.reconstruct
        row |= {"decoder_depth": settings.decoder_depth, "freeze_backbone": settings.freeze_backbone}
    try:
        row["compile_seconds"] = programs.compile()
        row["gib"] = programs.needed_bytes(state_shapes)[0] / GIB
        programs.check_memory(state_shapes, mesh.local_devices[0], config)
        with explain_out_of_memory(str(case.bucket)):
            state = init_state(task.model, optimizer, config.seed, mesh)
            arrays = random_batch(shapes, case.bucket.grid(patch), MaskOptions.of(config.mask))
            seconds = time_updates(programs, state, (case.bucket, arrays), config.benchmark)
    except UserError as error:  # the next cases still run
        return row | {"too_big": str(error)}
    speed = groups * training_flops(task.model, case.bucket) / seconds / case.devices  # FLOP/s
    peak = peak_flops(mesh.devices.flat[0])
    row |= {
        "step_ms": 1e3 * seconds,
        "views_per_second": groups * case.bucket.views / seconds,
        "tflops": speed / 1e12,
        "mfu": speed / peak if peak else None,
    }
    del state, arrays, programs  # frees device memory for the roofline
    if config.benchmark.roofline and isinstance(task, Pretraining):
        roofline = device_roofline(task, case.bucket, groups, mesh, rooflines)
        row |= roofline_figures(roofline, seconds) if roofline else {}
    return row


def device_roofline(
    task: Pretraining, bucket: Bucket, groups: int, mesh: Mesh, known: Rooflines
) -> Roofline | None:
    """Returns the composed roofline of one device's part of `groups` groups.

    Returns None if the roofline does not fit in memory. It also returns None if the views of a group are
    split, since a device then attends from its own views to all views of the group.

    `known` caches rooflines.
    """
    if mesh.shape["view"] > 1:
        return None
    local_groups = groups // group_shards(mesh)
    model = task.model
    key = (model.width, model.depth, bucket, local_groups)
    if key not in known:
        try:
            with explain_out_of_memory("the roofline"):
                known[key] = composed_roofline(model, bucket, local_groups)
        except UserError:
            known[key] = None
    return known[key]


def time_updates(
    programs: Programs, state: TrainState, batch: tuple[Bucket, Batch], options: ConfigDict
) -> float:
    """Returns the seconds per update on one batch: the fastest of `repeats` runs of `steps` updates.

    `options` is `config.benchmark`. `state` is donated.
    """

    def update():
        nonlocal state
        state, measured = programs.update(state, [batch])
        return state, measured

    return best_time(update, options.steps, options.repeats)


def roofline_figures(roofline: Roofline, seconds: float) -> dict[str, float]:
    """Returns a row's roofline figures, including the fraction that a step of `seconds` reaches."""
    return {
        "roofline_ms": 1e3 * roofline.seconds,
        "products_ms": 1e3 * roofline.product_seconds,
        "products_tflops": roofline.product_flops / roofline.product_seconds / 1e12,
        "attention_ms": 1e3 * roofline.attention_seconds,
        "attention_tflops": roofline.attention_flops / roofline.attention_seconds / 1e12,
        "reached": roofline.seconds / seconds,
    }


def random_batch(
    shapes: dict[str, jax.ShapeDtypeStruct], grid: tuple[int, int], masks: MaskOptions
) -> dict[str, Array]:
    """Returns a batch of random images, generated on the devices.

    Depending on `shapes`, it has masks as in training, or random depth and cameras.
    """
    groups, views, *size, _ = shapes["images"].shape

    def make(key, others):
        of_images, of_depth, of_cameras = jax.random.split(key, 3)
        images = jax.random.randint(of_images, shapes["images"].shape, 0, 256).astype(jnp.uint8)
        batch = {"images": images, "source": jnp.zeros(groups, jnp.int32)} | others
        if "depth" not in shapes:
            return batch
        centre = jax.random.uniform(of_cameras, (groups, views, 3))
        focal, height, width = max(size), *size
        intrinsics = jnp.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], jnp.float32)
        return batch | {
            "depth": jax.random.uniform(of_depth, (groups, views, *size), minval=1.0, maxval=4.0),
            "intrinsics": jnp.broadcast_to(intrinsics, (groups, views, 3, 3)),
            "world_to_camera": jnp.broadcast_to(jnp.eye(4), (groups, views, 4, 4))
            .at[..., :3, 3]
            .set(centre),
        }

    masked = "mask" in shapes
    mask = {"mask": group_masks(np.random.default_rng(0), groups, views, grid, masks)} if masked else {}
    shardings = {key: shape.sharding for key, shape in shapes.items()}
    return jax.jit(make, out_shardings=shardings)(jax.random.key(0), mask)


def row_cells(row: dict[str, Any]) -> list[str]:
    """Returns the cells of a row, in the order of COLUMNS. `base+2` is Muskie-B and two decoder blocks."""
    height, width = row["size"]
    has_roofline = "roofline_ms" in row
    decoder = f"+{row['decoder_depth']}" if "decoder_depth" in row else ""
    return [
        row["variant"] + decoder,
        f"{height}x{width}",
        f"{row['groups']}x{row['views']}",
        row["remat"],
        str(row["devices"]),
        f"{row['step_ms']:.1f}" if "step_ms" in row else "too big",
        f"{row['views_per_second']:.0f}" if "step_ms" in row else "-",
        f"{row['tflops']:.3g}" if "tflops" in row else "-",
        f"{row['mfu']:.0%}" if row.get("mfu") else "-",
        f"{row['roofline_ms']:.1f} ms" if has_roofline else "-",
        f"{row['reached']:.0%}" if has_roofline else "-",
        f"{row['gib']:.1f}" if "gib" in row else "-",
        f"{row['compile_seconds']:.0f} s" if "compile_seconds" in row else "-",
        f"{row['efficiency']:.1%}" if "efficiency" in row else "-",
    ]
