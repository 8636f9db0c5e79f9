"""Builds the sources and samplers of training and evaluation from a config."""

import dataclasses
import itertools
import pathlib

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from muskie_jax.buckets import BucketSchedule
from muskie_jax.data.formats import unread_lines
from muskie_jax.data.images import BadImage, read_photograph
from muskie_jax.data.layouts import LAYOUTS, folder_layout
from muskie_jax.data.pipeline import GROUP_STREAM, HELDOUT_STREAM, GroupSampler
from muskie_jax.data.recordings import split_recordings
from muskie_jax.data.scan import scan
from muskie_jax.data.scenes import split_scenes
from muskie_jax.data.sources import FolderSource, PhotographSource, Source, SyntheticSource
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.data.views import centre_view
from muskie_jax.errors import UserError
from muskie_jax.files import ADDRESS, user_path
from muskie_jax.masking import MaskOptions
from muskie_jax.reconstruction.settings import has_geometry

PHOTO_SIZE = 256  # side of a photo texture in pixels; a power of two
INDEX_FOLDER = "scene_index"  # next to the work directory, so that runs on the same data share it
NOT_READ = "NOT READ"  # in notes about files that are not read
EVALUATION_SEED = 0  # the same for all runs, so that all are evaluated on the same groups


@dataclasses.dataclass(frozen=True)
class Mixture:
    """All sources of a config; a source's index in `training` is its number.

    Attributes:
      training, held_out: the sources. Source i of both is the same dataset, with different scenes. If no
        scene could be held out, both have the same scenes.
      photos: photo textures, by source number.
      notes: messages to the user about the data.
    """

    training: tuple[Source, ...]
    held_out: tuple[Source, ...]
    photos: dict[int, UInt8[np.ndarray, "N 256 256 3"]]
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(source.name for source in self.training)

    @property
    def worlds(self) -> tuple[WorldConfig | None, ...]:
        """The world of each source; None for sources of photographs, and for those of weight 0."""
        return tuple(
            s.world if isinstance(s, SyntheticSource) and s.weight else None for s in self.training
        )

    def held_out_by_source(self) -> list["Mixture"]:
        """Returns one copy of this mixture per evaluated source, in which only that source has a weight."""
        only = lambda number: tuple(
            dataclasses.replace(source, weight=float(i == number)) for i, source in enumerate(self.held_out)
        )
        evaluated = [number for number, source in enumerate(self.held_out) if source.weight]
        return [dataclasses.replace(self, held_out=only(number)) for number in evaluated]

    @property
    def truly_held_out(self) -> bool:
        """Whether evaluation uses no scene that training uses."""
        return all(
            a != b or isinstance(a, SyntheticSource)
            for a, b in zip(self.training, self.held_out)
            if b.weight
        )


def build_mixture(config: ConfigDict, workdir: pathlib.Path | None = None) -> Mixture:
    """Finds the scenes of every source, and splits them into training and held-out scenes.

    Args:
      config: see `muskie_jax.config.default_config`.
      workdir: the run's work directory. Lists of scenes are cached next to it, unless `config.data.index`
        names another folder. With neither, lists are not cached.

    Raises:
      UserError: if a source is missing or has no scenes.
    """
    cache = index_folder(config, workdir)
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
        if source.kind == "recordings":
            seen, unseen, new_notes = split_recordings(name, source, config.data.root)
            training.append(seen)
            held_out.append(unseen)
            notes += new_notes
            continue
        root = roots[name]
        if not root.is_dir():
            notes.append(f"{name}: LEFT OUT, since the folder {str(root)!r} does not exist")
            continue
        seen, unseen, new_notes = _split_photographs(name, source, root, cache, config.batch.views)
        training.append(seen)
        held_out.append(unseen)
        notes += new_notes
    if not any(source.weight for source in training):
        raise UserError("config.sources has no source to train on: " + "; ".join(notes))
    # A source without held-out scenes is not evaluated, unless no source has any.
    both = list(zip(training, held_out))
    proper = [a.weight > 0 and (isinstance(a, SyntheticSource) or a != b) for a, b in both]
    if any(proper):
        held_out = [b if ok else dataclasses.replace(b, weight=0.0) for (_, b), ok in zip(both, proper)]
    else:
        notes.append("no scene is held out: evaluation uses the scenes of training")
    return Mixture(tuple(training), tuple(held_out), photos, tuple(notes))


def _roots(config: ConfigDict) -> dict[str, pathlib.Path]:
    """Returns the folder of each source of photographs.

    Raises:
      UserError: if a folder is missing, unless `config.data.allow_missing`; or if an unpacked source has
        a URL as its root.
    """
    others = ("synthetic", "recordings")
    sources = {name: source for name, source in config.sources.items() if source.kind not in others}
    roots = {name: _root(config, name, source) for name, source in sources.items()}
    missing = [name for name, root in roots.items() if not root.is_dir()]
    if missing and not config.data.allow_missing:
        first, *others = missing
        more = f" (nor do those of {', '.join(others)})" if others else ""
        message = f"config.sources.{first}: the folder {str(roots[first])!r} does not exist{more}"
        message += f": pass --config.sources.{first}.root=..."
        if not pathlib.Path(config.sources[first].root).is_absolute():
            message += ", or --config.data.root=..., the folder that relative roots start from"
        if len(missing) < len(config.sources):
            message += "; or pass --config.data.allow_missing to train on the sources that exist"
        raise UserError(message)
    return roots


def _root(config: ConfigDict, name: str, source: ConfigDict) -> pathlib.Path:
    """Returns the folder of a source of photographs, which may not exist; downloads a remote pack."""
    if source.kind == "packed":
        # Imported late: TFDS takes long to import, and only runs with packs need it.
        from muskie_jax.data.packing.remote import local_folder

        return local_folder(config.data.root, source.root, config.data.cache)
    if ADDRESS in config.data.root + source.root:
        raise UserError(
            f"config.sources.{name}.root={source.root!r} is a URL, but only packs are read from URLs: "
            "choose a local folder, or pack the source first (docs/data.md)"
        )
    return user_path(config.data.root) / user_path(source.root)


def photograph_scenes(
    name: str, source: ConfigDict, root: pathlib.Path, cache: pathlib.Path | None
) -> tuple[PhotographSource, PhotographSource]:
    """Returns the training part and the held-out part of a source of photographs in the folder `root`.

    If no scene can be held out, both parts have all scenes. For other arguments see `build_mixture`.
    """
    seen, unseen, _ = _split_photographs(name, source, root, cache, views=1)
    return seen, unseen


def index_folder(config: ConfigDict, workdir: pathlib.Path | None) -> pathlib.Path | None:
    """Returns the folder of cached lists of scenes; None for no cache. See `build_mixture`."""
    if config.data.index:
        return user_path(config.data.index)
    return None if workdir is None else workdir.absolute().parent / INDEX_FOLDER


def _split_photographs(
    name: str, source: ConfigDict, root: pathlib.Path, cache: pathlib.Path | None, views: int
) -> tuple[PhotographSource, PhotographSource, list[str]]:
    """Returns the training part and the held-out part of a source of photographs, and notes on them.

    If no scene can be held out, both parts have all scenes.
    """
    settings = {"overlap": tuple(source.overlap), "weight": source.weight}
    if source.kind == "packed":
        from muskie_jax.data.packing.packed_source import open_pack  # imported late: see _root

        all_scenes = open_pack(name, root, source.window, source.zoom, **settings)
    else:
        is_dataset = source.kind == "dataset"
        layout = LAYOUTS[source.layout] if is_dataset else folder_layout(source.glob, source.window)
        zoom = source.zoom if is_dataset else 0.0
        table = scan(root, layout, cache)
        all_scenes = FolderSource(name, root, table, source.window, zoom, layout=layout, **settings)
    scenes = all_scenes.scenes
    if source.overlap:
        all_scenes.scene_overlap(0)  # fails early if the overlap is unknown
    seen, unseen = split_scenes(scenes, source.holdout or 0.0)
    part = lambda table: dataclasses.replace(all_scenes, scenes=table)
    held_out = f"{len(unseen)} of them held out" if len(unseen) else "none held out"
    count = f"{len(scenes)} scene{'s' * (len(scenes) != 1)}"
    notes = [f"{name}: {count} ({held_out}), {scenes.counts.sum()} images in {root}"]
    not_read = unread_lines(scenes.unread, root, source.get("glob", "*"))
    notes += [f"{name}: {NOT_READ}: {line}" for line in not_read]
    short = np.flatnonzero(scenes.counts < views)
    if len(short):
        listed = ", ".join(f"{scenes[i].name} ({scenes.counts[i]})" for i in short[:5])
        more = f" and {len(short) - 5} more" if len(short) > 5 else ""
        notes.append(
            f"{name}: {len(short)} scenes have fewer than {views} images, so their views repeat: "
            f"{listed}{more}"
        )
    return part(seen), part(unseen) if len(unseen) else part(seen), notes


def photo_textures(root: str, most: int) -> UInt8[np.ndarray, "N 256 256 3"]:
    """Reads square textures from the photographs of a folder.

    Args:
      root: the folder, which is searched at any depth.
      most: maximum number of textures. If there are more photographs, evenly spaced ones are read.

    Raises:
      UserError: if no photograph is readable.
    """
    folder = user_path(root)
    scenes = scan(folder, folder_layout("**/*", None))
    frames = list(itertools.chain.from_iterable(scene.frames for scene in scenes))
    chosen = [frames[i * len(frames) // most] for i in range(most)] if len(frames) > most else frames
    textures = []
    for frame in chosen:
        try:
            textures.append(centre_view(read_photograph(folder / frame), (PHOTO_SIZE, PHOTO_SIZE)))
        except BadImage:
            continue
    if not textures:
        raise UserError(
            f"no image in {str(folder)!r} can be read as a photo texture: choose another folder"
        )
    return np.stack(textures)


def training_sampler(config: ConfigDict, mixture: Mixture) -> GroupSampler:
    """Returns the sampler of training groups."""
    return GroupSampler(
        sources=mixture.training,
        schedule=BucketSchedule.of(config),
        views=config.batch.views,
        reuse=config.batch.reuse,
        patch=config.model.patch,
        masks=None if has_geometry(config) else MaskOptions.of(config.mask),
        seed=config.seed,
        stream=GROUP_STREAM,
    )


def evaluation_sampler(config: ConfigDict, mixture: Mixture) -> GroupSampler:
    """Returns the sampler of held-out groups: the same for every run, one size, centred crops, no flips."""
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
