"""Parses `config.evaluate.models` into models to evaluate.

Each entry is one of

- a source that `load_pretrained` accepts: `small` or `tiny`, the bundled weights, a work directory
  (`runs/base`), a checkpoint in it (`runs/base/5000`), a weights file, a folder written by
  `save_pretrained`, or a hub repository; `*` matches several paths;
- `untrained:small`, a Muskie with its initial parameters, or `untrained`, which has the size of the first
  Muskie before it;
- `mae:`, `dinov2:`, `dinov3:` or `crocov2:`, followed by a published file or repository of that backbone;
- `still`, which predicts that nothing moves, or that all cameras look at one wall; `patches`, raw patches
  as features; `sift`, SIFT descriptors as features.

A prefix `name=` sets the name shown in tables: `"ours=runs/base"`.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from muskie_jax.checkpoints import saved_steps
from muskie_jax.checkpoints.object_storage import MARKER
from muskie_jax.checks import one_of
from muskie_jax.correspondence.sift import import_opencv
from muskie_jax.errors import UserError
from muskie_jax.evaluators.eval_models import (
    MUSKIE,
    PATCHES,
    SIFT,
    STILL,
    DenseSift,
    EvalModel,
    EvalNetwork,
    FramewiseNetwork,
    ModelInfo,
    MuskieNetwork,
    NoMotion,
    PointMapNetwork,
    RawPatches,
)
from muskie_jax.evaluators.settings import CHECKPOINTS
from muskie_jax.files import user_path
from muskie_jax.fingerprint import digest
from muskie_jax.interop import sources
from muskie_jax.interop.bundled import CHOICES
from muskie_jax.interop.framewise import FAMILIES, READABLE, load_framewise
from muskie_jax.interop.hub import WEIGHTS, names_repository
from muskie_jax.interop.load import model_of, open_weights
from muskie_jax.interop.reconstruction_names import ReconstructionNetwork
from muskie_jax.interop.sources import SourceKind
from muskie_jax.models.initial_params import init_params
from muskie_jax.models.muskie import VARIANTS, Muskie, build_model
from muskie_jax.models.reconstruction import Reconstruction
from muskie_jax.storage.address import is_remote, storage_path, version_of

UNTRAINED = "untrained"
BASELINES: dict[str, Callable[[], EvalNetwork]] = {STILL: NoMotion, PATCHES: RawPatches, SIFT: DenseSift}
INIT_SEED = 0  # seed of untrained networks


class LoadedNetwork(NamedTuple):
    """A network with its parameters and, if known, their training step."""

    network: EvalNetwork
    params: Any = None
    step: int | None = None


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A model named in the config, not loaded yet.

    Attributes:
      name: the name shown in tables.
      kind: see `ModelInfo`.
      step: training step, if known before loading.
      source: where the weights come from; checkpoints of one run share its work directory.
      version: text that changes when the weights at the source change.
      load_network: function that reads the weights.
      weights: what to read, as `load_pretrained` accepts it; "" without weights.
    """

    name: str
    kind: str
    step: int | None
    source: str
    version: str
    load_network: Callable[[], LoadedNetwork]
    weights: str = ""

    def load(self) -> EvalModel:
        """Loads the model.

        Raises:
          UserError: if the weights cannot be read.
        """
        network, params, step = self.load_network()
        leaves = jax.tree.leaves(params)
        info = ModelInfo(
            name=self.name,
            kind=self.kind,
            step=step if step is not None else self.step,
            source=self.source,
            parameters=sum(leaf.size for leaf in leaves),
            digest=digest(params) if leaves else "",
            layers=network.module.depth if isinstance(network, MuskieNetwork) else None,
        )
        return EvalModel(info, network, params)


def find_models(entries: Sequence[str], checkpoints: str, dtype: str) -> list[ModelSpec]:
    """Returns the models of a sweep, in order, without loading anything or touching a device.

    Args:
      entries: see the module's docstring.
      checkpoints: which checkpoints of a work directory: "last", "all", or "every 3" for every third one
        and the last.
      dtype: type of matrix products.

    Raises:
      UserError: if a source does not exist, or two models have the same name.
    """
    specs: list[ModelSpec] = []
    for entry in entries:
        name, source = _split_name(entry)
        paths = sources.expand_pattern(source)
        if not paths:
            raise UserError(f"config.evaluate.models: no weights match {source!r}")
        for path in paths:
            # If a pattern is named, prefix each match with that name.
            full_name = name if path == source else "/".join(filter(None, (name, pathlib.Path(path).name)))
            specs += _parse(path, full_name, checkpoints, dtype, specs)
    unique: dict[tuple[str, int | None], ModelSpec] = {}
    for spec in specs:
        other = unique.setdefault((spec.name, spec.step), spec)
        if other.source != spec.source:
            raise UserError(
                f"config.evaluate.models: {other.source} and {spec.source} would both be called "
                f"{spec.name!r}: use 'another_name={spec.source}'"
            )
    return list(unique.values())


def _split_name(entry: str) -> tuple[str, str]:
    name, equals, source = entry.partition("=")
    if not equals:
        return "", entry
    if not name or not source:
        raise UserError(f"config.evaluate.models has {entry!r}, which must be 'name=source'")
    return name, source


def _parse(
    source: str, name: str, checkpoints: str, dtype: str, before: Sequence[ModelSpec]
) -> Iterator[ModelSpec]:
    prefix, colon, rest = source.partition(":")
    if source in BASELINES:
        if source == SIFT:
            import_opencv("config.evaluate.models='sift'")
        make = BASELINES[source]
        yield ModelSpec(name or source, source, None, source, "1", lambda: LoadedNetwork(make()))
    elif prefix == UNTRAINED:
        yield _untrained(source, rest if colon else None, name, dtype, before)
    elif colon and prefix in FAMILIES:
        yield _framewise(source, prefix, rest, name, dtype)
    else:
        yield from _muskies(source, name, checkpoints, dtype)


def _muskies(source: str, name: str, checkpoints: str, dtype: str) -> Iterator[ModelSpec]:
    """Yields the selected checkpoints of a work directory, or the one set of weights of other sources."""
    found = sources.identify_source(source)
    if found.workdir is not None:
        step = None if found.kind is SourceKind.WORKDIR else int(found.path.name)
        yield from _of_workdir(found.workdir, step, name, checkpoints, dtype)
        return
    if found.kind is SourceKind.MISSING:
        others = ", ".join((UNTRAINED, *BASELINES, *(f"{family}:..." for family in FAMILIES)))
        raise _missing(
            source,
            f"{CHOICES}, a work directory, a weights file, user/name on the hub, or one of {others}",
        )
    path = storage_path(source)
    if path.name.isdigit():  # the parent folder describes a copied checkpoint better
        path = path.parent
    label = name or (path.stem if path.is_file() else path.name)
    load = functools.partial(_load_muskie, source, dtype)
    yield ModelSpec(label, MUSKIE, None, source, _version(found.path), load, source)


def _of_workdir(
    workdir: pathlib.Path, step: int | None, name: str, checkpoints: str, dtype: str
) -> Iterator[ModelSpec]:
    """Yields the checkpoint `step` of a work directory, or the ones that `checkpoints` selects if None."""
    folder = workdir / saved_steps.CHECKPOINTS
    steps = saved_steps.saved_steps(workdir)
    if not steps or (step is not None and step not in steps):
        raise UserError(
            f"config.evaluate.models: {folder} has no checkpoint {'yet' if step is None else step}"
        )
    selected = [step] if step is not None else _select(steps, checkpoints)
    for each in selected:
        checkpoint = folder / str(each)
        # Loading the work directory falls back to an older checkpoint if the newest is damaged.
        path = workdir if each == steps[-1] and step is None else checkpoint
        load = functools.partial(_load_muskie, str(path), dtype)
        version = _version(checkpoint)
        yield ModelSpec(name or workdir.name, MUSKIE, each, str(workdir), version, load, str(checkpoint))


def _select(steps: Sequence[int], checkpoints: str) -> list[int]:
    if checkpoints == "last":
        return [steps[-1]]
    match = CHECKPOINTS.fullmatch(checkpoints)
    assert match is not None, "config.evaluate.checkpoints was validated"
    stride = int(match[1] or 1)
    return sorted({*steps[stride - 1 :: stride], steps[-1]})


def _load_muskie(source: str, dtype: str) -> LoadedNetwork:
    weights = open_weights(source, with_decoder=True)
    backbone = model_of(weights.network.backbone, dtype)
    if isinstance(weights.network, ReconstructionNetwork):
        network = PointMapNetwork(Reconstruction(backbone, weights.network.decoder_depth))
    else:
        network = MuskieNetwork(backbone)
    return LoadedNetwork(network, jax.device_put(weights.params), weights.provenance.get("step"))


def _untrained(
    source: str, variant: str | None, name: str, dtype: str, before: Sequence[ModelSpec]
) -> ModelSpec:
    if variant is not None:
        one_of(variant, VARIANTS, f"config.evaluate.models {source!r}")
        module_of, version = functools.partial(build_model, variant, dtype=dtype), variant
    else:
        trained = [spec for spec in before if spec.kind == MUSKIE and spec.step != 0]
        if not trained:
            raise UserError(
                "config.evaluate.models: 'untrained' copies the size of the Muskie named before it, "
                "and there is none: use 'untrained:small'"
            )
        like = trained[0].source
        module_of = lambda: model_of(open_weights(like).network, dtype)
        source, version = f"{UNTRAINED}, as {like}", trained[0].version
    label = name or (f"untrained ({variant})" if variant else UNTRAINED)
    return ModelSpec(label, MUSKIE, 0, source, version, lambda: _initialise(module_of()))


def _initialise(module: Muskie) -> LoadedNetwork:
    return LoadedNetwork(MuskieNetwork(module), init_params(module, INIT_SEED), 0)


def _framewise(source: str, family: str, weights: str, name: str, dtype: str) -> ModelSpec:
    if not user_path(weights).exists() and not names_repository(weights, READABLE):
        raise _missing(
            weights,
            f"{family}: followed by a weights file, a folder with {WEIGHTS}, or user/name on the hub",
        )
    path = pathlib.PurePath(weights)
    label = name or f"{family} {path.parent.name if path.name == WEIGHTS else path.stem}"

    def load() -> LoadedNetwork:
        module, params = load_framewise(family, weights, dtype=dtype)
        return LoadedNetwork(FramewiseNetwork(module), params)

    return ModelSpec(label, family, None, source, _version(weights), load)


def _version(source: str | pathlib.Path) -> str:
    """Returns a text that changes when local weights are rewritten; "elsewhere" for hub repositories."""
    path = storage_path(source)
    try:
        if is_remote(path) and (path / MARKER).is_file():
            return version_of(path / MARKER)
        return version_of(path / WEIGHTS if (path / WEIGHTS).is_file() else path)
    except OSError:
        return "elsewhere"


def _missing(source: str, accepted: str) -> UserError:
    return UserError(f"config.evaluate.models: {source!r} does not exist: use {accepted}")
