r"""How fast views are decoded and augmented here, per core, beside a PyTorch loader with Pillow.

    python -m muskie_jax.main --config configs/benchmark_data.py --workdir runs/benchmark_data

Photographs are made for it, unless there are some of your own:

    --config.benchmark_data.photos=/folder/of/photographs

It takes about ten minutes, during which the machine should have nothing else to do. It ends with the cores
that feed one GPU; step times are of an H100 (docs/speed.md), for another GPU write those that
configs/benchmark.py prints there:

    --config.benchmark_data.steps='(("base", 224, 12.6), ("base", 512, 89.4))'

To see what it prints: configs/benchmark_data.py:quick.
"""

from ml_collections import ConfigDict

from muskie_jax.config import default_config, synthetic


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "", "quick"):
        raise ValueError(f"configs/benchmark_data.py:{arg}: there is quick")
    config = default_config()
    config.job = "benchmark_data"
    config.sources.rooms = synthetic()  # not looked at
    config.batch.groups = 4
    if arg == "quick":
        config.benchmark_data.photo_sizes = ((480, 640),)
        config.benchmark_data.sizes = (224,)
        config.benchmark_data.seconds = 0.5
        config.benchmark_data.repeats = 1
    return config
