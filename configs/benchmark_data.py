r"""Times decoding and augmentation per core, and compares them with a PyTorch loader that uses Pillow.

    muskie benchmark_data --config configs/benchmark_data.py --workdir runs/benchmark_data

It generates photographs, unless you name a folder of your own:

    --config.benchmark_data.photos=/folder/of/photographs

It takes about ten minutes; leave the machine otherwise idle. At the end it prints how many cores feed one
GPU. The default step times are for an H200 (docs/speed.md). For another GPU, pass the step times that
configs/benchmark.py measures on it:

    --config.benchmark_data.steps='(("base", 224, 12.3), ("base", 512, 81.5))'

configs/benchmark_data.py:quick shows the output within a minute. docs/speed.md lists the numbers to expect.
"""

from ml_collections import ConfigDict

from muskie_jax.config import default_config, synthetic


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "", "quick"):
        raise ValueError(f"configs/benchmark_data.py: unknown argument {arg!r} (choices: quick)")
    config = default_config()
    config.job = "benchmark_data"
    config.sources.rooms = synthetic()  # unused
    config.batch.groups = 4
    if arg == "quick":
        config.benchmark_data.photo_sizes = ((480, 640),)
        config.benchmark_data.sizes = (224,)
        config.benchmark_data.seconds = 0.5
        config.benchmark_data.repeats = 1
    return config
