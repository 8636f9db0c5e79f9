"""`python -m muskie_jax.data groups`: makes the list of groups that MegaDepth needs.

The published code reads such a list, which was not published. This one is made from the list of pairs that
the common processing of MegaDepth leaves.
"""

import pathlib
from typing import Any

import numpy as np
from absl import flags

from muskie_jax.command_line import Command
from muskie_jax.data.layouts import LAYOUTS
from muskie_jax.data.megadepth import explained, read_lists
from muskie_jax.errors import UserError
from muskie_jax.files import user_path

_OVERLAP = flags.DEFINE_list(
    "overlap", ["0.2", "1"], "Lowest and highest overlap of a group's first image with the others."
)
PAIRS_FILE = "all_metadata.npz"
VIEWS = 8


def write_groups(root: pathlib.Path, file: str, low: float, high: float, seed: int = 0) -> int:
    """Makes a list of groups of VIEWS: for each image that overlaps enough others, it and some of these.

    PAIRS_FILE has `scenes` and `images` as the list of groups has (see `read_groups`), and `pairs`, (number
    of a scene, of one image, of another, their overlap) each.

    Args:
      root: the folder of the dataset, where PAIRS_FILE is.
      file: the list's name in it; it must not be there.
      low, high: overlap of the others with the first, inclusive.
      seed: which of the others are taken.

    Returns:
      The number of groups.

    Raises:
      UserError: if there are no pairs to read, or no groups to make of them, or a list already.
    """
    source, target = root / PAIRS_FILE, root / file
    if target.exists():
        raise UserError(f"{target} is there already: remove it to make another")
    partners: dict[tuple[int, int], set[int]] = {}
    with explained(source):
        pairs, scenes, images = read_lists(source)
        for scene, first, second, overlap in pairs:
            if low <= overlap <= high:
                partners.setdefault((int(scene), int(first)), set()).add(int(second))
                partners.setdefault((int(scene), int(second)), set()).add(int(first))
    rng = np.random.default_rng(seed)
    others = lambda found: [int(i) for i in rng.choice(sorted(found), VIEWS - 1, replace=False)]
    groups = [
        (scene, [image, *others(found)])
        for (scene, image), found in sorted(partners.items())
        if len(found) >= VIEWS - 1
    ]
    if not groups:
        raise UserError(
            f"{source}: no image overlaps {VIEWS - 1} others by {low} to {high}: write a wider range"
        )
    array = np.empty(len(groups), object)
    array[:] = groups
    part = target.with_name(f".{file}.part.npz")
    np.savez_compressed(part, pairs=array, scenes=scenes, images=images)
    part.replace(target)
    return len(groups)


def run_groups(arguments: list[str]) -> dict[str, Any]:
    """Makes the list of groups that MegaDepth needs, from its list of pairs."""
    (root,) = arguments
    try:
        low, high = map(float, _OVERLAP.value)
    except ValueError:
        raise UserError(f"--overlap={','.join(_OVERLAP.value)}: write two shares, such as 0.2,1") from None
    file = LAYOUTS["megadepth"].groups
    count = write_groups(user_path(root), file, low, high)
    return {"list": str(pathlib.Path(root) / file), "groups": count}


GROUPS = Command(run_groups, {}, ("overlap",), ("<folder of MegaDepth>",))
