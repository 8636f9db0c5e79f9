"""Flags that commands for photographs share.

They are defined by functions, since absl has one name space, and each command defines its own flags.
"""

from typing import Any

from absl import flags

from muskie_jax.photographs.encoding import PREDICTOR, PREDICTORS
from muskie_jax.photographs.opening import MODEL, SIZE


def define_model() -> flags.FlagHolder[Any]:
    """Defines --model."""
    return flags.DEFINE_string(
        "model",
        MODEL,
        "small, tiny, a work directory, a weights file, or user/name on the Hugging Face hub.",
    )


def define_size(default: int | None = SIZE, by_default: str = "") -> flags.FlagHolder[Any]:
    """Defines --size. `by_default` describes a default of None."""
    text = f"Shorter side at which the network sees photographs, in pixels{by_default}."
    return flags.DEFINE_integer("size", default, text)


def define_force() -> flags.FlagHolder[Any]:
    """Defines --force."""
    return flags.DEFINE_bool("force", False, "Replace existing files.")


def define_predictor() -> flags.FlagHolder[Any]:
    """Defines --predictor."""
    return flags.DEFINE_enum(
        "predictor",
        PREDICTOR,
        PREDICTORS,
        "How patches are compared: by their features, or by the attention between them.",
    )


def define_turned() -> flags.FlagHolder[Any]:
    """Defines --turned."""
    return flags.DEFINE_bool(
        "turned",
        False,
        "Also search with the first photograph turned by 90, 180 and 270 degrees: four times the work.",
    )
