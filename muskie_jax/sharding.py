"""How arrays lie on the devices.

The mesh has three axes: `data` (parameters copied), `fsdp` (parameters and optimizer state split) and
`view` (the views of a group split). Groups are split over `data` and `fsdp` together.

Layers know nothing of this. `RULES` says how the state is split, `batch_sharding` how a batch is; XLA
derives the rest, gathering kernels where they are used and keys and values where attention spans
views.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from muskie_jax.errors import UserError

AXES = ("data", "fsdp", "view")
GROUP_AXES = ("data", "fsdp")

# The first pattern found in a leaf's path decides. The optimizer's moments carry the paths of their
# parameters, so they are split alike.
RULES: tuple[tuple[str, P], ...] = (
    (r"(qkv|fc1|head|patch_embed)/kernel$", P(None, "fsdp")),  # split what comes out
    (r"(proj|fc2)/kernel$", P("fsdp", None)),  # split what goes in
    (r"", P()),  # biases, norms, tokens and counters are small
)


def make_mesh(shape: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of the given sizes, one of which may be -1 for all remaining devices.

    Raises:
      UserError: if the sizes do not use every device exactly once, or the devices cannot be laid out so.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = [shape[axis] for axis in AXES]
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    asked = ", ".join(f"{axis}={shape[axis]}" for axis in AXES)
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"config.mesh ({asked}) does not fit {len(devices)} devices: "
            "write sizes whose product is that, or -1 for one of them"
        )
    try:
        arranged = _arrange(sizes, devices)
    except (ValueError, NotImplementedError, AssertionError) as error:  # JAX's, of topologies
        reason = " ".join(str(error).split()) or "JAX does not know their topology"
        raise UserError(
            f"config.mesh ({asked}) cannot be laid out on {len(devices)} {devices[0].device_kind} chips: "
            f"{reason}: write other sizes, or use all chips of the machine"
        ) from error
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _arrange(sizes: Sequence[int], devices: Sequence[jax.Device]) -> np.ndarray:
    """The devices in the shape of the mesh, so that what communicates is near in the network.

    The chips of a host, a block of a TPU's torus, need not follow one another in it. Slices of TPUs are
    joined by a slower network: only `data` goes across.
    """
    slices: dict[int, list[jax.Device]] = {}
    for device in devices:
        tpu = device.platform == "tpu"
        slices.setdefault(getattr(device, "slice_index", 0) if tpu else 0, []).append(device)
    data, *others = sizes
    if data % len(slices):
        raise UserError(
            f"config.mesh.data={data} cannot be split over {len(slices)} TPU slices: "
            f"write a multiple of {len(slices)}, and fsdp and view that one slice can hold"
        )
    part = (data // len(slices), *others)
    arrange = lambda chips: mesh_utils.create_device_mesh(part, chips, allow_split_physical_axes=True)
    return np.concatenate([arrange(slices[index]) for index in sorted(slices)])


def platform(mesh: Mesh) -> str:
    """ "cpu", "gpu" or "tpu": what the devices of a mesh are."""
    name = mesh.devices.flat[0].platform
    return "gpu" if name in ("cuda", "rocm") else name


def check_batch(config: ConfigDict, mesh: Mesh) -> None:
    """Raises UserError unless every batch of the config can be split over the mesh."""
    across, views = group_shards(mesh), mesh.shape["view"]
    for key in ("batch.groups", "evaluation.groups"):
        section, name = key.split(".")
        groups = config[section][name]
        if groups % across:
            nearest = max(1, round(groups / across)) * across
            raise UserError(f"config.{key}={groups} cannot be split over {across} devices: write {nearest}")
    for count in (*config.buckets.views, config.evaluation.views):
        if count % views:
            raise UserError(
                f"groups of {count} views cannot be split over config.mesh.view={views}: "
                f"leave {count} out of config.buckets.views and config.evaluation.views, or write "
                "config.mesh.view=1"
            )


def group_shards(mesh: Mesh) -> int:
    """Into how many parts the groups of a batch are split."""
    return math.prod(mesh.shape[axis] for axis in GROUP_AXES)


def path_name(path: tuple[Any, ...]) -> str:
    """A tree path as text: params/block_0/frame/mlp/fc1/kernel."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def state_sharding(state: Any, mesh: Mesh) -> Any:
    """The sharding of every leaf of a state, by RULES.

    Raises:
      UserError: for a leaf that the mesh cannot split evenly.
    """

    def choose(path, leaf):
        name = path_name(path)
        spec = next(spec for pattern, spec in RULES if re.search(pattern, name))
        for size, axis in zip(leaf.shape, spec):
            if axis and size % mesh.shape[axis]:
                raise UserError(
                    f"config.mesh.{axis}={mesh.shape[axis]} cannot split {name} of shape {leaf.shape}: "
                    f"write a divisor of {size}"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(choose, state)


def batch_sharding(key: str, mesh: Mesh) -> NamedSharding:
    """The sharding of one entry of a batch: groups first, then, where there are any, views."""
    with_views = key in ("images", "mask")
    return NamedSharding(mesh, P(GROUP_AXES, "view") if with_views else P(GROUP_AXES))


def local_rows(groups: int, mesh: Mesh) -> tuple[int, ...]:
    """The groups of a batch that this host's devices hold, in order; there may be others between them.

    Where a group's views are split over hosts, each of these hosts makes the whole group.
    """
    held = NamedSharding(mesh, P(GROUP_AXES)).devices_indices_map((groups,))
    host = jax.process_index()
    spans = {index[0].indices(groups) for device, index in held.items() if device.process_index == host}
    return tuple(row for span in sorted(spans) for row in range(*span))


def put_batch(batch: Mapping[str, np.ndarray], rows: Sequence[int], groups: int, mesh: Mesh) -> dict:
    """Puts a host's part of a batch on its devices, as global arrays.

    Args:
      batch: arrays whose leading axis covers `rows` (or, for groups that were split into smaller
        ones, a multiple of them).
      rows, groups: this host's loaded groups and the number of all hosts' together.
    """

    def put(key: str, local: np.ndarray) -> jax.Array:
        splits = len(local) // len(rows)

        def shard(index):
            first, stop, _ = index[0].indices(groups * splits)
            start = rows.index(first // splits) * splits  # a device's groups follow one another
            return local[(slice(start, start + stop - first), *index[1:])]

        shape = (groups * splits, *local.shape[1:])
        return jax.make_array_from_callback(shape, batch_sharding(key, mesh), shard)

    return {key: put(key, value) for key, value in batch.items()}
