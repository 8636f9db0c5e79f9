"""Identifies a source of weights as a user writes it: a name, a path, a pattern or a repository."""

import enum
import os
import pathlib
from typing import NamedTuple

from muskie_jax.checkpoints.saved_steps import BEST, CHECKPOINTS, best_step, saved_steps
from muskie_jax.errors import UserError, first_line
from muskie_jax.interop.bundled import DIGESTS, bundled_weights
from muskie_jax.interop.hub import WEIGHTS, names_repository
from muskie_jax.interop.weights import INPUT_SUFFIXES
from muskie_jax.storage.address import as_os_errors, exists, is_remote, matching, storage_path


class SourceKind(enum.Enum):
    """What a source is. NO_WEIGHTS: the path exists but has no weights. MISSING: it does not exist."""

    WORKDIR = enum.auto()
    CHECKPOINT = enum.auto()
    FILE = enum.auto()
    EXPORT = enum.auto()
    REPOSITORY = enum.auto()
    NO_WEIGHTS = enum.auto()
    MISSING = enum.auto()


class Source(NamedTuple):
    """An identified source.

    Attributes:
      kind: see `SourceKind`.
      path: what to read: the work directory, the checkpoint's folder, or the weights file. For
        other kinds, the path as written.
      workdir: the work directory that a WORKDIR or CHECKPOINT belongs to, if any. Also set for a MISSING
        checkpoint of an existing work directory.
    """

    kind: SourceKind
    path: pathlib.Path
    workdir: pathlib.Path | None = None

    @property
    def is_local(self) -> bool:
        return self.kind not in (SourceKind.REPOSITORY, SourceKind.MISSING)


def identify_source(source: str | os.PathLike) -> Source:
    """Returns what a source of weights is; looks at paths and URLs, never at the hub.

    - FILE: "small" or "tiny", the bundled weights, see `bundled`. A file or folder of that name is written
      "./small", or passed as a `pathlib.Path`.
    - WORKDIR: `runs/x` or `runs/x/checkpoints`, where `runs/x/checkpoints` is a folder.
    - CHECKPOINT: `runs/x/5000` or `runs/x/checkpoints/5000`, or a copy of such a folder elsewhere;
      `runs/x/best`, the checkpoint with the lowest error on held-out scenes.
    - FILE: any other file. EXPORT: a folder with `model.safetensors`, as `save_pretrained` writes it.
    - REPOSITORY: `user/name`, if no such path exists.

    Raises:
      UserError: if the source cannot be a path, for example because it is too long; if bundled weights
        are missing or damaged; or if no checkpoint of `runs/x/best` was evaluated.
    """
    if isinstance(source, str) and source in DIGESTS:
        return Source(SourceKind.FILE, bundled_weights(source))
    path = storage_path(source)
    if path.parts and path.parts[0] in DIGESTS:  # "./small": a later str(path) must not mean "small"
        path = path.absolute()
    try:
        with as_os_errors():
            local = _identify_local(path)
    except OSError as error:
        if is_remote(path):
            raise UserError(f"{path} cannot be read: {first_line(error)}") from error
        raise UserError(f"{str(source)[:100]!r} is not a valid path: {error.strerror}") from error
    if local:
        return local
    if not is_remote(path) and names_repository(source, INPUT_SUFFIXES):
        return Source(SourceKind.REPOSITORY, path)
    return Source(SourceKind.MISSING, path, _run_of(path))


def _identify_local(path: pathlib.Path) -> Source | None:
    """Returns None if nothing exists at the path."""
    if path.is_file():
        return Source(SourceKind.FILE, path)
    if (path / CHECKPOINTS).is_dir():
        return Source(SourceKind.WORKDIR, path, path)
    if path.name == CHECKPOINTS and path.is_dir():
        return Source(SourceKind.WORKDIR, path.parent, path.parent)
    if (path / "meta").is_dir():
        run = _run_of(path)
        in_run = run is not None and (run / CHECKPOINTS / path.name).is_dir()
        return Source(SourceKind.CHECKPOINT, path, run if in_run else None)
    if path.name == BEST and not exists(path) and (path.parent / CHECKPOINTS).is_dir():
        return Source(SourceKind.CHECKPOINT, _best_checkpoint(path.parent), path.parent)
    saved = path.parent / CHECKPOINTS / path.name
    if saved.is_dir():
        return Source(SourceKind.CHECKPOINT, saved, _run_of(path))
    if (path / WEIGHTS).is_file():
        return Source(SourceKind.EXPORT, path / WEIGHTS)
    return Source(SourceKind.NO_WEIGHTS, path) if exists(path) else None


def _best_checkpoint(workdir: pathlib.Path) -> pathlib.Path:
    step = best_step(workdir)
    if step is None:
        raise UserError(
            f"{workdir / BEST}: none of the checkpoints in {workdir / CHECKPOINTS} was evaluated: use "
            f"{workdir}, the newest checkpoint, or train with --config.checkpoint.keep_best=1"
        )
    return workdir / CHECKPOINTS / str(step)


def _run_of(checkpoint: pathlib.Path) -> pathlib.Path | None:
    """Returns the work directory of `runs/x/5000` or `runs/x/checkpoints/5000`; None for other paths."""
    if not checkpoint.name.isdigit():
        return None
    parent = checkpoint.parent
    run = parent.parent if parent.name == CHECKPOINTS else parent
    return run if (run / CHECKPOINTS).is_dir() else None


def expand_pattern(source: str) -> list[str]:
    """Returns the matching paths that contain weights, sorted; [source] if it contains no `*`.

    Other paths in the same folder, such as an index of scenes next to the runs, are skipped. A path with
    the name of bundled weights, such as "small", becomes "./small".
    """
    if "*" not in source:
        return [source]
    paths = [path for path in matching(source) if _holds_weights(storage_path(path))]
    return [os.path.join(".", path) if path in DIGESTS else path for path in paths]


def _holds_weights(path: pathlib.Path) -> bool:
    source = identify_source(path)
    if source.kind is SourceKind.FILE:
        return path.suffix in INPUT_SUFFIXES
    if source.kind is SourceKind.WORKDIR:  # not its folder `checkpoints`, which is the same run
        return path.name != CHECKPOINTS and bool(saved_steps(path))
    return source.kind in (SourceKind.CHECKPOINT, SourceKind.EXPORT)
