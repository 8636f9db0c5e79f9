"""Which checkpoints of a run are kept, and how the others are deleted."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as ocp_managers

from muskie_jax.checkpoints.contents import reason_of
from muskie_jax.checkpoints.saved_steps import best_steps
from muskie_jax.storage.address import is_remote
from muskie_jax.writers import log_main


class Retention(ocp_managers.PreservationPolicy):
    """Decides which checkpoints are kept, for Orbax.

    Args:
      keep, keep_every, keep_best: see `muskie_jax.checkpoint.Checkpointer`.
      errors: errors on held-out scenes by step; may change.
      earlier: those that were measured on something else before; may change. The best ones of both are
        kept, since nothing says which are better.
      spike: returns the first of the newest updates that were skipped, or None. The newest checkpoint
        before it is kept.
    """

    def __init__(
        self,
        keep: int,
        keep_every: int,
        keep_best: int,
        errors: Mapping[int, float],
        earlier: Mapping[int, float],
        spike: Callable[[], int | None],
    ):
        self._keep, self._keep_every, self._keep_best = keep, keep_every, keep_best
        self._errors, self._earlier, self._spike = errors, earlier, spike

    def old(self, steps: Sequence[int]) -> list[int]:
        """Returns the steps whose checkpoints are not kept; never the newest."""
        ascending, spike = sorted(steps), self._spike()
        kept = set(ascending[-self._keep :])
        for errors in (self._errors, self._earlier):
            kept |= {*best_steps(steps, errors, self._keep_best)}
        if self._keep_every:
            kept |= {step for step in steps if step % self._keep_every == 0}
        if spike is not None:
            kept |= set([step for step in ascending if step < spike][-1:])
        return [step for step in ascending if step not in kept]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        old = self.old([each.step for each in checkpoints])
        return [each.step not in old for each in checkpoints]


class OldCheckpoints:
    """Deletes checkpoints of a folder for Orbax. Those that cannot be deleted are a warning, once.

    Orbax deletes in the background after a checkpoint is complete. It returns an error like that of a save,
    and forgets the checkpoint that was just saved.

    Args:
      folder: the folder of checkpoints.
      deleter: Orbax's `CheckpointDeleter`.
    """

    def __init__(self, folder: pathlib.Path, deleter: Any):
        self._folder, self._deleter, self._has_warned = folder, deleter, False

    def delete_steps(self, steps: Sequence[int]) -> None:
        for step in steps:
            self.delete(step)

    def delete(self, step: int) -> None:
        path = self._folder / str(step)
        try:
            if not is_remote(path) and path.is_symlink():
                raise OSError("it is a symbolic link")  # Orbax may empty the folder that it points to
            self._deleter.delete(step)
        except Exception as error:  # of many types: of a disk or of a store
            if not self._has_warned:
                reason = getattr(error, "strerror", None) or reason_of(error)
                log_main(
                    f"WARNING: the old checkpoint {path} could not be deleted ({reason}): delete it "
                    "yourself, and fix the cause, or the disk may fill; others are not named"
                )
            self._has_warned = True

    def close(self) -> None:
        self._deleter.close()


def tolerate_failed_deletes(manager: ocp.CheckpointManager, folder: pathlib.Path) -> None:
    """Makes a manager go on if it cannot delete a checkpoint; see `OldCheckpoints`."""
    # Orbax 0.12.8 has no option for this. In a version without this attribute, such an error ends the run.
    deleter = getattr(manager, "_checkpoint_deleter", None)
    if deleter is not None:
        manager._checkpoint_deleter = OldCheckpoints(folder, deleter)
