"""The camera head: patch tokens to the pose of each view. Axes: B groups, V views, L patches, d width."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Float32

from muskie_jax.models.layers import dense

STAGES = 2
SMALLEST_NORM = 1e-12  # of a row of the predicted matrix, below which it is not scaled to length 1
# Lower bound of the divisors of the projection's gradient. Where it applies, the closest rotation is nearly
# ambiguous.
SMALLEST_SUM = 1e-4


class ResidualStage(nn.Module):
    """x + three linear layers, each followed by a ReLU."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        y, width = x, x.shape[-1]
        for i in (1, 2, 3):
            y = nn.relu(dense(width, width, self.dtype, name=f"fc{i}")(y))
        return x + y


class CameraHead(nn.Module):
    """Predicts the camera-to-world pose of every view.

    Attributes:
      dtype: dtype of products, except for the two output layers, which are float32.
    """

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: Float[Array, "B V L d"]) -> Float32[Array, "B V 4 4"]:
        width, float32 = tokens.shape[-1], jnp.dtype("float32")
        x = tokens.reshape(len(tokens), -1, width)  # three axes for speed, see `layers`
        for i in range(STAGES):
            x = ResidualStage(self.dtype, name=f"stage_{i}")(x)
        # XLA's CPU compiler of jax 0.12 would fuse the mean with bfloat16 products, and read unset memory.
        x = jax.lax.optimization_barrier(x).reshape(tokens.shape).mean(axis=2)
        for i in (1, 2):
            x = nn.relu(dense(width, width, self.dtype, name=f"fc{i}")(x))
        translation = dense(width, 3, float32, name="translation")(x)
        matrix = dense(width, 9, float32, name="rotation")(x).reshape(*x.shape[:-1], 3, 3)
        return rigid_transform(closest_rotation(_unit_rows(matrix)), translation)


def rigid_transform(
    rotation: Float[Array, "*batch 3 3"], translation: Float[Array, "*batch 3"]
) -> Float[Array, "*batch 4 4"]:
    """Returns the matrix of x -> rotation x + translation."""
    top = jnp.concatenate([rotation, translation[..., None]], axis=-1)
    bottom = jnp.broadcast_to(jnp.array([0, 0, 0, 1], top.dtype), (*top.shape[:-2], 1, 4))
    return jnp.concatenate([top, bottom], axis=-2)


def _unit_rows(matrix: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch 3 3"]:
    squared = jnp.square(matrix).sum(-1, keepdims=True)
    return matrix * jax.lax.rsqrt(jnp.maximum(squared, SMALLEST_NORM**2))


@jax.custom_vjp
def closest_rotation(matrix: Float32[Array, "*batch 3 3"]) -> Float32[Array, "*batch 3 3"]:
    """Returns the rotation R that is closest to a matrix in the Frobenius norm (orthogonal Procrustes).

    With the singular value decomposition M = U S Wᵀ, R = U D Wᵀ, where D = diag(1, 1, det(U Wᵀ)) (Kabsch
    1976, Umeyama 1991). The gradient is finite everywhere. It is exact unless the closest rotation is
    ambiguous, and so also at equal singular values, where the gradient of the decomposition is infinite.
    """
    return _project(matrix)[0]


def _project(matrix: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    """Returns R, and for the backward pass R, W, and the diagonal of D S."""
    left, singular, right = jnp.linalg.svd(matrix)
    sign = jnp.where(jnp.linalg.det(left) * jnp.linalg.det(right) < 0, -1.0, 1.0)
    signs = jnp.stack([jnp.ones_like(sign), jnp.ones_like(sign), sign], axis=-1)
    rotation = jnp.matmul(left * signs[..., None, :], right, precision="highest")
    return rotation, (rotation, right.mT, signs * singular)


def _project_backward(residuals, gradient):
    """Differentiates M = R P, where P = W D S Wᵀ is symmetric.

    For a change of R by R X with an antisymmetric X, the antisymmetric part of Rᵀ dM is (X P + P X) / 2. In
    the basis W, P is diagonal, so that X is this part, divided by sums of pairs of the diagonal of D S.
    """
    rotation, basis, diagonal = residuals
    matmul = lambda a, b: jnp.matmul(a, b, precision="highest")
    rotated_basis = matmul(rotation, basis)
    inner = matmul(rotated_basis.mT, matmul(gradient, basis))
    sums = jnp.maximum(diagonal[..., :, None] + diagonal[..., None, :], SMALLEST_SUM)
    return (matmul(matmul(rotated_basis, (inner - inner.mT) / sums), basis.mT),)


closest_rotation.defvjp(_project, _project_backward)
