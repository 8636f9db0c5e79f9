"""Small training runs for tests, and files in their work directories that may not be read."""

import errno
import pathlib

from ml_collections import ConfigDict

from muskie_jax.config import default_config, folder, synthetic

# Flags that make configs/quickstart.py and configs/photos.py as small as can be.
SMALL_FLAGS = (
    "--config.model.variant=nano",
    "--config.batch.groups=4",
    "--config.buckets.resolutions=(((32,32),),)",
    "--config.buckets.views=(2,)",
    "--config.mask.num_reference=1",
    "--config.optim.warmup=1 steps",
    "--config.evaluation.groups=4",
    "--config.evaluation.size=(32,32)",
    "--config.evaluation.every=0",
)
# Flags of small complete runs, started as a command.
NANO_FLAGS = (
    "--config.model.variant=nano",
    "--config.batch.groups=8",
    "--config.buckets.resolutions=(((32,32),),)",
    "--config.buckets.views=(2,)",
    "--config.evaluation.groups=8",
    "--config.evaluation.size=(32,32)",
    "--config.evaluation.every=0",
    "--config.log.every=1",
    "--config.log.tensorboard=False",
    "--config.optim.warmup=2 steps",
)


def nano_config(root, **source) -> ConfigDict:
    """Returns a run of the smallest network on photographs: two resolutions, float32, 20 steps."""
    config = default_config()
    config.model.variant = "nano"
    config.model.dtype = "float32"
    config.sources.photos = folder(root=str(root), **source)
    config.batch = {"groups": 8, "views": 4, "reuse": 2, "passes": 1}
    config.buckets.update({"resolutions": (((32, 32),), ((32, 48),)), "views": (2, 4)})
    config.duration = "20 steps"
    config.optim.learning_rate = 3e-3
    config.optim.warmup = "2 steps"
    config.data.workers = 0
    config.evaluation.update({"every": 0, "groups": 8, "size": (32, 32), "views": 4, "pictures": 1})
    config.checkpoint.every = 10
    config.log.every = 1
    config.log.tensorboard = False
    return config


def nano_reconstruction() -> ConfigDict:
    """Returns a run of the task "reconstruct" on synthetic rooms: two views of 32x32, float32, 12 steps."""
    config = default_config()
    config.task = "reconstruct"
    config.model.variant = "nano"
    config.model.dtype = "float32"
    config.sources.rooms = synthetic()
    config.batch = {"groups": 4, "views": 2, "reuse": 1, "passes": 1}
    config.buckets.update({"resolutions": (((32, 32),),), "views": (2,)})
    config.duration = "12 steps"
    config.optim.learning_rate = 1e-3
    config.optim.warmup = "2 steps"
    config.data.workers = 0
    config.evaluation.update({"every": 0, "groups": 8, "size": (32, 32), "views": 2, "pictures": 1})
    config.checkpoint.every = 6
    config.log.every = 1
    config.log.tensorboard = False
    return config


def forbid_reading(monkeypatch, name: str) -> None:
    """Makes reads of files of this name fail as if their permissions forbade it; root may read any file."""
    read_bytes = pathlib.Path.read_bytes

    def refuse(path):
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(pathlib.Path, "read_bytes", refuse)
