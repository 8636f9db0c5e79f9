"""Paints a hidden part of a photograph: `muskie inpaint photos/ --out inpaint.png`.

This is the task that Muskie is trained on. The network paints the hidden part of one view twice: from the
rest of that view alone, and with the other photographs of the scene. A picture shows both beside the truth.
The command prints the errors as JSON: mean squared errors of pixels in [-1, 1], and their roots in grey
levels from 0 to 255.
"""

from absl import flags, logging

from muskie_jax.command_line import OUT, run_command
from muskie_jax.compilation_cache import keep_compiled_programs
from muskie_jax.masking import MODES
from muskie_jax.photographs.command_flags import define_force, define_model, define_size
from muskie_jax.photographs.inpainting import InpaintingOptions, write_inpainting
from muskie_jax.writers import print_result

_DEFAULTS = InpaintingOptions()
_MODEL = define_model()
_VIEW = flags.DEFINE_integer("view", _DEFAULTS.view, "Photograph with the hidden part, from 1.")
_MASK = flags.DEFINE_string("mask", _DEFAULTS.mask, f"Shape of the hidden part: {', '.join(MODES)}.")
_RATIO = flags.DEFINE_float("ratio", _DEFAULTS.ratio, "Fraction of the view that is hidden.")
_SEED = flags.DEFINE_integer("seed", _DEFAULTS.seed, "Seed of the hidden part.", lower_bound=0)
_SIZE = define_size()
_VIEWS = flags.DEFINE_integer("views", _DEFAULTS.views, "Maximum number of views; neighbours come first.")
_FORCE = define_force()

NEEDED = {"out": "inpaint.png"}
OPTIONAL = ("model", "view", "mask", "ratio", "seed", "size", "views", "force")
HELP = {"out": "Picture to write."}


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
    run_command(invocation, __doc__ or "", inpaint, NEEDED, OPTIONAL, ("photos/",), HELP)


if __name__ == "__main__":
    main()
