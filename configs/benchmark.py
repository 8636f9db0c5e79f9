r"""How fast a training step is on this machine: the table of docs/speed.md.

    python -m muskie_jax.main --config configs/benchmark.py --workdir runs/benchmark

A step is forward, backward and optimizer on 4 groups of 8 views per device. No data is needed. Weak
scaling over 1, 2, 4, ... and all GPUs of a host:

    python -m muskie_jax.main --config configs/benchmark.py:scaling --workdir runs/scaling

Other numbers of them: --config.benchmark.devices=1,3.

A group of 64 views at 512x512, on one GPU and on all, which share it: configs/benchmark.py:long. What each
kind of rematerialisation costs and saves: configs/benchmark.py:remat.

On a CPU, to see what it prints: configs/benchmark.py:tiny. Any other config can be timed at its own buckets
with --config.job=benchmark.
"""

from ml_collections import ConfigDict

from muskie_jax.config import default_config, synthetic

CASES = {
    "published": (
        ("base", (224, 224), "none"),
        ("base", (384, 384), "none"),
        ("base", (512, 512), "none"),
        ("large", (224, 224), "none"),
        ("large", (512, 512), "none"),
        ("large", (512, 512), "block"),
    ),
    "remat": tuple(("large", (512, 512), remat) for remat in ("none", "elementwise", "block", "full")),
    "scaling": (("base", (512, 512), "none"), ("large", (512, 512), "none")),
    "long": (("huge", (512, 512), "none"),),
    "tiny": (("nano", (32, 32), "none"), ("nano", (32, 32), "full")),
}


def get_config(arg: str | None = None) -> ConfigDict:
    arg = arg or "published"
    if arg not in CASES:
        raise ValueError(f"configs/benchmark.py:{arg}: there is {', '.join(CASES)}")
    config = default_config()
    config.job = "benchmark"
    config.sources.rooms = synthetic()  # not looked at: images are random
    config.benchmark.cases = CASES[arg]
    config.benchmark.groups_per_device = 4
    if arg == "scaling":
        config.benchmark.devices = ("doubling",)
        config.benchmark.roofline = False
    if arg == "long":
        # One group of 64 views: on one device, and shared by all that there are.
        config.batch.update(groups=1, views=64)
        config.benchmark.groups_per_device = 0
        config.benchmark.devices = (1, "all")
        config.benchmark.roofline = False
        config.mesh.update(data=1, view=-1)
    if arg == "tiny":
        config.model.dtype = "float32"
        config.benchmark.steps = 2
        config.benchmark.groups_per_device = 1
    return config
