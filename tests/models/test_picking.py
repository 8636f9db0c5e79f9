"""Gathering picked tokens, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np

from muskie_jax.models.picking import pick, take

CHOSEN = np.array([[0, 1, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)


def test_chosen_tokens_get_slots_in_order():
    picked = pick(jnp.asarray(CHOSEN), 4)
    assert picked.token[0, :3].tolist() == [1, 2, 4]
    assert picked.token[2].tolist() == [0, 1, 2, 3]
    assert picked.is_filled.tolist() == [[True] * 3 + [False], [False] * 4, [True] * 4]
    # 4 means no slot: for tokens that were not chosen, and for one too many.
    assert picked.slot.tolist() == [[4, 0, 1, 4, 2], [4] * 5, [0, 1, 2, 3, 4]]


def test_take_gathers_tokens_and_its_gradient_scatters_them():
    picked = pick(jnp.asarray(CHOSEN), 4)
    x = jax.random.normal(jax.random.key(0), (3, 5, 2, 7))
    taken, pull = jax.vjp(lambda x: take(x, picked), x)
    np.testing.assert_array_equal(taken, np.stack([x[g][picked.token[g]] for g in range(3)]))
    gradient = jax.random.normal(jax.random.key(1), taken.shape)
    (ours,) = pull(gradient)
    filled = jnp.where(picked.is_filled[:, :, None, None], gradient, 0)
    _, automatic = jax.vjp(lambda x: jax.vmap(lambda x, token: x[token])(x, picked.token), x)
    np.testing.assert_array_equal(ours, automatic(filled)[0])
    assert np.abs(ours[0, 0]).max() == 0 and np.abs(ours[0, 1]).max() > 0
