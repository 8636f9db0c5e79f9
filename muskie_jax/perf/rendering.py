"""Times the rendering of synthetic rooms, and the training step that uses them.

    python -m muskie_jax.perf.rendering --variant=small --groups=64 --views=8 --size=128

Prints the milliseconds of a training step (forward, backward, AdamW). Then prints the milliseconds of
rendering its batch, with procedural and with photo textures, also as fractions of the step.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from jax import Array
from jaxtyping import UInt8

from muskie_jax.data.synthetic.render import render_groups
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.data.synthetic.textures import photo_pyramid
from muskie_jax.losses import LossOptions
from muskie_jax.masking import MaskOptions, group_masks
from muskie_jax.models.initial_params import init_params
from muskie_jax.models.muskie import build_model
from muskie_jax.perf.roofline import best_time
from muskie_jax.train_step import Task, TrainState, single_batch_update

VARIANT = flags.DEFINE_string("variant", "small", "Variant of the network.")
GROUPS = flags.DEFINE_integer("groups", 64, "Groups of a batch.")
VIEWS = flags.DEFINE_integer("views", 8, "Views of a group.")
SIZE = flags.DEFINE_integer("size", 128, "Side of the square views, pixels.")
DTYPE = flags.DEFINE_string("dtype", "bfloat16", "Type of matrix products.")
REPEATS = flags.DEFINE_integer("repeats", 20, "Calls timed together; the fastest of three timings counts.")
NUM_PHOTOS, PHOTO_SIDE = 256, 256


def milliseconds(run: Callable[[], object]) -> float:
    """Returns the milliseconds per call: the fastest of three runs of --repeats calls.

    Results are not copied to the host.
    """
    return 1e3 * best_time(run, REPEATS.value, 3)


def make_renderer(with_photos: bool) -> Callable[[], UInt8[Array, "B V H W 3"]]:
    """Returns a function that renders a batch, with procedural or photo textures."""
    rng = np.random.default_rng(0)
    seeds = jnp.asarray(rng.integers(2**32, size=(GROUPS.value, 2), dtype=np.uint32))
    photos = rng.integers(256, size=(NUM_PHOTOS, PHOTO_SIDE, PHOTO_SIDE, 3), dtype=np.uint8)
    pyramid = photo_pyramid(jnp.asarray(photos)) if with_photos else None

    @jax.jit
    def render(seeds, pyramid):
        groups = render_groups(
            seeds, height=SIZE.value, width=SIZE.value, num_views=VIEWS.value,
            config=WorldConfig(), photos=pyramid,
        )  # fmt: skip
        return groups.images

    return lambda: render(seeds, pyramid)


def make_training_step(images: UInt8[Array, "B V H W 3"]) -> Callable[[], TrainState]:
    """Returns a function that runs the next training step, always on the same batch."""
    model = build_model(VARIANT.value, dtype=DTYPE.value)
    side = SIZE.value // model.patch
    masks = MaskOptions((("random", 0.9),))
    groups, views = images.shape[:2]
    mask = group_masks(np.random.default_rng(1), groups, views, (side, side), masks)
    batch = {"images": images, "mask": mask, "source": jnp.zeros(groups, jnp.int32)}
    params = init_params(model)
    optimizer, task = optax.adamw(1e-4), Task(model, LossOptions(), 1)
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
    render, render_photos = make_renderer(with_photos=False), make_renderer(with_photos=True)
    render_ms, photos_ms = milliseconds(render), milliseconds(render_photos)
    step_ms = milliseconds(make_training_step(render()))
    print(
        f"{jax.devices()[0].device_kind}: {VARIANT.value}, {GROUPS.value} groups of {VIEWS.value} views of "
        f"{SIZE.value}x{SIZE.value}: step {step_ms:.2f} ms; rendering {render_ms:.2f} ms "
        f"({render_ms / step_ms:.1%}), with photo textures {photos_ms:.2f} ms ({photos_ms / step_ms:.1%})"
    )


if __name__ == "__main__":
    app.run(main)
