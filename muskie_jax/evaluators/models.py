"""From what a config calls the models of a sweep to what is evaluated.

A model is written as

- what `load_pretrained` takes: a work directory (`runs/base`), a checkpoint in it (`runs/base/5000`), a
  file of weights, a folder of `save_pretrained`, a repository of the hub; `*` stands for several;
- `untrained:small`, a Muskie as it is before training, or `untrained`, one like the first Muskie before it;
- `mae:`, `dinov2:`, `dinov3:` or `crocov2:` and a published file or repository of that backbone;
- `still`, nothing moves; `patches`, raw patches as features.

`name=` before it says what tables call it: `"ours=runs/base"`.
"""

import dataclasses
import functools
import glob
import pathlib
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp

from muskie_jax.checks import one_of
from muskie_jax.errors import UserError
from muskie_jax.evaluators.settings import CHECKPOINTS
from muskie_jax.evaluators.subjects import (
    MUSKIE,
    PATCHES,
    STILL,
    FramewiseSubject,
    MuskieSubject,
    PatchSubject,
    StillSubject,
    Subject,
)
from muskie_jax.files import user_path
from muskie_jax.interop.framewise import FAMILIES, READABLE, load_framewise
from muskie_jax.interop.hub import WEIGHTS, names_repository
from muskie_jax.interop.load import model_of, open_weights
from muskie_jax.interop.weights import SUFFIXES
from muskie_jax.models.muskie import CHANNELS, VARIANTS, build_model

UNTRAINED = "untrained"
RULES = {STILL: StillSubject, PATCHES: PatchSubject}
INIT_SEED = 0  # of untrained networks


@dataclasses.dataclass(frozen=True)
class Model:
    """One model of a sweep, not loaded yet.

    Attributes:
      name: what tables call it.
      kind: see `Subject`.
      step: of training, where that is known beforehand.
      source: what it is loaded from; checkpoints of one run have its work directory.
      version: changes when the weights there change.
      load: gives the subject.
    """

    name: str
    kind: str
    step: int | None
    source: str
    version: str
    load: Callable[[], Subject]


def find_models(written: Sequence[str], checkpoints: str, dtype: str) -> list[Model]:
    """The models of a sweep, in order; nothing is loaded, and no device is touched.

    Args:
      written: see above.
      checkpoints: of work directories: "last", "all", or "every 3", each third and the last.
      dtype: of matrix products.

    Raises:
      UserError: if something is not there, or two models have one name.
    """
    found: list[Model] = []
    for entry in written:
        name, source = _name_and_source(entry)
        for path in _expand(source):
            # A name that stands for several folders is that of the one above them.
            own = name if path == source else "/".join(filter(None, (name, pathlib.Path(path).name)))
            found += _find(path, own, checkpoints, dtype, found)
    by_place: dict[tuple[str, int | None], Model] = {}
    for model in found:
        other = by_place.setdefault((model.name, model.step), model)
        if other.source != model.source:
            raise UserError(
                f"config.evaluate.models: {other.source} and {model.source} would both be called "
                f"{model.name!r}: write 'another_name={model.source}'"
            )
    return list(by_place.values())


def _name_and_source(entry: str) -> tuple[str, str]:
    name, equals, source = entry.partition("=")
    if not equals:
        return "", entry
    if not name or not source:
        raise UserError(f"config.evaluate.models has {entry!r}: write 'name=source'")
    return name, source


def _expand(source: str) -> list[str]:
    """The paths with weights that a pattern means, in order; anything else as it is."""
    if "*" not in source:
        return [source]
    paths = sorted(path for path in glob.glob(str(user_path(source))) if _has_weights(pathlib.Path(path)))
    if not paths:
        raise UserError(f"config.evaluate.models: no weights are there like {source!r}")
    return paths


def _has_weights(path: pathlib.Path) -> bool:
    """Whether a path is a file of weights, or a folder with some: of a run, a checkpoint, an export."""
    if path.is_file():
        return path.suffix in SUFFIXES
    saved = any(entry.name.isdigit() for entry in path.glob("checkpoints/*"))
    return saved or (path / "meta").is_dir() or (path / WEIGHTS).is_file()


def _find(source: str, name: str, checkpoints: str, dtype: str, before: Sequence[Model]) -> Iterator[Model]:
    kind, colon, place = source.partition(":")
    if source in RULES:
        make = functools.partial(RULES[source], name=name or source)
        yield Model(name or source, source, None, source, "1", make)
    elif kind == UNTRAINED:
        yield _untrained(source, place if colon else None, name, dtype, before)
    elif colon and kind in FAMILIES:
        _check_there(
            place, f"{kind}: and a file of weights, a folder with {WEIGHTS}, or user/name of the hub"
        )
        path = pathlib.PurePath(place)
        label = name or f"{kind} {path.parent.name if path.name == WEIGHTS else path.stem}"
        load = functools.partial(_load_framewise, label, kind, place, dtype)
        yield Model(label, kind, None, source, _version(place), load)
    else:
        yield from _muskies(source, name, checkpoints, dtype)


def _muskies(source: str, name: str, checkpoints: str, dtype: str) -> Iterator[Model]:
    """Of a work directory the checkpoints that are asked for, of anything else the weights."""
    path = user_path(source)
    folder, step = path / "checkpoints", ""
    if not folder.is_dir() and path.name.isdigit():  # a checkpoint of a run
        run = path.parent.parent if path.parent.name == "checkpoints" else path.parent
        folder, step = run / "checkpoints", path.name
        path = run
    if not folder.is_dir():
        others = ", ".join((UNTRAINED, *RULES, *(f"{family}:..." for family in FAMILIES)))
        kinds = f"a work directory, a file of weights, user/name of the hub, or one of {others}"
        _check_there(source, kinds)
        label = name or (path.stem if path.is_file() else path.name)
        load = functools.partial(_load_muskie, label, source, source, dtype)
        yield Model(label, MUSKIE, None, source, _version(source), load)
        return
    steps = sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())
    if not steps or (step and int(step) not in steps):
        raise UserError(f"config.evaluate.models: {folder} has no checkpoint {step or 'yet'}")
    # The newest is asked for as "the newest intact one".
    last, every = steps[-1], CHECKPOINTS.fullmatch(checkpoints)[1]
    if step:
        wanted = [int(step)]
    else:
        wanted = [last] if checkpoints == "last" else [*steps[int(every or 1) - 1 :: int(every or 1)], last]
    label = name or path.name
    for number in sorted(set(wanted)):
        checkpoint = folder / str(number)
        place = path if number == last and not step else checkpoint
        load = functools.partial(_load_muskie, label, str(place), str(path), dtype)
        yield Model(label, MUSKIE, number, str(path), _version(checkpoint), load)


def _load_muskie(name: str, place: str, source: str, dtype: str) -> Subject:
    weights = open_weights(place)
    model = model_of(weights.network, dtype)
    return MuskieSubject(name, model, jax.device_put(weights.params), weights.provenance.get("step"), source)


def _untrained(source: str, variant: str | None, name: str, dtype: str, before: Sequence[Model]) -> Model:
    if variant is not None:
        one_of(variant, VARIANTS, f"config.evaluate.models {source!r}")
        network_of, version = lambda: build_model(variant, dtype=dtype), variant
    else:
        trained = [m for m in before if m.kind == MUSKIE and m.step != 0]
        if not trained:
            raise UserError(
                "config.evaluate.models: 'untrained' copies the size of the Muskie named before it, "
                "and there is none: write 'untrained:small'"
            )
        network_of = lambda: model_of(open_weights(trained[0].source).network, dtype)
        source, version = f"{UNTRAINED}, as {trained[0].source}", trained[0].version
    label = name or (f"untrained ({variant})" if variant else UNTRAINED)

    def load() -> Subject:
        model = network_of()
        images = jnp.zeros((1, 1, model.patch, model.patch, CHANNELS))
        # Op by op would take longer than compiling.
        params = jax.jit(model.init)(jax.random.key(INIT_SEED), images)["params"]
        return MuskieSubject(label, model, params, 0, source)

    return Model(label, MUSKIE, 0, source, version, load)


def _load_framewise(name: str, kind: str, source: str, dtype: str) -> Subject:
    model, params = load_framewise(kind, source, dtype=dtype)
    return FramewiseSubject(name, kind, model, params, None, source)


def _version(source: str | pathlib.Path) -> str:
    """What changes when weights are written anew; of what lies elsewhere, nothing is known."""
    path = user_path(source)
    if (path / WEIGHTS).is_file():
        path = path / WEIGHTS
    try:
        about = path.stat()
    except OSError:
        return "elsewhere"
    return f"{about.st_size} {about.st_mtime_ns}"


def _check_there(source: str, kinds: str) -> None:
    """Raises UserError for what is neither here nor, by its name, on the hub: as loading would later."""
    if not user_path(source).exists() and not names_repository(source, READABLE):
        raise UserError(f"config.evaluate.models: there is no {source!r}: write {kinds}")
