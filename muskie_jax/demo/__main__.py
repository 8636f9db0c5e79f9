"""Serves a page on which a network is tried on photographs: `muskie demo`.

Open the printed address in a browser. Drop photographs, click a point and see it found in the others, see
features as colours, let the network paint a hidden part, and, with --reconstruction, turn the scene in 3D.
Only this machine can open the page, unless --host is given. Photographs stay on this machine, and are
deleted as soon as they are read.
"""

import importlib.util

import jax
from absl import flags, logging

from muskie_jax.checks import require
from muskie_jax.command_line import run_command
from muskie_jax.compilation_cache import keep_compiled_programs
from muskie_jax.demo.address import LOOPBACK, check_port
from muskie_jax.demo.session import PageNetwork
from muskie_jax.errors import UserError
from muskie_jax.interop.load import model_of, open_weights
from muskie_jax.photographs.command_flags import define_model, define_size
from muskie_jax.photographs.inpainting import paints_pixels
from muskie_jax.photographs.reconstructing import ReconstructionNetwork, open_reconstruction
from muskie_jax.writers import log

INSTALL = 'python -m pip install -e ".[demo]" -c constraints.txt'
_MODEL = define_model()
_RECONSTRUCTION = flags.DEFINE_string(
    "reconstruction", None, "A network that reconstructs points and cameras, see docs/reconstruction.md."
)
_SIZE = define_size()
_HOST = flags.DEFINE_string(
    "host", LOOPBACK[0], "Address to serve on; 0.0.0.0 opens the page to the network."
)
_PORT = flags.DEFINE_integer("port", 7860, "Port to serve on.", lower_bound=1, upper_bound=65535)
_BROWSER = flags.DEFINE_bool("browser", False, "Open the page in a browser.")

OPTIONAL = ("model", "reconstruction", "size", "host", "port", "browser")


def demo() -> None:
    """Serves the page until it is interrupted; flags must be parsed."""
    logging.set_verbosity(logging.WARNING)
    if importlib.util.find_spec("gradio") is None:
        raise UserError(f"the demo needs Gradio: {INSTALL}")
    keep_compiled_programs()
    weights = open_weights(_MODEL.value)
    model = model_of(weights.network)
    require(
        _SIZE.value >= model.patch, f"--size={_SIZE.value} must be at least the patch size {model.patch}"
    )
    decoder = _open_decoder(_RECONSTRUCTION.value, model.patch) if _RECONSTRUCTION.value else None
    params = jax.device_put(weights.params)
    network = PageNetwork(_MODEL.value, model, params, paints_pixels(weights), decoder)
    from muskie_jax.demo.page import serve

    if _HOST.value not in LOOPBACK:
        log(f"--host={_HOST.value}: everyone who can reach this machine can use the page")
    check_port(_HOST.value, _PORT.value)
    log(f"Open http://{_HOST.value}:{_PORT.value} in a browser; Ctrl-C stops the demo")
    serve(network, _SIZE.value, _HOST.value, _PORT.value, _BROWSER.value)


def _open_decoder(source: str, patch: int) -> ReconstructionNetwork:
    network = open_reconstruction(source, "--reconstruction")
    own = network.model.backbone.patch
    require(
        own == patch,
        f"--reconstruction={source} has patches of {own} pixels, and --model={_MODEL.value} of {patch}: "
        "choose networks with equal patches, since both see the same views",
    )
    return network._replace(params=jax.device_put(network.params))


def main(invocation: str = "python -m muskie_jax.demo") -> None:
    """Runs the command in `sys.argv`. `invocation` is how messages refer to the program."""
    run_command(invocation, __doc__ or "", demo, {}, OPTIONAL)


if __name__ == "__main__":
    main()
