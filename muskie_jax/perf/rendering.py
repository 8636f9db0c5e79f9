"""Times the rendering of synthetic rooms, and the training step that uses them.

    python -m muskie_jax.perf.rendering --variant=small --groups=64 --views=8 --size=128

Prints the milliseconds of a training step (forward, backward, AdamW). Then prints the milliseconds of
rendering its batch, with procedural and with photo textures, also as fractions of the step, and the seconds
of compiling the renderers. --rooms=configs/wide_rooms.py renders the rooms of that config, and --nostep
leaves out the training step.
"""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from jax import Array
from jaxtyping import UInt8

from muskie_jax.config_file import load_config
from muskie_jax.data.synthetic.render import render_groups
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.data.synthetic.textures import photo_pyramid
from muskie_jax.losses import LossOptions
from muskie_jax.masking import MaskOptions, group_masks
from muskie_jax.models.initial_params import init_params
from muskie_jax.models.muskie import build_model
from muskie_jax.perf.roofline import best_time
from muskie_jax.rendering import renderer_options
from muskie_jax.train_step import Pretraining, TrainState, single_batch_update

VARIANT = flags.DEFINE_string("variant", "small", "Variant of the network.")
GROUPS = flags.DEFINE_integer("groups", 64, "Groups of a batch.")
VIEWS = flags.DEFINE_integer("views", 8, "Views of a group.")
SIZE = flags.DEFINE_integer("size", 128, "Side of the square views, pixels.")
DTYPE = flags.DEFINE_string("dtype", "bfloat16", "Type of matrix products.")
REPEATS = flags.DEFINE_integer("repeats", 20, "Calls timed together; the fastest of three timings counts.")
ROOMS = flags.DEFINE_string("rooms", "configs/rooms.py", "Config whose source `rooms` is rendered.")
STEP = flags.DEFINE_bool("step", True, "Whether to time the training step.")
NUM_PHOTOS, PHOTO_SIDE = 256, 256


def milliseconds(run: Callable[[], object]) -> float:
    """Returns the milliseconds per call: the fastest of three runs of --repeats calls.

    Results are not copied to the host.
    """
    return 1e3 * best_time(run, REPEATS.value, 3)


def make_renderer(
    world: WorldConfig, with_photos: bool
) -> tuple[Callable[[], UInt8[Array, "B V H W 3"]], float]:
    """Returns a function that renders a batch, and the seconds of compiling it."""
    rng = np.random.default_rng(0)
    seeds = jnp.asarray(rng.integers(2**32, size=(GROUPS.value, 2), dtype=np.uint32))
    photos = rng.integers(256, size=(NUM_PHOTOS, PHOTO_SIDE, PHOTO_SIDE, 3), dtype=np.uint8)
    pyramid = photo_pyramid(jnp.asarray(photos)) if with_photos else None

    def render(seeds, pyramid):
        groups = render_groups(
            seeds, height=SIZE.value, width=SIZE.value, num_views=VIEWS.value,
            config=world, photos=pyramid,
        )  # fmt: skip
        return groups.images

    start = time.perf_counter()
    compiled = jax.jit(render).lower(seeds, pyramid).compile(renderer_options(jax.default_backend()))
    return lambda: compiled(seeds, pyramid), time.perf_counter() - start


def make_training_step(images: UInt8[Array, "B V H W 3"]) -> Callable[[], TrainState]:
    """Returns a function that runs the next training step, always on the same batch."""
    model = build_model(VARIANT.value, dtype=DTYPE.value)
    side = SIZE.value // model.patch
    masks = MaskOptions((("random", 0.9),))
    groups, views = images.shape[:2]
    mask = group_masks(np.random.default_rng(1), groups, views, (side, side), masks)
    batch = {"images": images, "mask": mask, "source": jnp.zeros(groups, jnp.int32)}
    params = init_params(model)
    optimizer, task = optax.adamw(1e-4), Pretraining(model, LossOptions(), 1)
    step = functools.partial(single_batch_update, task=task, optimizer=optimizer)
    compiled = jax.jit(step, donate_argnums=0)
    state = TrainState(jnp.int32(0), params, optimizer.init(params))

    def train():
        nonlocal state
        state, _ = compiled(state, batch)
        return state

    return train


def main(argv: list[str]) -> None:
    del argv
    world = WorldConfig(**load_config(ROOMS.value).sources.rooms.world)
    times = {}
    for name, with_photos in (("rendering", False), ("with photo textures", True)):
        render, seconds = make_renderer(world, with_photos)
        times[name] = milliseconds(render), seconds
    step_ms = milliseconds(make_training_step(render())) if STEP.value else None
    parts = [] if step_ms is None else [f"step {step_ms:.2f} ms"]
    for name, (ms, seconds) in times.items():
        fraction = "" if step_ms is None else f", {ms / step_ms:.1%}"
        parts.append(f"{name} {ms:.2f} ms{fraction} (compiled in {seconds:.1f} s)")
    print(
        f"{jax.devices()[0].device_kind}: {VARIANT.value}, {GROUPS.value} groups of {VIEWS.value} views of "
        f"{SIZE.value}x{SIZE.value}, {ROOMS.value}: {'; '.join(parts)}"
    )


if __name__ == "__main__":
    app.run(main)
