r"""Times training steps on this machine, as in the table of docs/speed.md.

    muskie benchmark --config configs/benchmark.py --workdir runs/benchmark

A step is forward, backward and optimizer on 4 groups of 8 views per device. The benchmark needs no data and
takes a few minutes, mostly for compilation. On an H200 expect 12.3 ms for Muskie-B at 224x224 and 81.5 ms
at 512x512. Weak scaling over 1, 2, 4, ... and all GPUs of a host:

    muskie benchmark --config configs/benchmark.py:scaling --workdir runs/scaling

For other GPU counts, add --config.benchmark.devices=1,3. Further arguments:

- configs/benchmark.py:long times a group of 64 views at 512x512, split over 1, 2, 4, ... GPUs;
  --config.batch.views=128 a larger one.
- configs/benchmark.py:fsdp shards parameters and optimizer over 1, 2, 4, ... GPUs.
- configs/benchmark.py:remat times every kind of rematerialisation, and prints the memory it needs.
- configs/benchmark.py:tiny shows the output within a minute on a CPU.

`reconstruct` in front times the training of a decoder of point maps and cameras instead, with the backbone:
configs/benchmark.py:reconstruct, :reconstruct_scaling, :reconstruct_remat, :reconstruct_long and
:reconstruct_tiny. --config.reconstruct.freeze_backbone and --config.reconstruct.decoder_depth=20 apply.

--config.job=benchmark times any other config at its own buckets.
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
    "fsdp": (("large", (512, 512), "none"), ("huge", (512, 512), "block")),
    "tiny": (("nano", (32, 32), "none"), ("nano", (32, 32), "full")),
}
CASES |= {
    "reconstruct": (("base", (224, 224), "none"), ("large", (224, 224), "block")),
    "reconstruct_remat": tuple(
        ("large", (224, 224), remat) for remat in ("none", "elementwise", "block", "full")
    ),
    "reconstruct_scaling": (("base", (224, 224), "none"), ("large", (224, 224), "block")),
    "reconstruct_long": (("base", (224, 224), "block"),),
    "reconstruct_tiny": CASES["tiny"],
}


def get_config(arg: str | None = None) -> ConfigDict:
    arg = arg or "published"
    if arg not in CASES:
        raise ValueError(f"configs/benchmark.py: unknown argument {arg!r} (choices: {', '.join(CASES)})")
    config = default_config()
    config.job = "benchmark"
    config.sources.rooms = synthetic()  # unused: images are random
    config.benchmark.cases = CASES[arg]
    if arg.startswith("reconstruct"):
        config.task = "reconstruct"
        config.batch.update(reuse=1, passes=1)
    config.benchmark.groups_per_device = 4
    if arg.endswith(("scaling", "fsdp", "long")):
        config.benchmark.devices = ("doubling",)
        config.benchmark.roofline = False
    if arg == "fsdp":
        config.mesh.update(data=1, fsdp=-1)
    if arg.endswith("long"):
        # One group of 64 views, split over the devices.
        config.batch.update(groups=1, views=64)
        config.benchmark.groups_per_device = 0
        config.mesh.update(data=1, view=-1)
    if arg.endswith("tiny"):
        config.model.dtype = "float32"
        config.benchmark.steps = 2
        config.benchmark.groups_per_device = 1
    return config
