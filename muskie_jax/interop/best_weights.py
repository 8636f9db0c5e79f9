"""Writes the best weights of a finished training run to a file."""

import pathlib

import jax
from jax.experimental import multihost_utils

from muskie_jax.checkpoints.saved_steps import BEST, best_step
from muskie_jax.interop.load import open_weights
from muskie_jax.interop.weights import write_weights
from muskie_jax.writers import log_main

FILE = f"{BEST}.safetensors"


def write_best_weights(workdir: pathlib.Path) -> pathlib.Path:
    """Writes the parameters of the checkpoint with the lowest error on held-out scenes to FILE.

    Without an evaluated checkpoint, those of the newest one are written. Every process of a run must call
    it: Orbax reads checkpoints in all of them.

    Args:
      workdir: the work directory or its URL.

    Returns:
      The file, which replaces an earlier one.

    Raises:
      UserError: if no checkpoint can be read, or the file cannot be written.
    """
    if jax.process_count() > 1:  # all read what the first has written
        multihost_utils.sync_global_devices("evaluated")
    weights = open_weights(workdir if best_step(workdir) is None else workdir / BEST, with_decoder=True)
    file = workdir / FILE
    if jax.process_index() == 0:
        write_weights(file, weights, force=True)
        log_main(f"The weights of step {weights.provenance.get('step', 0)} are in {file}")
    return file
