"""Settings of the optimizer: `config.optim`."""

import dataclasses

from ml_collections import ConfigDict

from muskie_jax.checks import at_least, one_of, require

NAMES = ("adamw", "muon")
SCHEDULES = ("cosine", "linear")
DECAY = ("all", "matrices")


@dataclasses.dataclass(frozen=True)
class OptimSettings:
    """The optimizer and its schedule: `config.optim`.

    Attributes:
      name: "adamw", as published, or "muon", which uses Muon for the kernels of the blocks and AdamW for
        all other parameters; see `muskie_jax.optim.optimizer_names`.
      learning_rate: peak learning rate, after the warm-up.
      base_learning_rate: peak learning rate for a step of 256 loaded groups, scaled linearly to the groups
        of a step; 0 uses `learning_rate`. See `peak_learning_rate`.
      min_learning_rate: learning rate at the end of the run.
      schedule: how the learning rate falls after the warm-up: "cosine", a half-cosine, as published, or
        "linear", see `cooldown`.
      cooldown: with the schedule "linear", the last fraction of the updates after the warm-up, in which the
        rate falls linearly. Before, it is constant. 1.0 falls from the end of the warm-up on.
      warmup: duration of the linear rise, such as "2 epochs" or "500 steps".
      b1, b2, eps: parameters of AdamW.
      momentum: momentum of Muon.
      weight_decay: weight decay, of AdamW and of Muon.
      decay: which parameters decay. "all" means all of them; "matrices" excludes biases, norms and learned
        tokens.
      clip_norm: global norm to which gradients are clipped; 0 disables clipping.
      spike_factor: an update is skipped if the norm of its gradients is above this multiple of the median
        norm of the last 100 updates; 0 skips none. Updates whose gradients are not finite are always
        skipped.
      max_skipped: number of updates in a row that may be skipped; one more ends the run.
    """

    name: str = "adamw"
    learning_rate: float = 2e-4
    base_learning_rate: float = 0.0
    min_learning_rate: float = 0.0
    schedule: str = "cosine"
    cooldown: float = 1.0
    warmup: str = "2 epochs"
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    momentum: float = 0.95
    weight_decay: float = 0.05
    decay: str = "all"
    clip_norm: float = 0.0
    spike_factor: float = 0.0
    max_skipped: int = 10


def check_optim(optim: ConfigDict) -> None:
    """Raises UserError for an invalid value of `config.optim`."""
    one_of(optim.name, NAMES, "config.optim.name")
    one_of(optim.decay, DECAY, "config.optim.decay")
    one_of(optim.schedule, SCHEDULES, "config.optim.schedule")
    require(
        0 < optim.cooldown <= 1,
        f"config.optim.cooldown={optim.cooldown} must be above 0, at most 1, such as 0.2",
    )
    require(
        optim.cooldown == 1 or optim.schedule == "linear",
        f"config.optim.cooldown={optim.cooldown} has no effect on the schedule {optim.schedule!r}: "
        "use config.optim.schedule='linear'",
    )
    require(optim.learning_rate > 0, f"config.optim.learning_rate={optim.learning_rate} must be above 0")
    settings = ("weight_decay", "clip_norm", "eps", "base_learning_rate", "min_learning_rate")
    at_least(0, optim, "config.optim", *settings, "max_skipped")
    require(
        optim.spike_factor == 0 or optim.spike_factor > 1,
        f"config.optim.spike_factor={optim.spike_factor} must be above 1, such as 10, or 0 for none",
    )
    for key in ("b1", "b2", "momentum"):
        require(0 <= optim[key] < 1, f"config.optim.{key}={optim[key]} must be from 0 to below 1")
