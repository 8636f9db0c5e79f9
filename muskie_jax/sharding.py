"""The device mesh, and how parameters, optimizer state and batches are sharded over it.

The mesh has three axes: `data` (replicates parameters), `fsdp` (shards parameters and optimizer state) and
`view` (shards the views of a group). Groups are sharded over `data` and `fsdp` together.

`RULES` defines the sharding of the state, and `batch_sharding` defines the sharding of a batch. XLA derives
all other shardings, and gathers kernels where they are used. Only two layers depend on the mesh:

- `models.attention.Attention` has the mesh itself. XLA cannot partition a custom kernel, so attention runs
  per device under `shard_map`, and gathers keys and values over `view` explicitly.
- `models.normalization.LayerNorm` has the group-shard and view-shard counts. Its gradient is first summed
  over the tokens of a device, so that XLA does not communicate for each norm.
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
GEOMETRY = ("depth", "intrinsics", "world_to_camera")  # entries of batches with known geometry
GROUP_AXES = ("data", "fsdp")

# The first pattern that matches a leaf's path applies. The optimizer's moments have the paths of their
# parameters, so they are sharded in the same way.
RULES: tuple[tuple[str, P], ...] = (
    (r"(qkv|fc1|head|patch_embed)/kernel$", P(None, "fsdp")),  # shard output features
    (r"(proj|fc2)/kernel$", P("fsdp", None)),  # shard input features
    # Convolutions of the point head, from all channels to all or half of them: shard output channels.
    (r"point_head/(fusion_\d/.+|level_\d_conv|level_[34]_\w+|conv1)/kernel$", P(None, None, None, "fsdp")),
    (r"", P()),  # replicate biases, norms, tokens and counters, which are small
)


def make_mesh(shape: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of the given axis sizes, one of which may be -1 for all remaining devices.

    Args:
      shape: size of each axis in `AXES`.
      devices: devices of the mesh; all devices by default.

    Raises:
      UserError: if the product of the sizes is not the number of devices, or if the devices' topology does
        not allow the sizes.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = [shape[axis] for axis in AXES]
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    requested = ", ".join(f"{axis}={shape[axis]}" for axis in AXES)
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"config.mesh ({requested}) does not fit {len(devices)} devices: "
            f"use sizes whose product is {len(devices)}, or -1 for one of them"
        )
    try:
        arranged = _arrange(sizes, devices)
    except (ValueError, NotImplementedError, AssertionError) as error:  # raised by mesh_utils
        reason = " ".join(str(error).split()) or "JAX does not know their topology"
        raise UserError(
            f"config.mesh ({requested}) cannot be laid out on {len(devices)} {devices[0].device_kind} "
            f"chips: {reason}: use other sizes, or all chips of the machine"
        ) from error
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _arrange(sizes: Sequence[int], devices: Sequence[jax.Device]) -> np.ndarray:
    """Arranges devices in the shape of the mesh, so that neighbours on the mesh are close in the network.

    The chips of one TPU host need not be neighbours on the mesh. The network between TPU slices is
    slower, so only the `data` axis spans slices.
    """
    slices: dict[int, list[jax.Device]] = {}
    for device in devices:
        tpu = device.platform == "tpu"
        slices.setdefault(getattr(device, "slice_index", 0) if tpu else 0, []).append(device)
    data, *others = sizes
    if data % len(slices):
        raise UserError(
            f"config.mesh.data={data} cannot be split over {len(slices)} TPU slices: "
            f"use a multiple of {len(slices)}, so that the axes fsdp and view stay within one slice"
        )
    shape = (data // len(slices), *others)
    arrange = lambda chips: mesh_utils.create_device_mesh(shape, chips, allow_split_physical_axes=True)
    return np.concatenate([arrange(slices[index]) for index in sorted(slices)])


def platform(mesh: Mesh) -> str:
    """Returns the platform of a mesh's devices: "cpu", "gpu" or "tpu"."""
    name = mesh.devices.flat[0].platform
    return "gpu" if name in ("cuda", "rocm") else name


def check_batch(config: ConfigDict, mesh: Mesh) -> None:
    """Raises UserError unless all batches of the config can be sharded evenly over the mesh."""
    shards, view_shards = group_shards(mesh), mesh.shape["view"]
    for section in ("batch", "evaluation"):
        groups = config[section].groups
        if groups % shards:
            nearest = max(1, round(groups / shards)) * shards
            raise UserError(
                f"config.{section}.groups={groups} cannot be split over {shards} devices: use {nearest}"
            )
    for views in (*config.buckets.views, config.evaluation.views):
        if views % view_shards:
            raise UserError(
                f"groups of {views} views cannot be split over config.mesh.view={view_shards}: "
                f"leave {views} out of config.buckets.views and config.evaluation.views, or use "
                "config.mesh.view=1"
            )


def group_shards(mesh: Mesh) -> int:
    """Returns the number of shards of a batch's group axis."""
    return math.prod(mesh.shape[axis] for axis in GROUP_AXES)


def path_name(path: tuple[Any, ...]) -> str:
    """Returns a tree path as text, such as params/block_0/frame/mlp/fc1/kernel."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def partition_spec(name: str) -> P:
    """Returns how a leaf of the state is sharded, by RULES, given its path such as `block_0/fc1/kernel`."""
    return next(spec for pattern, spec in RULES if re.search(pattern, name))


def state_sharding(state: Any, mesh: Mesh) -> Any:
    """Returns the sharding of every leaf of a state, by RULES.

    Raises:
      UserError: if the mesh cannot shard a leaf evenly.
    """

    def choose(path, leaf):
        name = path_name(path)
        spec = partition_spec(name)
        for size, axis in zip(leaf.shape, spec):
            if axis and size % mesh.shape[axis]:
                raise UserError(
                    f"config.mesh.{axis}={mesh.shape[axis]} cannot split {name} of shape {leaf.shape}: "
                    f"use a divisor of {size}"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(choose, state)


def batch_sharding(key: str, mesh: Mesh) -> NamedSharding:
    """Returns the sharding of one entry of a batch, over groups and, if it has a view axis, over views."""
    with_views = key in ("images", "mask", *GEOMETRY)
    return NamedSharding(mesh, P(GROUP_AXES, "view") if with_views else P(GROUP_AXES))


def local_rows(groups: int, mesh: Mesh) -> tuple[int, ...]:
    """Returns the sorted indices of the groups in a batch that this host loads. There may be gaps.

    A host loads a group if at least one of its views is on the host's devices. Hosts that share a group's
    views all load the complete group.
    """
    indices = NamedSharding(mesh, P(GROUP_AXES)).devices_indices_map((groups,))
    host = jax.process_index()
    spans = {index[0].indices(groups) for device, index in indices.items() if device.process_index == host}
    return tuple(row for span in sorted(spans) for row in range(*span))


def put_batch(
    batch: Mapping[str, np.ndarray], rows: Sequence[int], groups: int, mesh: Mesh
) -> dict[str, jax.Array]:
    """Copies this host's part of a batch to its devices, and returns global arrays.

    Args:
      batch: arrays with one entry on the leading axis for each of `rows`, or n consecutive entries if
        loaded groups were split into n smaller groups.
      rows: indices of the groups that this host loads, see `local_rows`.
      groups: number of loaded groups over all hosts.
      mesh: the device mesh.
    """

    def put(key: str, local: np.ndarray) -> jax.Array:
        splits = len(local) // len(rows)

        def shard(index):
            first, stop, _ = index[0].indices(groups * splits)
            start = rows.index(first // splits) * splits  # the groups of one device are consecutive
            return local[(slice(start, start + stop - first), *index[1:])]

        shape = (groups * splits, *local.shape[1:])
        return jax.make_array_from_callback(shape, batch_sharding(key, mesh), shard)

    with jax.transfer_guard_host_to_device("allow"):  # JAX counts make_array_from_callback as implicit
        return {key: put(key, value) for key, value in batch.items()}
