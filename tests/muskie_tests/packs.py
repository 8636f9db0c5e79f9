"""Packs for tests, made and opened as the command and a training run do."""

from muskie_jax.config import default_config, packed
from muskie_jax.data.mixture import build_mixture, training_sampler
from muskie_jax.data.packing.encoding import Encoding
from muskie_jax.data.packing.frames import frames_of
from muskie_jax.data.packing.pack import pack

LOSSLESS = Encoding()


def config_of(source, **data):
    """A config that draws from one source: two resolutions, groups of four views."""
    config = default_config()
    config.batch = {"groups": 4, "views": 4, "reuse": 1}
    config.buckets = {"resolutions": (((32, 32),), ((32, 48),)), "views": (4,)}
    config.sources.photos = source
    config.data.update(data)
    return config


def sampler_of(source, **data):
    config = config_of(source, **data)
    return training_sampler(config, build_mixture(config))


def whole(source, **data):
    """The source with all its scenes."""
    source = source.copy_and_resolve_references()
    source.holdout = 0.0
    return build_mixture(config_of(source, **data)).training[0]


def pack_of(source, out, encoding=LOSSLESS, **settings):
    """Packs a source of a config, and returns what was packed, and the packed source with all scenes."""
    settings = {"shards": 2} | settings
    done = pack(frames_of(whole(source)), out, encoding, **settings)
    return done, whole(packed(root=str(out)))
