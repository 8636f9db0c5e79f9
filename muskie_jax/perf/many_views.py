"""Measures a forward pass over many views on the CPU: in JAX, and in PyTorch if it is installed.

    python -m muskie_jax.perf.many_views --variant=small --views=100

Prints the seconds of the second of two calls and the peak memory. Each framework runs in a process of its
own, since memory that was once used may stay with a process.
"""

import importlib.util
import multiprocessing
import resource
import time
from collections.abc import Callable

import numpy as np
from absl import app, flags

from muskie_jax.models.muskie import VARIANTS

VARIANT = flags.DEFINE_string("variant", "small", "Variant of the network.")
VIEWS = flags.DEFINE_integer("views", 100, "Views of the group.")
SIZE = flags.DEFINE_integer("size", 224, "Side of the square views, pixels.")


def jax_features(variant: str, images: np.ndarray) -> Callable[[], object]:
    """Returns a function that computes the features of `images` (1, V, H, W, 3) in JAX."""
    import jax

    from muskie_jax.models.initial_params import init_params
    from muskie_jax.models.muskie import build_model

    jax.config.update("jax_platforms", "cpu")
    model = build_model(variant)
    params = init_params(model)
    features = jax.jit(lambda params, x: model.apply({"params": params}, x, method="features"))
    return lambda: jax.block_until_ready(features(params, images))


def torch_features(variant: str, images: np.ndarray) -> Callable[[], object]:
    """Returns a function that computes the features of `images` (1, V, H, W, 3) in PyTorch."""
    import torch

    from muskie_jax.interop.torch_model import TorchMuskie

    size = VARIANTS[variant]
    model = TorchMuskie(size.width, size.depth, size.heads).eval()
    tensor = torch.from_numpy(images.transpose(0, 1, 4, 2, 3).copy())

    def features():
        with torch.inference_mode():
            return model.features(tensor)

    return features


FRAMEWORKS = {"JAX": jax_features, "PyTorch": torch_features}


def measure(framework: str, variant: str, views: int, size: int) -> tuple[float, float]:
    """Returns the seconds of the second of two calls, and this process's peak memory in GB."""
    images = np.random.default_rng(0).uniform(-1, 1, (1, views, size, size, 3)).astype(np.float32)
    features = FRAMEWORKS[framework](variant, images)
    features()
    start = time.perf_counter()
    features()
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main(argv: list[str]) -> None:
    del argv
    context = multiprocessing.get_context("spawn")
    for framework in FRAMEWORKS:
        if framework == "PyTorch" and importlib.util.find_spec("torch") is None:
            print('PyTorch is not installed: python -m pip install -e ".[torch]" -c constraints.txt')
            continue
        with context.Pool(1) as pool:
            arguments = (framework, VARIANT.value, VIEWS.value, SIZE.value)
            seconds, peak = pool.apply(measure, arguments)
        print(
            f"{framework}: {VARIANT.value}, {VIEWS.value} views of {SIZE.value}x{SIZE.value}: "
            f"{seconds:.1f} s, {peak:.2f} GB"
        )


if __name__ == "__main__":
    app.run(main)
