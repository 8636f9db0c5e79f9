"""Finds the tensors of one network in a file, whatever prefix their names have.

Trainers and wrappers add prefixes: `module.` (DistributedDataParallel), `_orig_mod.` (torch.compile),
`model.encoder.` (Lightning), `teacher.backbone.` (DINO). `torch_model` has a copy of this for PyTorch.
"""

import collections
import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from muskie_jax.errors import UserError

# Prefixes of averaged weights, which self-supervised methods evaluate. The file also has the student's.
AVERAGED = re.compile(r"(^|[._])(teacher|ema)[._]")
MAX_NAMES, MAX_NAME = 3, 100  # tensors in a note, characters per name


class NetworkTensors(NamedTuple):
    """The tensors of one network.

    Attributes:
      tensors: tensors by name, without the prefix.
      prefix: the prefix of their names in the file; empty if they have none.
      left_out: full names of all other tensors; empty without a prefix.
    """

    tensors: dict[str, np.ndarray]
    prefix: str
    left_out: list[str]


def network_tensors(tensors: Mapping[str, np.ndarray], anchors: Collection[str]) -> NetworkTensors:
    """Returns the tensors under the prefix that has the most `anchors`, without the prefix.

    Args:
      tensors: all tensors of a file, by name.
      anchors: names of tensors that identify the network. If the file has none, all tensors are returned.

    Raises:
      UserError: if several prefixes have equally many, and not exactly one of them is of averaged weights.
    """
    starts = [name.removesuffix(each) for name in tensors for each in anchors if name.endswith(each)]
    counts = collections.Counter(start for start in starts if not start or start.endswith("."))
    prefixes = [prefix for prefix, count in counts.items() if count == max(counts.values())]
    if not prefixes or "" in prefixes:
        return NetworkTensors(dict(tensors), "", [])
    if len(prefixes) > 1:
        prefixes = [prefix for prefix in prefixes if AVERAGED.search(prefix)] or prefixes
    if len(prefixes) > 1:
        raise UserError(
            f"it contains several networks, under {', '.join(map(repr, prefixes))}: save one of their "
            "state dicts alone"
        )
    (prefix,) = prefixes
    kept = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
    return NetworkTensors(kept, prefix, [name for name in tensors if not name.startswith(prefix)])


def reading_note(prefix: str, left_out: list[str], rounded: int) -> str:
    """Returns what reading changed, as one line; empty if nothing.

    Args:
      prefix, left_out: see `NetworkTensors`.
      rounded: number of float64 tensors, which become float32.
    """
    parts = []
    if prefix:
        parts.append(f"read the tensors under {prefix!r}")
    if left_out:
        more = ", ..." if len(left_out) > MAX_NAMES else ""
        names = ", ".join(name[:MAX_NAME] for name in left_out[:MAX_NAMES])
        parts.append(f"left out {len(left_out)} more ({names}{more})")
    if rounded:
        parts.append(f"rounded {rounded} float64 tensors to float32")
    return "; ".join(parts)
