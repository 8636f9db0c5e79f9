"""The drift of bfloat16 from float32, block by block."""

import jax
import jax.numpy as jnp

from muskie_jax.models.muskie import build_model
from muskie_jax.perf.drift import drift


def test_a_float32_stream_drifts_less():
    model = build_model("nano")
    images = jax.random.uniform(jax.random.key(0), (1, 2, 32, 32, 3), minval=-1.0)
    mask = jnp.zeros((1, 2, 4), bool).at[:, 1].set(True)
    params = model.init(jax.random.key(1), images)["params"]
    errors = drift(model, params, images, mask)
    float32, bfloat16 = errors["float32 stream"], errors["bfloat16 stream"]
    assert len(float32) == len(bfloat16) == model.depth
    assert all(0 < a < b < 0.1 for a, b in zip(float32, bfloat16))
