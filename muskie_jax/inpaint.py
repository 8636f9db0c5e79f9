"""Paints a hidden part of a photograph: `python -m muskie_jax.inpaint photos/ --out inpaint.png`.

This is the task that Muskie is trained on. The network paints the hidden part of one view twice: from the
rest of that view alone, and with the other photographs of the scene. A picture shows both beside the truth.
The command prints the errors as JSON: mean squared errors of pixels in [-1, 1], and their roots in grey
levels, of which there are 256.
"""

from absl import flags, logging

from muskie_jax.command_line import OUT, run_command
from muskie_jax.compilation_cache import keep_compiled_programs
from muskie_jax.masking import MODES
from muskie_jax.photographs.inpainting import InpaintingOptions, write_inpainting
from muskie_jax.writers import print_result

_DEFAULTS = InpaintingOptions()
_MODEL = flags.DEFINE_string("model", "small", "Weights: a name, a work directory, a file, or user/name.")
_VIEW = flags.DEFINE_integer("view", _DEFAULTS.view, "Photograph with the hidden part, from 1.")
_MASK = flags.DEFINE_string("mask", _DEFAULTS.mask, f"Shape of the hidden part: {', '.join(MODES)}.")
_RATIO = flags.DEFINE_float("ratio", _DEFAULTS.ratio, "Fraction of the view that is hidden.")
_SEED = flags.DEFINE_integer("seed", _DEFAULTS.seed, "Seed of the hidden part.", lower_bound=0)
_SIZE = flags.DEFINE_integer("size", _DEFAULTS.size, "Shorter side of the views in pixels.")
_VIEWS = flags.DEFINE_integer("views", _DEFAULTS.views, "Maximum number of views; neighbours come first.")
_FORCE = flags.DEFINE_bool("force", False, "Replace an existing picture.")

NEEDED = {"out": "inpaint.png"}
OPTIONAL = ("model", "view", "mask", "ratio", "seed", "size", "views", "force")


def inpaint(photographs: list[str]) -> None:
    """Draws the picture and prints the errors; flags must be parsed."""
    logging.set_verbosity(logging.WARNING)
    keep_compiled_programs()
    assert OUT.value is not None, "a needed flag"
    options = InpaintingOptions(
        _VIEW.value, _MASK.value, _RATIO.value, _SEED.value, _SIZE.value, _VIEWS.value
    )
    print_result(write_inpainting(photographs, OUT.value, _MODEL.value, options, _FORCE.value))


def main(invocation: str = "python -m muskie_jax.inpaint") -> None:
    """Runs the command in `sys.argv`. `invocation` is how messages refer to the program."""
    run_command(invocation, __doc__ or "", inpaint, NEEDED, OPTIONAL, ("photos/",))


if __name__ == "__main__":
    main()
