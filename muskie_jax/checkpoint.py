"""Saves and restores the checkpoints of a training run with Orbax, and verifies them with fingerprints.

`checkpoints.contents` says what a checkpoint contains. Only finite states are saved. A checkpoint is
damaged if its files cannot be read or its arrays differ from their fingerprints. Damaged ones are moved
aside once an older checkpoint was restored; a config that fits no checkpoint moves nothing.
"""

import gc
import json
import pathlib
import shutil
import time
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from muskie_jax.checkpoints.contents import (
    ITEMS,
    Unreadable,
    make_meta,
    reason_of,
    state_handler,
    without_empty,
)
from muskie_jax.checkpoints.copies import differing_copies
from muskie_jax.checkpoints.newest import FILE, Errors, remember, remembered, remembered_errors
from muskie_jax.checkpoints.object_storage import manager_options, move
from muskie_jax.checkpoints.orbax_messages import collect_orbax_messages
from muskie_jax.checkpoints.restoring import Damaged, agree_on_steps, restore_together
from muskie_jax.checkpoints.retention import Retention, tolerate_failed_deletes
from muskie_jax.checkpoints.saved_steps import CHECKPOINTS, DAMAGED, read_history, saved_steps
from muskie_jax.checkpoints.schedule import of_process_0
from muskie_jax.checks import as_saved
from muskie_jax.errors import NotFinite, SaveFailed, UserError
from muskie_jax.fingerprint import Examination, examine
from muskie_jax.processes.coordination import Coordination
from muskie_jax.storage.address import absolute, is_remote
from muskie_jax.writers import log_main

POLL_SECONDS = 0.02
TAKE_BACK = "muskie checkpoints --workdir {workdir} --restore"


class Checkpointer:
    """Saves and restores the checkpoints of a work directory.

    Args:
      workdir: the work directory. Checkpoints are in `<workdir>/checkpoints/<step>`; damaged ones are
        moved to `<workdir>/checkpoints_damaged`.
      keep: number of newest checkpoints to keep.
      keep_every: checkpoints whose step is a multiple of this are kept, too; 0 for none.
      keep_best: number of checkpoints with the lowest errors on held-out scenes that are kept, too.

    Raises:
      UserError: if the folder of checkpoints is a symbolic link to nothing.

    Attributes:
      errors: errors on held-out scenes by step, for `keep_best`.
      spike: the first of the newest updates that were skipped for bad gradients, or None. The newest
        checkpoint before it is kept, in case that the state was about to be ruined.
    """

    def __init__(self, workdir: pathlib.Path, keep: int, keep_every: int = 0, keep_best: int = 0):
        self.workdir = absolute(workdir)
        self.folder, self.damaged = self.workdir / CHECKPOINTS, self.workdir / DAMAGED
        # Object storage has no folders.
        self._has_folder = is_remote(self.folder) or self.folder.is_dir()
        if not self._has_folder and self.folder.is_symlink():
            raise UserError(
                f"{self.folder} is a link to {self.folder.readlink()}, which does not exist: mount its "
                "disk, or delete the link"
            )
        history, record = read_history(self.workdir), remembered_errors(self.workdir)
        in_metrics = history.errors()
        self._earlier_errors, self._measured, self._since = record.earlier, record.measured, record.since
        self.errors, self.spike = record.with_metrics(in_metrics), history.spike
        self._messages = collect_orbax_messages()
        self._messages.clear()
        self._has_saved = self._failed = self._copies_differ = False
        self._peers = Coordination.of_jax()
        self._saving: int | None = None  # step of a save that may not be complete
        self._retention = Retention(
            keep, keep_every, keep_best, self.errors, self._earlier_errors, lambda: self.spike
        )
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=self._retention,
            create=True,
            # A folder that cannot be created is then an error of `save`. Otherwise, threads wait for it.
            async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
            num_deletion_threads=1,  # several of them print a line for each file that cannot be deleted
            **manager_options(self.folder),
        )
        self._manager = self._open()
        for step in record.errors.keys() - in_metrics.keys() - {*self._manager.all_steps()}:
            self.errors.pop(step, None)  # its checkpoint and metrics.jsonl are gone

    def _open(self) -> ocp.CheckpointManager:
        handlers = {"state": state_handler()} | {
            item: ocp.JsonCheckpointHandler() for item in ITEMS if item != "state"
        }
        manager = ocp.CheckpointManager(self.folder, options=self._options, item_handlers=handlers)
        tolerate_failed_deletes(manager, self.folder)
        return manager

    def measure_on(self, measured: str, step: int) -> None:
        """Says what errors are measured on from a step on; others are no longer compared with them.

        Every process of a run must call this.

        Args:
          measured: see `muskie_jax.data.changes.measured_on`.
          step: the step from which the run continues.
        """
        if of_process_0(self._measured not in (None, measured)):
            if self.errors:
                log_main(
                    "  held-out images or their evaluation have changed: the best checkpoint will be one "
                    "of those that are evaluated from here on"
                )
                self._earlier_errors.clear()
                self._earlier_errors.update(self.errors)
                self.errors.clear()
            self._since = step
        self._measured = measured

    def latest(self) -> int | None:
        """Returns the newest step on disk, whose checkpoint may be damaged; None without any."""
        return self._manager.latest_step()

    def delete_old(self) -> list[int]:
        """Deletes the checkpoints on a disk that are not kept, as the next save would; returns their steps.

        Call it after `restore`, which verifies the newest one, in the first process alone.
        """
        for step in self._retention.old(self._manager.all_steps()):
            shutil.rmtree(self.folder / str(step), ignore_errors=True)
        before = set(self._manager.all_steps())
        self._manager.reload()
        return sorted(before.difference(self._manager.all_steps()))

    def describe_restart(self) -> str:
        """Describes where a new start would continue, such as "step 100 in runs/a/checkpoints"."""
        step = self.latest()
        return (
            f"the beginning, since {self.folder} is empty"
            if step is None
            else f"step {step} in {self.folder}"
        )

    def is_saving(self) -> bool:
        """Returns whether a save continues in the background."""
        return self._manager.is_saving_in_progress()

    def save(self, state: Any, config: ConfigDict) -> None:
        """Starts saving a state as the checkpoint of its step; Orbax writes it in the background.

        Raises:
          NotFinite: if the state is not finite.
          SaveFailed: if it cannot be saved, or if the previous save failed in the background.
        """
        self._wait_for_save()
        self._has_saved = True
        step = int(jax.device_get(state.step))
        try:
            found = examine(state)
            self._warn_of_differing_copies(found, step)
            if found.finite:
                meta = make_meta(state, found.fingerprints, as_saved(config), self.spike)
                items = ocp.args.Composite(
                    state=ocp.args.PyTreeSave(without_empty(state)),
                    data=ocp.args.JsonSave({"next_update": step}),
                    meta=ocp.args.JsonSave(meta),
                )
                with jax.transfer_guard("allow"):  # Orbax copies arrays to the host implicitly
                    self._manager.save(step, args=items, force=True)
                self._saving = step
        except Exception as error:  # of many types: a disk, a device, Orbax, the previous save
            raise self._failure(error) from error
        if not found.finite:
            raise NotFinite(f"the state after step {step} is not finite and was not saved")

    def _warn_of_differing_copies(self, found: Examination, step: int) -> None:
        """Logs a warning, once, if devices or processes hold different copies of the state."""
        difference = differing_copies(found, step, self._peers)
        if difference and not self._copies_differ:
            log_main(f"WARNING: {difference}")
            self._copies_differ = True

    def check(self) -> None:
        """Raises SaveFailed if a save failed in the background; cheap enough for every step.

        Orbax logs most failures at once, and returns all of them when the save has ended.
        """
        if not self._has_saved or self._failed:
            return
        error = self._messages.failure
        if error is None and not self._manager.is_saving_in_progress():
            try:
                self._manager.check_for_errors()
            except Exception as ended:
                error = ended
            else:
                self._remember()
        if error is not None:
            raise self._failure(error) from error

    def _wait_for_save(self) -> None:
        """Waits for a save in progress; raises SaveFailed as soon as it fails.

        If it fails in one of several processes, Orbax would wait there for the others, which wait for it.
        """
        self.check()
        while self._manager.is_saving_in_progress():
            time.sleep(POLL_SECONDS)
            self.check()

    def _remember(self) -> None:
        """Records the newest save, which is complete."""
        if self._saving is not None and jax.process_index() == 0:
            kept = self._manager.all_steps()
            errors, earlier = (
                {step: error for step, error in each.items() if step in kept}
                for each in (self.errors, self._earlier_errors)
            )
            remember(self.workdir, self._saving, Errors(errors, earlier, self._measured, self._since))
        self._saving = None

    def _failure(self, error: BaseException) -> SaveFailed:
        """Returns the error of a failed save, with what is left on disk and where the traceback is."""
        self._failed = True
        details = self._messages.write(self.workdir, error)
        self._messages.clear()
        try:
            saved = saved_steps(self.workdir)
            left = f"the newest checkpoint is {saved[-1]}" if saved else "there is no earlier checkpoint"
        except Exception:  # of the same cause: a store that cannot be reached raises errors of its own
            left = "earlier checkpoints cannot be listed either"
        reason = reason_of(error)
        return SaveFailed(
            f"a checkpoint could not be saved in {self.folder} ({reason}); {left}: fix the cause, then run "
            f"the same command again{details}"
        )

    def restore(self, like: Any, config: ConfigDict) -> tuple[Any, dict[str, Any]] | None:
        """Restores the newest intact state, and the config it was trained with.

        Newer checkpoints that are damaged are moved aside. If none is intact, nothing is moved. Every
        process of a run must call this; all restore the same checkpoint, which each of them can read.

        Args:
          like: the state's shapes, dtypes and shardings, as `jax.ShapeDtypeStruct` leaves.
          config: the config that they belong to; messages quote what differs from that of a checkpoint.

        Returns:
          The state and the config; None if there is no checkpoint.

        Raises:
          UserError: if a checkpoint was written for another network or optimizer or cannot be read, if all
            checkpoints are damaged, or if all that the run has saved are gone.
        """
        self._manager.wait_until_finished()
        peers = Coordination.of_jax()
        if peers is not None:  # by now, the first process has created the folder
            self._has_folder = json.loads(peers.gather("folder", json.dumps(self._has_folder))[0])
        damaged: dict[int, Damaged] = {}
        for step in sorted(agree_on_steps(self._manager, peers), reverse=True):
            try:
                state, meta = restore_together(self.folder / str(step), like, config, peers)
            except Unreadable as error:
                raise UserError(f"{error}{self._messages.write(self.workdir, error)}") from error
            except Damaged as error:
                damaged[step] = error
                gc.collect()  # coroutines that Orbax abandoned complain now, not at the end of the run
                continue
            for each, reason in damaged.items():
                log_main(
                    f"Checkpoint {each} is damaged and was moved to {self._move_aside(each)}: {reason}"
                )
            newest = remembered(self.workdir) or step
            if newest > step and newest not in damaged:
                log_main(f"WARNING: step {newest} was saved too, but is no longer in {self.folder}")
            spikes = [each for each in (self.spike, meta.get("spike")) if each is not None]
            self.spike = max((each for each in spikes if each <= step), default=None)
            self._forget_errors_after(step)
            return state, meta["config"]
        anew = "to start from the beginning, or use another --workdir"
        if damaged:
            newest = max(damaged)
            details = self._messages.write(self.workdir, damaged[newest])
            raise UserError(
                f"none of the checkpoints in {self.folder} is intact (step {newest}: {damaged[newest]}): "
                f"delete this folder {anew}{details}"
            )
        if self.damaged.is_dir() and any(self.damaged.iterdir()):
            take_back = TAKE_BACK.format(workdir=self.workdir)
            raise UserError(
                f"there is no checkpoint in {self.folder}, but there are some in {self.damaged}: "
                f"`{take_back}` takes back those that are intact; delete {self.damaged} {anew}"
            )
        newest = remembered(self.workdir)
        if newest is not None and not self._has_folder:
            log_main(f"WARNING: step {newest} was saved, but {self.folder} is gone: starting again")
        elif newest is not None:
            raise UserError(
                f"there is no checkpoint in {self.folder}, but this run has saved step {newest}: mount its "
                f"disk, or delete {self.workdir / FILE} {anew}"
            )
        self._forget_errors_after(0)
        return None

    def _forget_errors_after(self, step: int) -> None:
        """Forgets the errors of later steps, whose states are lost and trained again, maybe otherwise."""
        for errors in (self.errors, self._earlier_errors):
            for later in [each for each in errors if each > step]:
                del errors[later]
        self._since = min(self._since, step)

    def _move_aside(self, step: int) -> pathlib.Path:
        """Moves a checkpoint to the folder of damaged ones, under a free name, which it returns."""
        target, number = self.damaged / str(step), 1
        while target.exists():
            target, number = self.damaged / f"{step}.{number}", number + 1
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"chose a name for {step}")
        if jax.process_index() == 0:
            self.damaged.mkdir(parents=True, exist_ok=True)
            move(self.folder / str(step), target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"moved aside {step}")
        self._manager.close()
        self._manager = self._open()
        return target

    def close(self) -> None:
        """Waits for a save in progress.

        Raises:
          SaveFailed: if it fails; not if an earlier call has raised it.
        """
        if self._failed:
            return
        self._wait_for_save()
        try:
            self._manager.close()
        except Exception as error:
            raise self._failure(error) from error
        self.check()
