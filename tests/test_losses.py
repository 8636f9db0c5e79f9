"""Loss options other than the published ones, which tests/test_golden.py checks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.losses import LossOptions, elementwise_error, normalize_patches, token_losses, total_loss


@pytest.fixture(scope="module")
def case():
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (2, 3, 5, 12)
    pred, target = (3 * jax.random.normal(k, shape) for k in keys[:2])
    conf = jax.random.uniform(keys[2], shape)
    mask = jax.random.bernoulli(keys[3], 0.6, shape[:3]).at[0, 0].set(True)  # groups hide unequal numbers
    return pred, conf, target, mask


@pytest.mark.parametrize("error", ["l2", "l1", "smooth_l1"])
@pytest.mark.parametrize("confidence", [True, False])
@pytest.mark.parametrize("pooling", ["groups", "tokens"])
def test_against_plain_numpy(case, error, confidence, pooling):
    pred, conf, target, mask = (np.asarray(x, np.float64) for x in case)
    difference = np.abs(pred - target)
    errors = {
        "l2": difference**2,
        "l1": difference,
        "smooth_l1": np.where(difference < 1, difference**2 / 2, difference - 0.5),
    }[error]
    if confidence:
        errors = (conf + 0.1) * errors
    by_group = [group.mean(-1)[hidden > 0] for group, hidden in zip(errors, mask)]
    assert len(by_group[0]) != len(by_group[1])
    together = np.concatenate(by_group).mean()
    expected = together if pooling == "tokens" else np.mean([group.mean() for group in by_group])
    if confidence:
        expected += 0.1 * (mask * -np.log(conf + 1e-6).mean(-1)).mean()
    losses = token_losses(*case, LossOptions(error, confidence))
    assert float(total_loss(losses, pooling)) == pytest.approx(expected, rel=1e-5)
    squared = float(losses.squared.sum() / losses.hidden.sum())
    assert squared == pytest.approx((difference**2).mean(-1)[mask > 0].mean(), rel=1e-5)


def test_normalised_targets(case):
    pred, conf, target, mask = case
    normal = normalize_patches(target)
    np.testing.assert_allclose(normal.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(normal.std(-1), 1, atol=1e-3)
    ours = total_loss(token_losses(*case, LossOptions(normalize_targets=True)))
    assert float(ours) == pytest.approx(float(total_loss(token_losses(pred, conf, normal, mask))))
    assert jnp.isfinite(normalize_patches(jnp.ones((1, 4)))).all()


@pytest.mark.parametrize("pooling", ["groups", "tokens"])
def test_a_group_without_a_masked_token_is_harmless(case, pooling):
    pred, conf, target, mask = case

    def loss(pred, mask):
        return total_loss(token_losses(pred, conf, target, mask, LossOptions(confidence=False)), pooling)

    for hidden in (mask.at[0].set(False), jnp.zeros_like(mask)):
        value, gradient = jax.value_and_grad(loss)(pred, hidden)
        assert jnp.isfinite(value) and jnp.isfinite(gradient).all()
        assert (gradient[~hidden] == 0).all()
    assert float(loss(pred, jnp.zeros_like(mask))) == 0.0
    alone = token_losses(pred[1:], conf[1:], target[1:], mask[1:], LossOptions(confidence=False))
    without_the_first = loss(pred, mask.at[0].set(False))
    assert float(without_the_first) == pytest.approx(float(total_loss(alone, pooling)), rel=1e-6)


def test_an_unknown_error_is_named():
    with pytest.raises(ValueError, match="l2, l1, smooth_l1"):
        elementwise_error(jnp.zeros(3), "l3")
