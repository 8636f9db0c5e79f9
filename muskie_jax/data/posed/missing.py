"""Leaves out frames of users' recordings whose image or depth map does not exist."""

from collections.abc import Iterable

from muskie_jax.data.posed.frames import Frame, Sequence
from muskie_jax.errors import UserError

IMAGE, DEPTH = "image", "depth map"


def leave_out_missing(sequences: Iterable[Sequence]) -> tuple[tuple[Sequence, ...], tuple[str, ...]]:
    """Returns sequences of the frames whose files exist, and a line about the others for each kind of file.

    If no frame has a path of a depth map, the recordings have no depth, and only images need to exist.

    Raises:
      UserError: if no frame is left.
    """
    sequences = tuple(sequences)
    has_depth = any(frame.depth for sequence in sequences for frame in sequence.frames)
    missing: dict[str, list[Frame]] = {IMAGE: [], DEPTH: []}
    kept = []
    for sequence in sequences:
        frames = []
        for frame in sequence.frames:
            kind = _missing_file(frame, has_depth)
            (missing[kind] if kind else frames).append(frame)
        kept.append(sequence._replace(frames=tuple(frames)))
    count = sum(len(sequence.frames) for sequence in sequences)
    for kind, frames in missing.items():
        if frames and len(frames) == count:
            path = frames[0].image if kind == IMAGE else frames[0].depth
            raise UserError(f"none of the {count} {kind}s exists, such as {path}: correct their paths")
    notes = [
        f"left out {len(frames)} of {count} frames, whose {kind} does not exist, such as {frames[0].image}"
        for kind, frames in missing.items()
        if frames
    ]
    return tuple(kept), tuple(notes)


def _missing_file(frame: Frame, has_depth: bool) -> str:
    if not frame.image.is_file():
        return IMAGE
    if has_depth and not (frame.depth and frame.depth.is_file()):
        return DEPTH
    return ""
