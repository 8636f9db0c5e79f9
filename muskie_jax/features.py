"""Writes the features of photographs: `muskie features photos/ --out features.npz`.

Photographs are files and folders, of any sizes and orientations, all of one scene. Muskie processes up to
--views of them together. The file contains the tokens of every patch after every block, where each patch
lies in its photograph, and a description of its arrays, "about". A picture beside it shows the features as
colours. The command prints a summary as JSON.
"""

from absl import flags, logging

from muskie_jax.command_line import OUT, run_command
from muskie_jax.compilation_cache import keep_compiled_programs
from muskie_jax.errors import UserError
from muskie_jax.photographs.command_flags import define_force, define_model, define_size
from muskie_jax.photographs.feature_file import FeatureOptions, write_features
from muskie_jax.writers import print_result

_MODEL = define_model()
_SIZE = define_size()
_BLOCKS = flags.DEFINE_string("blocks", "all", "Blocks whose tokens are written, from 1, such as 2,4.")
_VIEWS = flags.DEFINE_integer("views", 8, "Maximum number of views that attend to each other.")
_FLOAT16 = flags.DEFINE_bool("float16", False, "Store tokens in 16 bits, half the size.")
_FORCE = define_force()

NEEDED = {"out": "features.npz"}
OPTIONAL = ("model", "size", "blocks", "views", "float16", "force")
HELP = {"out": "File to write, .npz; a picture with the same name, .png, is written beside it."}


def features(photographs: list[str]) -> None:
    """Writes the features of photographs and prints a summary; flags must be parsed."""
    logging.set_verbosity(logging.WARNING)
    keep_compiled_programs()
    assert OUT.value is not None, "a needed flag"
    options = FeatureOptions(_SIZE.value, parse_blocks(_BLOCKS.value), _VIEWS.value, _FLOAT16.value)
    print_result(write_features(photographs, OUT.value, _MODEL.value, options, _FORCE.value))


def parse_blocks(text: str) -> tuple[int, ...] | None:
    """Parses "2,4" into block numbers, and "all" into None; raises UserError for other text."""
    if text == "all":
        return None
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UserError(f"--blocks={text} must be block numbers such as 2,4, or all")
    return tuple(int(part) for part in parts)


def main(invocation: str = "python -m muskie_jax.features") -> None:
    """Runs the command in `sys.argv`. `invocation` is how messages refer to the program."""
    run_command(invocation, __doc__ or "", features, NEEDED, OPTIONAL, ("photos/",), HELP)


if __name__ == "__main__":
    main()
