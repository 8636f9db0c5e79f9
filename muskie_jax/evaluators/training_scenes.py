"""Finds out which evaluated scenes a model was trained on, from the configs saved with its weights."""

import contextlib
import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from muskie_jax.data.mixture import photograph_scenes
from muskie_jax.data.source_settings import PHOTOGRAPHS, SOURCE_KINDS, check_sources
from muskie_jax.errors import UserError
from muskie_jax.evaluators.eval_models import MUSKIE
from muskie_jax.evaluators.model_specs import ModelSpec
from muskie_jax.interop.load import training_configs
from muskie_jax.writers import log_main


def choose_holdouts(config: ConfigDict, models: Sequence[ModelSpec]) -> ConfigDict:
    """Returns a config in which every source of photographs has a holdout.

    A holdout of None becomes that of the first model that was trained on the same folder, so the scenes
    held out from its training are evaluated. Without such a model it becomes 0: all scenes are evaluated.
    """
    config = config.copy_and_resolve_references()
    for name, source in config.sources.items():
        if source.kind not in PHOTOGRAPHS or source.holdout is not None:
            continue
        here, source.holdout = _root_of(config, source), 0.0
        trained = ((model, theirs) for model in models for _, theirs in _sources_of(model))
        for model, theirs in trained:
            if _is_same_folder(pathlib.Path(theirs.root), here):
                source.holdout = float(theirs.holdout)
                log_main(f"{name}: {model.name} was trained on this folder, with holdout={theirs.holdout}")
                break
    return config


def trained_folders(
    model: ModelSpec, evaluated: Collection[pathlib.Path], cache: pathlib.Path | None
) -> set[pathlib.Path]:
    """Returns the folders in `evaluated` with images that a model was trained on.

    Args:
      model: the model. Published backbones and weights without metadata count as not trained on any.
      evaluated: absolute folders of the evaluated images.
      cache: folder of cached lists of scenes, see `muskie_jax.data.scan.scan`.
    """
    found: set[pathlib.Path] = set()
    for name, source in _sources_of(model):
        for root in _roots_near(pathlib.Path(source.root), evaluated):
            # A folder of the same name may have another layout, or no scenes at all.
            with contextlib.suppress(UserError):
                seen, _ = photograph_scenes(name, source, root, cache)
                found |= {(seen.root / scene.frames[0]).parent for scene in seen.scenes}
    return found & set(evaluated)


def _sources_of(model: ModelSpec) -> Iterator[tuple[str, ConfigDict]]:
    """Yields names and settings of all sources of photographs that a model was trained on."""
    if model.kind != MUSKIE or not model.weights:
        return
    try:
        configs = training_configs(model.weights)
    except UserError:  # raised again when the model is loaded
        return
    for config in configs:
        sources = config.get("sources")
        for name, settings in sources.items() if isinstance(sources, Mapping) else ():
            if isinstance(settings, Mapping) and settings.get("kind") in PHOTOGRAPHS:
                # Metadata of files is untrusted.
                with contextlib.suppress(UserError, TypeError, ValueError):
                    yield name, _checked_source(config, settings)


def _checked_source(config: Mapping[str, Any], settings: Mapping[str, Any]) -> ConfigDict:
    """Returns a source of a saved config, with an absolute root and defaults for newer settings."""
    defaults = SOURCE_KINDS[settings["kind"]]().to_dict()
    source = ConfigDict(defaults | {key: settings[key] for key in defaults if key in settings})
    check_sources(ConfigDict({"source": source}), needs_data=True)
    source.root = str(_root_of(config, source))
    return source


def _root_of(config: Mapping[str, Any], source: Mapping[str, Any]) -> pathlib.Path:
    """Returns the root of a source, joined to its config's `data.root`.

    Exported weights store only the last component of the source's root.
    """
    data = config.get("data") or {}
    return pathlib.Path(data.get("root", "")).expanduser() / pathlib.Path(source["root"]).expanduser()


def _is_same_folder(recorded: pathlib.Path, here: pathlib.Path) -> bool:
    """Returns whether two roots are the same folder, or have the same name if either does not exist."""
    if recorded.is_dir() and here.is_dir():
        return recorded.resolve() == here.resolve()
    return recorded.name == here.resolve().name


def _roots_near(recorded: pathlib.Path, evaluated: Collection[pathlib.Path]) -> set[pathlib.Path]:
    """Returns the roots to search for training scenes: the recorded one, or folders of its name.

    Roots that contain none of the evaluated folders and are in none of them are left out.
    """
    if recorded.is_dir():
        root = recorded.resolve()
        related = any(root == path or root in path.parents or path in root.parents for path in evaluated)
        return {root} if related else set()
    ancestors = {parent for path in evaluated for parent in (path, *path.parents)}
    return {path for path in ancestors if path.name and path.name == recorded.name}
