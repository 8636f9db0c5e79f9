"""Hides a part of one view and lets a network paint it: from that view alone, and with the other views.

Letters in shapes: V views, H x W pixels and L patches of a view.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Float32

from muskie_jax.checks import one_of, require
from muskie_jax.data.load_images import FilePath, image_files, load_images, photograph_sizes
from muskie_jax.errors import UserError
from muskie_jax.evaluators.reconstruction import visible_mean_error
from muskie_jax.interop.load import model_of, open_weights
from muskie_jax.interop.weights import Weights
from muskie_jax.masking import MODES, hidden_count
from muskie_jax.models.inputs import CHANNELS
from muskie_jax.models.muskie import Muskie, MuskieOutput, unpatchify
from muskie_jax.photographs.features import check_views, crop_note
from muskie_jax.photographs.opening import check_view_size
from muskie_jax.photographs.output_files import plan_outputs, write_picture
from muskie_jax.viz.inpainting import inpainting_sheet
from muskie_jax.viz.reconstruction import masked_pixels
from muskie_jax.writers import log

LEVELS = 127.5  # grey levels from 0 to 255 per unit of [-1, 1]


@dataclasses.dataclass(frozen=True)
class InpaintingOptions:
    """What is hidden.

    Attributes:
      view: number of the photograph, from 1.
      mask: shape of the hidden part, one of `muskie_jax.masking.MODES`.
      ratio: fraction of the view's patches that is hidden, about.
      seed: seed of the mask's position.
      size: the views' shorter side in pixels, see `load_images`.
      views: most views, with the hidden one; of more photographs, its nearest neighbours are used.
    """

    view: int = 1
    mask: str = "rectangle"
    ratio: float = 0.5
    seed: int = 0
    size: int = 224
    views: int = 8


class Inpainting(NamedTuple):
    """A painted view. Pixels are in [-1, 1]; where nothing was hidden, they are the view's own.

    Attributes:
      alone: painted from its visible part.
      together: painted with the other views too; None if there is none.
      errors: mean squared error of the hidden pixels in [-1, 1], by name: "visible_mean" (filled with the
        mean colour of the visible part), "alone" and, unless it is alone, "with_others".
    """

    alone: Float32[np.ndarray, "H W 3"]
    together: Float32[np.ndarray, "H W 3"] | None
    errors: dict[str, float]


def check_mask(mode: str, ratio: float) -> None:
    """Raises UserError for an unknown mode of masks, or a ratio that is not a fraction."""
    one_of(mode, MODES, "--mask")
    require(0 < ratio <= 1, f"--ratio={ratio} must be above 0 and at most 1")


def draw_mask(mode: str, ratio: float, grid: tuple[int, int], seed: int) -> Bool[np.ndarray, " L"]:
    """Draws the hidden patches of a view, True = hidden.

    Raises:
      UserError: for an unknown mode, or a ratio that hides nothing.
    """
    check_mask(mode, ratio)
    patches = grid[0] * grid[1]
    require(
        hidden_count(grid, ratio) > 0,
        f"--ratio={ratio} hides none of {patches} patches: use at least {1 / patches:.2g}",
    )
    return MODES[mode](np.random.default_rng(seed), grid, ratio, 1).reshape(patches)


def inpaint(
    model: Muskie,
    params: Any,
    images: Float32[np.ndarray, "V H W 3"],
    view: int,
    mask: Bool[np.ndarray, " L"],
) -> Inpainting:
    """Paints the hidden part of a view, alone and with the other views, which are fully visible.

    Args:
      model, params: a network with its reconstruction head.
      images: views of one scene, in [-1, 1].
      view: index of the view, from 0.
      mask: its patches, True = hidden.
    """
    masks = np.zeros((len(images), len(mask)), bool)
    masks[view] = mask
    painted = {"alone": _paint(params, images[[view]], mask[None], model=model)}
    if len(images) > 1:
        painted["with_others"] = _paint(params, images, masks, model=model)[view : view + 1]
    baseline = visible_mean_error(
        jnp.asarray(images[None, [view]]), jnp.asarray(mask[None, None]), model.patch
    )
    errors = {"visible_mean": float(baseline.sum() / mask.sum())}
    truth, hidden = images[view], masked_pixels(mask, images.shape[1:3], model.patch)
    pixels = {name: np.where(hidden, views[0], truth) for name, views in painted.items()}
    for name, filled in pixels.items():
        errors[name] = float(np.square(filled - truth).sum() / (hidden.sum() * CHANNELS))
    return Inpainting(pixels["alone"], pixels.get("with_others"), errors)


@functools.partial(jax.jit, static_argnames="model")
def _paint(
    params: Any, images: Float[Array, "V H W 3"], mask: Bool[Array, "V L"], *, model: Muskie
) -> Float[Array, "V H W 3"]:
    """Returns the reconstruction of all patches of the views of one group."""
    output = model.apply({"params": params}, images[None], mask[None])
    assert isinstance(output, MuskieOutput)
    height, width = images.shape[1:3]
    return unpatchify(output.pred[0], (height // model.patch, width // model.patch), model.patch)


def grey_levels(error: float) -> float:
    """Returns the root of a mean squared error of pixels in [-1, 1], as grey levels from 0 to 255."""
    return LEVELS * math.sqrt(error)


def neighbours(count: int, view: int, most: int) -> range:
    """Returns `most` consecutive photographs of `count` around `view`, or all if there are fewer."""
    most = min(count, most)
    first = min(max(0, view - most // 2), count - most)
    return range(first, first + most)


def paints_pixels(weights: Weights) -> bool:
    """Returns whether weights have a reconstruction head, and do not say that it paints something else."""
    loss = (weights.provenance.get("training") or {}).get("loss", {})
    return not weights.backbone_only and not loss.get("normalize_targets")


def open_painter(source: FilePath) -> Weights:
    """Reads weights that can paint.

    Raises:
      UserError: if they have no reconstruction head, or were trained to paint normalised patches.
    """
    weights = open_weights(source)
    if weights.backbone_only:
        raise UserError(f"{source} has no reconstruction head, so it cannot paint: choose complete weights")
    if not paints_pixels(weights):
        raise UserError(
            f"{source} was trained on normalised patches (config.loss.normalize_targets), so it does not "
            "paint colours: choose weights that were trained on pixels"
        )
    return weights


def write_inpainting(
    paths: FilePath | Sequence[FilePath],
    out: FilePath,
    source: FilePath,
    options: InpaintingOptions = InpaintingOptions(),
    force: bool = False,
) -> dict[str, Any]:
    """Draws a view with a hidden part, painted alone and with the other views, beside the truth.

    Args:
      paths: files and folders of photographs of one scene.
      out: the picture.
      source: the weights, see `load_pretrained`.
      options: what is hidden.
      force: whether an earlier picture is replaced.

    Returns:
      The errors and the options, as JSON values.

    Raises:
      UserError: if a photograph, the weights or an option is wrong.
    """
    require(options.views >= 1, f"--views={options.views} must be at least 1")
    check_mask(options.mask, options.ratio)
    files = image_files(paths)
    (out,) = plan_outputs(os.fspath(out), [], force, files)
    number, count = options.view, len(files)
    require(1 <= number <= count, f"--view={number}: there are photographs 1 to {count}")
    photograph_sizes(files)  # the first error is that of a file
    weights = open_painter(source)
    chosen = neighbours(count, number - 1, options.views)
    if count == 1:
        log("One photograph: it is painted alone, since there is no other view to look at")
    elif len(chosen) < count:
        log(
            f"{len(chosen)} of {count} photographs are used, {files[number - 1].name} and its neighbours: "
            "raise --views to use more"
        )
    model = model_of(weights.network)
    check_views(model, len(chosen), f"--views={options.views}")
    check_view_size(options.size, model.patch)
    views = load_images([files[index] for index in chosen], options.size, model.patch)
    if note := crop_note(views.crops, views.sizes, list(map(str, views.paths))):
        log(note)
    grid = (views.images.shape[1] // model.patch, views.images.shape[2] // model.patch)
    mask = draw_mask(options.mask, options.ratio, grid, options.seed)
    view = number - 1 - chosen.start
    result = inpaint(model, jax.device_put(weights.params), views.images, view, mask)
    levels = {name: round(grey_levels(error), 1) for name, error in result.errors.items()}
    sheet = inpainting_sheet(views.images, view, mask, model.patch, result.alone, result.together, levels)
    write_picture(out, sheet, force)
    return {
        "job": "inpaint",
        "out": str(out),
        "hidden": str(files[number - 1]),
        "others": [str(files[index]) for index in chosen if index != number - 1],
        "hidden_patches": int(mask.sum()),
        "patches": len(mask),
        "mse": result.errors,
        "grey_levels": levels,
        "mask": options.mask,
        "ratio": options.ratio,
        "seed": options.seed,
        "model": os.fspath(source),
        "params_digest": weights.params_digest,
    }
