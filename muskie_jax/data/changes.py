"""Notices that a run's data or evaluation is not what it was at its last start.

Later examples then differ, or errors on held-out scenes are not comparable.
"""

import contextlib
import hashlib
import json
import pathlib

from ml_collections import ConfigDict

from muskie_jax.data.mixture import Mixture
from muskie_jax.data.recordings import RecordedSource
from muskie_jax.data.sources import PhotographSource, Source, SyntheticSource
from muskie_jax.files import DAMAGED_RECORD, replace_text

FILE = "data.json"  # in the work directory: what each source had at the last start


def data_changes(mixture: Mixture, workdir: pathlib.Path) -> list[str]:
    """Records what each source has, and returns a line for each that had something else before.

    Numbers of scenes and images are compared, not their names or contents. Sources that are new or gone
    are changes of the config.

    Args:
      mixture: the sources.
      workdir: the work directory, on this machine.
    """
    both = zip(mixture.names, mixture.training, mixture.held_out)
    now = {name: _describe(training, held_out) for name, training, held_out in both}
    path = workdir / FILE
    try:
        before = dict(json.loads(path.read_text()))
    except (OSError, *DAMAGED_RECORD):
        before = {}
    with contextlib.suppress(OSError):  # the run does not need the record
        replace_text(path, json.dumps(now, indent=2) + "\n")
    return [
        f"{name} had {before[name]}, and now has {text}: examples differ from here on"
        for name, text in now.items()
        if before.get(name, text) != text
    ]


def measured_on(config: ConfigDict, mixture: Mixture) -> str:
    """Returns a digest of what a run measures errors on: images, their sizes and numbers, masks, and loss.

    Folders may move. Of held-out images, only numbers count, not their names or contents.
    """
    places = ("root", "photos")
    evaluation = {name: config.evaluation[name] for name in ("groups", "size", "views")}
    sources = {
        name: [
            {key: value for key, value in config.sources[name].to_dict().items() if key not in places},
            None if isinstance(held_out, SyntheticSource) else _count(held_out),
        ]
        for name, held_out in zip(mixture.names, mixture.held_out)
    }
    all_of_it = [config.task, evaluation, config.mask.to_dict(), config.loss.to_dict(), sources]
    return hashlib.sha256(json.dumps(all_of_it, sort_keys=True).encode()).hexdigest()[:16]


def _describe(training: Source, held_out: Source) -> str:
    if isinstance(training, SyntheticSource):
        return "rooms"
    evaluated = held_out.weight > 0 and held_out != training
    parts = [training, held_out] if evaluated else [training]
    images, scenes = zip(*map(_count, parts))
    join = lambda counts: " and ".join(map(str, counts))
    which = " (training and held out)" if len(parts) > 1 else ""
    return f"{join(images)} images in {join(scenes)} scenes{which}"


def _count(source: Source) -> tuple[int, int]:
    """Returns the number of images and of scenes."""
    if isinstance(source, RecordedSource):
        return sum(len(sequence.frames) for sequence in source.sequences), len(source.sequences)
    assert isinstance(source, PhotographSource)
    return int(source.scenes.counts.sum()), len(source.scenes)
