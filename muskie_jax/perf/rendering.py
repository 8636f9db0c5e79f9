"""What rendering costs beside the training step that it feeds.

python -m muskie_jax.perf.rendering --variant=small --groups=64 --views=8 --size=128

Prints a training step (forward, backward, AdamW), the rendering of its batch with procedural textures
and with photo textures, in milliseconds, and the shares of the step.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from muskie_jax.data.synthetic.render import render_groups
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.data.synthetic.textures import photo_pyramid
from muskie_jax.losses import LossOptions
from muskie_jax.masking import MaskOptions, group_masks
from muskie_jax.models.muskie import build_model
from muskie_jax.perf.roofline import best_time
from muskie_jax.train_step import Task, TrainState, single_batch_update

VARIANT = flags.DEFINE_string("variant", "small", "Of the network.")
GROUPS = flags.DEFINE_integer("groups", 64, "Groups of a batch.")
VIEWS = flags.DEFINE_integer("views", 8, "Views of a group.")
SIZE = flags.DEFINE_integer("size", 128, "Side of the square views, pixels.")
DTYPE = flags.DEFINE_string("dtype", "bfloat16", "Of matrix products.")
REPEATS = flags.DEFINE_integer("repeats", 20, "Runs that are timed together, three times; the best counts.")
NUM_PHOTOS, PHOTO_SIDE = 256, 256


def milliseconds(run: Callable[[], object]) -> float:
    """Time of a call."""
    return 1e3 * best_time(run, REPEATS.value, 3)


def rendering(photos: bool) -> Callable[[], jax.Array]:
    """Renders a batch."""
    rng = np.random.default_rng(0)
    seeds = jnp.asarray(rng.integers(2**32, size=(GROUPS.value, 2), dtype=np.uint32))
    bank = rng.integers(256, size=(NUM_PHOTOS, PHOTO_SIDE, PHOTO_SIDE, 3), dtype=np.uint8)
    pyramid = photo_pyramid(jnp.asarray(bank)) if photos else None

    @jax.jit
    def render(seeds, pyramid):
        side = {"height": SIZE.value, "width": SIZE.value}
        return render_groups(
            seeds, num_views=VIEWS.value, config=WorldConfig(), photos=pyramid, **side
        ).images

    return lambda: render(seeds, pyramid)


def training(images: jax.Array) -> Callable[[], TrainState]:
    """Trains on a batch, again and again."""
    model = build_model(VARIANT.value, dtype=DTYPE.value)
    side = SIZE.value // model.patch
    masks = MaskOptions((("random", 0.9),))
    mask = group_masks(np.random.default_rng(1), *images.shape[:2], (side, side), masks)
    batch = {"images": images, "mask": mask, "source": jnp.zeros(len(images), jnp.int32)}
    params = jax.jit(model.init)(jax.random.key(0), images[:1].astype(jnp.float32))["params"]
    optimizer, task = optax.adamw(1e-4), Task(model, LossOptions(), 1, masks)
    step = functools.partial(single_batch_update, task=task, optimizer=optimizer)
    compiled = jax.jit(step, donate_argnums=0)
    state = TrainState(jnp.int32(0), params, optimizer.init(params))

    def run():
        nonlocal state
        state, _ = compiled(state, batch)
        return state

    return run


def main(argv: list[str]) -> None:
    del argv
    plain, photo = rendering(photos=False), rendering(photos=True)
    render_ms, photo_ms = milliseconds(plain), milliseconds(photo)
    step_ms = milliseconds(training(plain()))
    print(
        f"{jax.devices()[0].device_kind}: {VARIANT.value}, {GROUPS.value} groups of {VIEWS.value} views of "
        f"{SIZE.value}x{SIZE.value}: step {step_ms:.2f} ms; rendering {render_ms:.2f} ms "
        f"({render_ms / step_ms:.1%}), with photo textures {photo_ms:.2f} ms ({photo_ms / step_ms:.1%})"
    )


if __name__ == "__main__":
    app.run(main)
