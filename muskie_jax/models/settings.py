"""Settings of the network: `config.model`."""

import dataclasses

from ml_collections import ConfigDict

from muskie_jax.checks import at_least, one_of, require
from muskie_jax.errors import UserError
from muskie_jax.models.attention import IMPLEMENTATIONS, check_kernel
from muskie_jax.models.layers import INITIAL_VALUES
from muskie_jax.models.muskie import DTYPES, PATCH, REGISTERS, REMAT, VARIANTS, VIEW_EMBED
from muskie_jax.models.rope import BASE


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The arguments of `muskie_jax.models.muskie.build_model`.

    Attributes:
      variant: size of the network: "nano", "tiny", "small", "base", "large" or "huge".
      patch: side of a patch, in pixels.
      registers: number of register tokens per view.
      dtype: dtype of matrix products; parameters are always float32.
      residual_dtype: dtype of the residual stream, which each layer adds to: "float32", as published, or
        "bfloat16", which is faster and less exact; see docs/speed.md. Always float32 with float32 products.
      remat: what the backward pass recomputes to save memory: "none", "elementwise", "block" or "full";
        see docs/speed.md.
      scan_blocks: whether to compile one block and loop over it. This compiles faster and runs slower;
        the parameters are the same.
      attention: attention kernel: "auto", "xla", "cudnn", "flash" or "splash".
      view_embed: "learned" adds a learned vector per view index; "none" is as published.
      max_views: number of learned view vectors.
      initial_values: initial values of linear layers. "published": kernels and biases uniform in
        ±1/sqrt(fan_in); "xavier": Xavier-uniform kernels, zero biases.
      rope_base: base of the rotary position embedding's frequencies; 100 is published.
    """

    variant: str = "base"
    patch: int = PATCH
    registers: int = REGISTERS
    dtype: str = "bfloat16"
    residual_dtype: str = "float32"
    remat: str = "none"
    scan_blocks: bool = False
    attention: str = "auto"
    view_embed: str = "none"
    max_views: int = 8
    initial_values: str = "published"
    rope_base: float = BASE


def check_model(model: ConfigDict, deterministic: bool = False) -> None:
    """Raises UserError for an invalid value of `config.model`, given `config.deterministic`."""
    one_of(model.variant, VARIANTS, "config.model.variant")
    one_of(model.dtype, DTYPES, "config.model.dtype")
    one_of(model.residual_dtype, DTYPES, "config.model.residual_dtype")
    one_of(model.remat, REMAT, "config.model.remat")
    one_of(model.view_embed, VIEW_EMBED, "config.model.view_embed")
    one_of(model.initial_values, INITIAL_VALUES, "config.model.initial_values")
    one_of(model.attention, IMPLEMENTATIONS, "config.model.attention")
    try:
        check_kernel(model.attention, model.dtype, deterministic)
    except ValueError as error:
        raise UserError(f"config.model.{error}") from error
    at_least(1, model, "config.model", "patch")
    at_least(0, model, "config.model", "registers")
    require(model.rope_base > 0, f"config.model.rope_base={model.rope_base} must be above 0, such as 100")


def check_max_views(model: ConfigDict, views: int, source: str) -> None:
    """Raises UserError if learned view embeddings are fewer than the views of a group.

    Args:
      model: `config.model`.
      views: the largest view count of a group.
      source: subject of the message, such as "the config has".
    """
    if model.view_embed == "learned" and views > model.max_views:
        raise UserError(
            f"config.model.max_views={model.max_views}, but {source} groups of {views} views: "
            f"use config.model.max_views={views}"
        )
