"""Settings of training sources with depth and cameras: `config.sources.<name> = recordings(...)`."""

from ml_collections import ConfigDict

from muskie_jax.checks import at_least, check_fraction, check_types, one_of, require
from muskie_jax.data.posed.settings import PROTOCOLS, check_depth_unit, check_intrinsics, posed

# Settings of `posed` that choose groups to evaluate. Training draws groups at random.
EVALUATION_ONLY = ("groups", "select", "overlap", "stride", "pairs", "collections")
# The published window on each side of the first view's frame: 8 views times a factor of the dataset.
PUBLISHED_WINDOWS = {"scannetpp": 8 * 2, "arkitscenes": 8 * 4, "blendedmvs": 8 * 4}
DEFAULT_WINDOW = 8 * 4


def recordings(
    reader: str,
    root: str = "",
    window: int | None = None,
    weight: float = 1.0,
    holdout: float = 0.1,
    **settings,
) -> ConfigDict:
    """Returns a source of recordings with depth and cameras, for the task "reconstruct".

    Args:
      reader: the layout of the files, see `muskie_jax.data.posed.settings.posed`.
      root: folder of sequences, or of one sequence.
      window: a group's first view is a random frame. The others are at most so many frames before it, and
        fewer after it; a frame may be drawn twice. None: as published, or 32 frames for other datasets.
      weight: relative frequency of the source in the mixture.
      holdout: fraction of the sequences that are held out for evaluation.
      **settings: other settings of the reader, such as `every`, which is 1 by default, or `depth_unit`.

    Raises:
      UserError: for an unknown reader or setting.
    """
    one_of(reader, PROTOCOLS, "recordings()")
    for name in EVALUATION_ONLY:
        require(name not in settings, f"recordings({reader!r}): {name} is a setting of config.posed only")
    source = posed(reader, root, **{"every": 1} | settings)
    for name in set(source) & set(EVALUATION_ONLY):
        del source[name]
    source.window = PUBLISHED_WINDOWS.get(reader, DEFAULT_WINDOW) if window is None else window
    source.update(kind="recordings", weight=weight, holdout=holdout)
    return source


def check_recordings(source: ConfigDict, defaults: ConfigDict, path: str, needs_data: bool) -> None:
    """Raises UserError for an invalid value of a source.

    Args:
      source: the source.
      defaults: a source with the defaults of its settings.
      path: its path in the config, for messages.
      needs_data: whether the job reads files. If so, the source needs a root.
    """
    check_types(source, defaults, path)
    has_root = source.root or not needs_data
    require(has_root, f"{path}.root is empty: pass --{path}.root=/folder/of/sequences")
    at_least(1, source, path, "window", "every")
    check_fraction(source.holdout, f"{path}.holdout")
    check_depth_unit(source.get("depth_unit", 0), f"{path}.depth_unit")
    check_intrinsics(source.get("intrinsics", ()), f"{path}.intrinsics")
