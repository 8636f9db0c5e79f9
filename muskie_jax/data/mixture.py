"""From a config's sources to what training and evaluation draw from."""

import dataclasses
import itertools
import pathlib

import numpy as np
from ml_collections import ConfigDict

from muskie_jax.buckets import BucketSchedule
from muskie_jax.data.images import BadImage, read_photograph
from muskie_jax.data.layouts import LAYOUTS, photographs
from muskie_jax.data.pipeline import GROUP_STREAM, HELDOUT_STREAM, GroupSampler
from muskie_jax.data.scan import scan
from muskie_jax.data.scenes import split_scenes
from muskie_jax.data.sources import FolderSource, PhotographSource, Source, SyntheticSource
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.data.views import centre_view
from muskie_jax.errors import UserError
from muskie_jax.files import ADDRESS, user_path
from muskie_jax.masking import MaskOptions

PHOTO_SIZE = 256  # of a photo texture, pixels; a power of two
INDEX_FOLDER = "scene_index"  # beside the work directory: runs of the same data share it
EVALUATION_SEED = 0  # whatever the run's seed: runs of different seeds are compared on the same groups


@dataclasses.dataclass(frozen=True)
class Mixture:
    """All sources of a config, by number.

    Attributes:
      training, held_out: source i of both is the same dataset, with different scenes. Where held_out
        has the scenes of training, there was nothing to hold out.
      photos: source number -> photo textures, uint8 (N, 256, 256, 3).
      notes: what the user should know about the data.
    """

    training: tuple[Source, ...]
    held_out: tuple[Source, ...]
    photos: dict[int, np.ndarray]
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(source.name for source in self.training)

    @property
    def worlds(self) -> tuple[WorldConfig | None, ...]:
        """By source number; None where the source is photographs."""
        return tuple(s.world if isinstance(s, SyntheticSource) else None for s in self.training)

    def held_out_by_source(self) -> list["Mixture"]:
        """This mixture once for each source that is evaluated, with only that one in `held_out`."""
        alone = lambda number: tuple(
            dataclasses.replace(source, weight=float(i == number)) for i, source in enumerate(self.held_out)
        )
        evaluated = [number for number, source in enumerate(self.held_out) if source.weight]
        return [dataclasses.replace(self, held_out=alone(number)) for number in evaluated]

    @property
    def truly_held_out(self) -> bool:
        """Whether evaluation sees no scene that training saw."""
        return all(
            a != b or isinstance(a, SyntheticSource)
            for a, b in zip(self.training, self.held_out)
            if b.weight
        )


def build_mixture(config: ConfigDict, workdir: pathlib.Path | None = None) -> Mixture:
    """Finds the scenes of every source.

    Args:
      config: see `muskie_jax.config.default_config`.
      workdir: of the run; lists of scenes are kept beside it, unless `config.data.index` names another
        folder. None: they are kept only there.

    Raises:
      UserError: if a source has none.
    """
    kept = user_path(config.data.index) if config.data.index else None
    if kept is None and workdir is not None:
        kept = workdir.absolute().parent / INDEX_FOLDER
    roots = _roots(config)
    training, held_out, photos, notes = [], [], {}, []
    for name, source in config.sources.items():
        if source.kind == "synthetic":
            world = SyntheticSource(name, WorldConfig(**source.world), source.weight)
            if source.photos:
                photos[len(training)] = photo_textures(source.photos, source.num_photos)
            training.append(world)
            held_out.append(world)
            continue
        root = roots[name]
        if not root.is_dir():
            notes.append(f"{name}: LEFT OUT, there is no folder {str(root)!r}")
            continue
        seen, unseen, new_notes = _photographs(name, source, root, kept, config.batch.views)
        training.append(seen)
        held_out.append(unseen)
        notes += new_notes
    if not any(source.weight for source in training):
        raise UserError("none of config.sources is there: " + "; ".join(notes))
    # A source without held-out scenes is left out of evaluation, unless no source has any.
    both = list(zip(training, held_out))
    proper = [a.weight > 0 and (isinstance(a, SyntheticSource) or a != b) for a, b in both]
    if any(proper):
        held_out = [b if ok else dataclasses.replace(b, weight=0.0) for (_, b), ok in zip(both, proper)]
    else:
        notes.append("no scene is held out: the evaluation is on scenes that training sees")
    return Mixture(tuple(training), tuple(held_out), photos, tuple(notes))


def _roots(config: ConfigDict) -> dict[str, pathlib.Path]:
    """The folders of all sources of photographs.

    Raises:
      UserError: if one is not there, unless `config.data.allow_missing`; or is no folder but an address.
    """

    def root_of(name: str, source: ConfigDict) -> pathlib.Path:
        if source.kind != "packed":
            if ADDRESS in config.data.root + source.root:
                raise UserError(
                    f"config.sources.{name}.root={source.root!r} is an address, and these are for packs: "
                    "write a folder, or pack it first (docs/data.md)"
                )
            return user_path(config.data.root) / user_path(source.root)
        # Late, since TFDS takes its time to load, and runs without packs do not need it.
        from muskie_jax.data.packing.remote import local_folder

        return local_folder(config.data.root, source.root, config.data.cache)

    sources = {name: source for name, source in config.sources.items() if source.kind != "synthetic"}
    roots = {name: root_of(name, source) for name, source in sources.items()}
    missing = [name for name, root in roots.items() if not root.is_dir()]
    if missing and not config.data.allow_missing:
        first, *others = missing
        more = f" (nor for {', '.join(others)})" if others else ""
        message = f"config.sources.{first}: no folder {str(roots[first])!r}{more}"
        message += f": write --config.sources.{first}.root=..."
        if not pathlib.Path(config.sources[first].root).is_absolute():
            message += ", or the folder that relative roots start from, --config.data.root=..."
        if len(missing) < len(config.sources):
            message += "; or --config.data.allow_missing to train on those that are there"
        raise UserError(message)
    return roots


def _photographs(
    name: str, source: ConfigDict, root: pathlib.Path, kept: pathlib.Path | None, views: int
) -> tuple[PhotographSource, PhotographSource, list[str]]:
    """The training and held-out part of a source of photographs, and notes on it."""
    settings = {"overlap": tuple(source.overlap), "weight": source.weight}
    if source.kind == "packed":
        from muskie_jax.data.packing.packed_source import open_pack  # late: see _roots

        whole = open_pack(name, root, source.window, source.zoom, **settings)
    else:
        is_dataset = source.kind == "dataset"
        layout = LAYOUTS[source.layout] if is_dataset else photographs(source.glob, source.window)
        zoom = source.zoom if is_dataset else 0.0
        whole = FolderSource(name, root, layout, scan(root, layout, kept), source.window, zoom, **settings)
    scenes = whole.scenes
    if source.overlap:
        whole.scene_overlap(0)  # where it is not known, that is said now
    seen, unseen = split_scenes(scenes, source.holdout)
    make = lambda part: dataclasses.replace(whole, scenes=part)
    held = f"{len(unseen)} of them held out" if len(unseen) else "none held out"
    notes = [f"{name}: {len(scenes)} scenes ({held}), {scenes.counts.sum()} images in {root}"]
    short = np.flatnonzero(scenes.counts < views)
    if len(short):
        listed = ", ".join(f"{scenes[i].name} ({scenes.counts[i]})" for i in short[:5])
        more = f" and {len(short) - 5} more" if len(short) > 5 else ""
        notes.append(
            f"{name}: {len(short)} scenes have fewer than {views} images, their views repeat: "
            f"{listed}{more}"
        )
    return make(seen), make(unseen) if len(unseen) else make(seen), notes


def photo_textures(root: str, most: int) -> np.ndarray:
    """Square textures from the photographs of a folder, at any depth: uint8 (N, 256, 256, 3).

    If there are more than `most`, they are evenly spaced in the list of all.

    Raises:
      UserError: if there is no readable photograph.
    """
    folder = user_path(root)
    scenes = scan(folder, photographs("**/*", None))
    frames = list(itertools.chain.from_iterable(scene.frames for scene in scenes))
    chosen = [frames[i * len(frames) // most] for i in range(most)] if len(frames) > most else frames
    textures = []
    for frame in chosen:
        try:
            textures.append(centre_view(read_photograph(folder / frame), (PHOTO_SIZE, PHOTO_SIZE)))
        except BadImage:
            continue
    if not textures:
        raise UserError(f"no readable image for textures under {str(folder)!r}")
    return np.stack(textures)


def training_sampler(config: ConfigDict, mixture: Mixture) -> GroupSampler:
    """Groups to train on."""
    schedule = BucketSchedule(config.buckets.resolutions, config.buckets.views, config.seed)
    return GroupSampler(
        sources=mixture.training,
        schedule=schedule,
        views=config.batch.views,
        reuse=config.batch.reuse,
        patch=config.model.patch,
        masks=MaskOptions.of(config.mask),
        seed=config.seed,
        stream=GROUP_STREAM,
    )


def evaluation_sampler(config: ConfigDict, mixture: Mixture) -> GroupSampler:
    """Held-out groups: always the same, centre crops without flips, of one size."""
    settings = config.evaluation
    size = tuple(settings.size)
    return dataclasses.replace(
        training_sampler(config, mixture),
        sources=mixture.held_out,
        schedule=BucketSchedule(((size,),), (settings.views,), EVALUATION_SEED),
        views=settings.views,
        reuse=1,
        seed=EVALUATION_SEED,
        stream=HELDOUT_STREAM,
        augmented=False,
    )
