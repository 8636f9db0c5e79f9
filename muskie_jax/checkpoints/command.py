"""Lists and verifies the checkpoints of a work directory, and takes back those that were moved aside.

Every array of every checkpoint is compared with its fingerprint, so large checkpoints take a while.
--restore moves the intact ones of <workdir>/checkpoints_damaged back to <workdir>/checkpoints, and renames
those there that training ignores because of their names, such as 5000.1. It replaces nothing. The last
lines tell where the time of the run went.
"""

import os
import pathlib
import re
import time
from typing import Any

from absl import flags, logging

from muskie_jax.backend import backend_failure
from muskie_jax.checkpoints.contents import Unreadable, reason_of, verify
from muskie_jax.checkpoints.object_storage import is_complete, move
from muskie_jax.checkpoints.orbax_messages import collect_orbax_messages
from muskie_jax.checkpoints.saved_steps import CHECKPOINTS, DAMAGED, best_steps, checkpoint_errors
from muskie_jax.checks import require
from muskie_jax.command_line import WORKDIR, run_command
from muskie_jax.errors import UserError
from muskie_jax.goodput import describe, read_starts, share, total_seconds
from muskie_jax.storage.address import is_remote, storage_path
from muskie_jax.writers import log, print_result

DELETION_SECONDS = 1.0  # in which a deletion shows
NAME = re.compile(r"\d+(\.\d*)?", re.ASCII)  # of a checkpoint's folder

_RESTORE = flags.DEFINE_bool("restore", False, "Take back intact checkpoints that training ignores.")


def inspect_checkpoints(workdir: pathlib.Path, restore: bool) -> dict[str, Any]:
    """Logs one line for each checkpoint, and returns the steps by their condition.

    The lists are `intact`, `damaged` and `unreadable` (by this machine), of the run's checkpoints; `aside`,
    intact ones that training ignores, since they are moved aside or not named by their step alone; and
    `restored`, those taken back. `best` is the intact step with the lowest error, if any, and `goodput` the
    share of the run's time that was spent in steps that count, if it is recorded.

    Args:
      workdir: the work directory.
      restore: whether to take back the intact checkpoints that training ignores.

    Raises:
      UserError: if the folder is not a work directory, or if a checkpoint cannot be moved.
    """
    run, aside = workdir / CHECKPOINTS, workdir / DAMAGED
    if not run.is_dir():
        raise UserError(f"--workdir={workdir} has no folder {CHECKPOINTS}: use the --workdir of a training")
    if failure := backend_failure():
        raise UserError(failure)
    collect_orbax_messages()
    errors = checkpoint_errors(workdir)
    conditions = ("intact", "damaged", "unreadable", "aside", "restored")
    found: dict[str, list[int]] = {condition: [] for condition in conditions}
    for folder in [*_checkpoints_in(run), *_checkpoints_in(aside)]:
        shown = folder.relative_to(workdir)
        is_used = folder.parent == run and folder.name.isdecimal()
        try:
            step = verify(folder)
            if is_used:
                require(str(step) == folder.name, f"its contents belong to step {step}")
        except UserError as error:
            if is_used and _is_being_deleted(folder):
                log(f"{shown}: deleted by its run in the meantime")
                continue
            condition = "unreadable" if isinstance(error, Unreadable) else "damaged"
            log(f"{shown}: {condition} ({reason_of(error.__cause__ or error)})")
            if is_used:
                found[condition].append(int(folder.name))
            continue
        error = f", error {errors[step]:.4f}" if step in errors else ""
        if is_used:
            found["intact"].append(step)
            log(f"{shown}: intact{error}")
        elif restore and not (run / str(step)).exists():
            _move(folder, run / str(step))
            found["restored"].append(step)
            log(f"{shown}: intact{error}, taken back as {CHECKPOINTS}/{step}")
        else:
            found["aside"].append(step)
            ignored = "moved aside" if folder.parent == aside else "ignored by training because of its name"
            exists = f"; {CHECKPOINTS}/{step} exists" if (run / str(step)).exists() else ""
            log(f"{shown}: intact{error}, {ignored}{exists}")
    if found["aside"] and not restore:
        log("--restore takes back intact checkpoints as checkpoints/<step>, if that does not exist")
    starts = read_starts(workdir)
    for line in describe(starts) if starts else ():
        log(line)
    goodput = share(total_seconds(starts)) if starts else None
    best = best_steps([*found["intact"], *found["restored"]], errors, 1)
    return {"job": "checkpoints", **found, "best": best[0] if best else None, "goodput": goodput}


def _checkpoints_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the checkpoints in a folder by step; `5000.1` is a second one of step 5000."""
    if not folder.is_dir():
        return []
    named = [path for path in folder.iterdir() if NAME.fullmatch(path.name) and is_complete(path)]
    return sorted(named, key=lambda path: [int(part) for part in path.name.split(".") if part])


def _is_being_deleted(folder: pathlib.Path) -> bool:
    """Returns whether a running training deletes a checkpoint: files of it disappear within a second."""
    if is_remote(folder):
        return not is_complete(folder)  # its marker is deleted first
    count = lambda: sum(len(files) for _, _, files in os.walk(folder))
    before = count()
    if before:
        time.sleep(DELETION_SECONDS)
    return count() < before or not folder.exists()


def _move(source: pathlib.Path, target: pathlib.Path) -> None:
    try:
        move(source, target)
    except OSError as error:
        raise UserError(f"{source} cannot be moved to {target}: {error.strerror or error}") from error


def run() -> None:
    """Runs the command. Flags must be parsed."""
    logging.set_verbosity(logging.WARNING)
    assert WORKDIR.value is not None, "needed flags were checked"
    print_result(inspect_checkpoints(storage_path(WORKDIR.value), _RESTORE.value))


def main(invocation: str = "python -m muskie_jax.checkpoints.command") -> None:
    """Parses `sys.argv` and runs the command."""
    run_command(invocation, __doc__ or "", run, {"workdir": "runs/quickstart"}, ("restore",))


if __name__ == "__main__":
    main()
