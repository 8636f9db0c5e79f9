"""Settings of the training task "reconstruct": `config.task` and `config.reconstruct`."""

import dataclasses

from ml_collections import ConfigDict

from muskie_jax.checks import at_least, require
from muskie_jax.errors import UserError
from muskie_jax.models.muskie import VARIANTS
from muskie_jax.models.reconstruction import point_levels

PRETRAIN, RECONSTRUCT = TASKS = ("pretrain", "reconstruct")


@dataclasses.dataclass(frozen=True)
class ReconstructSettings:
    """The network that predicts point maps and cameras: `config.reconstruct`.

    Attributes:
      backbone: weights that the backbone starts from, as `load_pretrained` takes them: a name, a file, a
        work directory, or user/name on the hub. "{seed}" in it stands for `config.seed`. Empty: random
        initial values.
      reuse_decoder: whether the decoder starts from these weights too. They then are those of a whole
        network of this task, with a decoder of `decoder_depth` blocks.
      decoder_depth: number of alternating blocks after the backbone.
      freeze_backbone: whether the backbone keeps its weights: no gradient, no decay, no optimizer state.
    """

    backbone: str = ""
    reuse_decoder: bool = False
    decoder_depth: int = 2
    freeze_backbone: bool = False


def check_reconstruct(config: ConfigDict) -> None:
    """Raises UserError for an invalid value of a config whose task is "reconstruct"."""
    settings, path = config.reconstruct, "config.reconstruct"
    at_least(0, settings, path, "decoder_depth")
    require(
        settings.backbone or not settings.reuse_decoder,
        f"{path}.reuse_decoder needs weights to start from: set {path}.backbone to those of a network with "
        "a decoder",
    )
    size = VARIANTS[config.model.variant]
    try:
        point_levels(size.width, size.depth, settings.decoder_depth)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    require(
        config.batch.reuse == 1,
        f"config.batch.reuse={config.batch.reuse} repeats batches with other masks, and "
        "config.task='reconstruct' masks nothing: use config.batch.reuse=1",
    )


def initial_backbone(settings: ConfigDict, seed: int) -> str:
    """Returns the weights that `config.reconstruct.backbone` names for a seed; "" for random ones."""
    return settings.backbone.replace("{seed}", str(seed))


def has_geometry(config: ConfigDict) -> bool:
    """Returns whether batches have depth and cameras, instead of masks."""
    return config.task == RECONSTRUCT
