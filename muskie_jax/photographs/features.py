"""Computes the features of photographs, one group of views at a time.

Letters in shapes: V views of a group, H x W pixels and rows x columns patches of a view, d channels.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, cast

import jax
import numpy as np
from jax import Array
from jaxtyping import Float, Float64, Int

from muskie_jax.checks import require
from muskie_jax.models.muskie import Muskie
from muskie_jax.photographs.encoding import compared_block

KEPT_AREA = 0.8  # fraction of a photograph's area; a view that shows less is reported


def split_into_groups(count: int, views: int) -> list[range]:
    """Splits photographs into groups of consecutive ones, at most `views` each.

    There are as few groups as possible, and their sizes differ by at most 1. Neighbours stay together
    because they often show the same surfaces, as in a walk with a camera or in the frames of a video.
    """
    groups = -(-count // views)
    bounds = [count * number // groups for number in range(groups + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(bounds)]


def choose_blocks(blocks: tuple[int, ...] | None, model: Muskie) -> tuple[int, ...]:
    """Returns the blocks to read tokens from, from 1 to the network's depth; None: all.

    Raises:
      UserError: if the network does not have one of them.
    """
    for block in blocks or ():
        require(1 <= block <= model.depth, f"--blocks={block}: the network has blocks 1 to {model.depth}")
    return tuple(sorted(set(blocks))) if blocks else tuple(range(1, model.depth + 1))


def crop_note(
    crops: Float64[np.ndarray, "N 4"], sizes: Int[np.ndarray, "N 2"], names: Sequence[str]
) -> str:
    """Returns a sentence about views that show less than KEPT_AREA of their photographs, or "".

    Args:
      crops: left, top, right and bottom of each view in its photograph, pixels.
      sizes: height and width of each upright photograph, pixels.
      names: what to call the photographs.
    """
    left, top, right, bottom = crops.T
    kept = (right - left) * (bottom - top) / sizes.prod(1)
    cut, worst = int((kept < KEPT_AREA).sum()), int(kept.argmin())
    if not cut:
        return ""
    have = (
        "has another aspect ratio: its view shows only a part,"
        if cut == 1
        else "have another aspect ratio: their views show only a part, such as"
    )
    return (
        f"{cut} of {len(names)} photographs {have} {kept[worst]:.0%} of {names[worst]}: to keep more, use "
        "portrait and landscape photographs separately"
    )


def drawn_block(blocks: Sequence[int], depth: int) -> int:
    """Returns the block, of those given, that pictures show: the one nearest to `compared_block`."""
    return min(blocks, key=lambda block: abs(block - compared_block(depth)))


def check_views(model: Muskie, views: int, setting: str) -> None:
    """Raises UserError if a network takes fewer views in a group; the message starts with `setting`."""
    fits = model.view_embed != "learned" or views <= model.max_views
    require(fits, f"{setting}: the network takes at most {model.max_views} views")


@functools.partial(jax.jit, static_argnames=("model", "blocks"))
def group_features(
    params: Any, images: Float[Array, "V H W 3"], *, model: Muskie, blocks: tuple[int, ...]
) -> tuple[Float[Array, "V rows columns d"], ...]:
    """Returns the tokens of a group of views after each of `blocks`, which count from 1.

    Later blocks are not computed.

    Args:
      params: parameters of the network.
      images: the views, in [-1, 1].
      model: the network.
      blocks: see `choose_blocks`.
    """
    views, height, width, _ = images.shape
    grid = (height // model.patch, width // model.patch)
    tokens = cast(tuple[Array, ...], model.apply({"params": params}, images[None], method="features"))
    return tuple(tokens[block - 1].reshape(views, *grid, model.width) for block in blocks)
