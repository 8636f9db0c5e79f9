"""The weights that lie in this repository, in its folder `weights`: their names, files and digests.

weights/README.md is their model card. To add weights, export them with `interop export --dtype float16`,
and add the file's SHA-256 digest, which `sha256sum` prints, to DIGESTS and to the card. Installations that
are not editable have no such folder.
"""

import hashlib
import pathlib

from muskie_jax.errors import UserError

FOLDER = pathlib.Path(__file__).parents[2] / "weights"
# Name -> SHA-256 digest of its file.
DIGESTS = {
    "small": "508041c291ef04fc00e94d33f78101c5d9d1ca1fc1e1492866adbad1a8743cb6",
    "tiny": "689b4396c4553a417ca1cd60c5aab3d1b617b347fb1a35489bbdb47266ce3f2b",
}
CHOICES = " or ".join(DIGESTS)  # for messages


def bundled_path(name: str) -> pathlib.Path:
    """Returns the path at which bundled weights lie, whether or not the file exists."""
    return FOLDER / f"muskie_{name}_rooms.safetensors"


def bundled_weights(name: str) -> pathlib.Path:
    """Returns the file of bundled weights, whose digest is checked.

    Args:
      name: one of DIGESTS.

    Raises:
      UserError: if the file is missing, or is not the one that belongs to this version of the code.
    """
    path = bundled_path(name)
    if not FOLDER.is_dir():
        raise UserError(
            f"the weights {name!r} are not installed: they lie in the repository, and muskie_jax runs from "
            f"{FOLDER.parent}; clone the repository and run `python -m pip install -e .` in it, or choose "
            "other weights, such as a work directory"
        )
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise UserError(
            f"the bundled weights {name!r} are missing: {path} does not exist; restore the file with git, "
            "or choose other weights, such as a work directory"
        ) from error
    except OSError as error:
        raise UserError(f"the bundled weights {path} cannot be read: {error.strerror}") from error
    if found != DIGESTS[name]:
        raise UserError(
            f"{path} is not the file of this version: its SHA-256 digest begins with {found[:12]}; restore "
            "it with git, or pass its path to use it anyway"
        )
    return path
