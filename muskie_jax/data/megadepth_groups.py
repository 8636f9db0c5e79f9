"""`python -m muskie_jax.data groups`: builds the list of view groups that MegaDepth needs.

The published code reads such a list, but the list itself was not published. This command builds one
from the list of image pairs that DUSt3R's preprocessing of MegaDepth writes.
"""

import pathlib
from typing import Any

import numpy as np
from absl import flags

from muskie_jax.command_line import Command
from muskie_jax.data.layouts import LAYOUTS
from muskie_jax.data.megadepth import explain_read_errors, read_lists
from muskie_jax.errors import UserError
from muskie_jax.files import user_path

_OVERLAP = flags.DEFINE_list(
    "overlap", ["0.2", "1"], "Lowest and highest overlap of a group's first image with its other images."
)
PAIRS_FILE = "all_metadata.npz"
VIEWS = 8


def write_groups(root: pathlib.Path, file: str, low: float, high: float, seed: int = 0) -> int:
    """Writes a list of groups: each image that overlaps enough other images, with VIEWS - 1 of them.

    PAIRS_FILE has `scenes` and `images` like the list of groups (see `read_groups`). Its `pairs` contains
    (scene index, image index, image index, overlap) entries.

    Args:
      root: the dataset's folder, which contains PAIRS_FILE.
      file: name of the list to write there; it must not exist yet.
      low, high: inclusive bounds on the overlap of the first image with the group's other images.
      seed: the seed of the random choice among the overlapping images.

    Returns:
      The number of groups.

    Raises:
      UserError: if PAIRS_FILE cannot be read or yields no group, or if the list exists.
    """
    source, target = root / PAIRS_FILE, root / file
    if target.exists():
        raise UserError(f"{target} exists: remove it to build a new list")
    partners: dict[tuple[int, int], set[int]] = {}
    with explain_read_errors(source):
        pairs, scenes, images = read_lists(source)
        for scene, first, second, overlap in pairs:
            if low <= overlap <= high:
                partners.setdefault((int(scene), int(first)), set()).add(int(second))
                partners.setdefault((int(scene), int(second)), set()).add(int(first))
    rng = np.random.default_rng(seed)
    draw = lambda found: [int(i) for i in rng.choice(sorted(found), VIEWS - 1, replace=False)]
    groups = [
        (scene, [image, *draw(found)])
        for (scene, image), found in sorted(partners.items())
        if len(found) >= VIEWS - 1
    ]
    if not groups:
        raise UserError(
            f"{source}: no image overlaps {VIEWS - 1} others by {low} to {high}: use a wider --overlap"
        )
    array = np.empty(len(groups), object)
    array[:] = groups
    part = target.with_name(f".{file}.part.npz")
    np.savez_compressed(part, pairs=array, scenes=scenes, images=images)
    part.replace(target)
    return len(groups)


def run_groups(arguments: list[str]) -> dict[str, Any]:
    """Builds the list of view groups that MegaDepth needs from its list of image pairs."""
    (root,) = arguments
    try:
        low, high = map(float, _OVERLAP.value)
    except ValueError:
        raise UserError(
            f"--overlap={','.join(_OVERLAP.value)} must be two fractions low,high, such as 0.2,1"
        ) from None
    file = LAYOUTS["megadepth"].groups
    count = write_groups(user_path(root), file, low, high)
    return {"list": str(pathlib.Path(root) / file), "groups": count}


GROUPS = Command(run_groups, {}, ("overlap",), ("<folder of MegaDepth>",))
