"""Searches for points with the first view turned, since networks are trained on upright views.

Between cameras that are rolled by 90 degrees against each other, such a network finds hardly any point. It
finds them if one view is turned, so the first view is shown to it at several angles. Axes: K angles,
V views, N points.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from muskie_jax.correspondence.predictors import bilinear_sample

SHARPNESS = 0.06  # of the weights of angles, in units of concentration


def turn_image(image: Float[Array, "H W C"], angle: Float[Array, ""]) -> Float[Array, "H W C"]:
    """Turns an image clockwise around its centre, within its frame.

    What leaves the frame is lost. What enters it has the mean colour.

    Args:
      image: the image.
      angle: radians.
    """
    size = (image.shape[0], image.shape[1])
    rows, columns = jnp.indices(size)
    pixels = jnp.stack([columns, rows], -1).reshape(-1, 2).astype(jnp.float32)
    sources, inside = turn_points(pixels, -angle, size)
    turned = bilinear_sample(image[None], sources)[0]
    return jnp.where(inside[:, None], turned, image.mean((0, 1))).reshape(image.shape)


def turn_points(
    points: Float[Array, "N 2"], angle: Float[Array, ""], size: tuple[int, int]
) -> tuple[Float[Array, "N 2"], Bool[Array, " N"]]:
    """Turns points with `turn_image`.

    Args:
      points: (column, row), in pixels, whose centres have whole numbers.
      angle: radians, clockwise.
      size: (height, width) of the image, in pixels.

    Returns:
      The turned points, and whether each is inside the frame.
    """
    centre = (jnp.array(size[::-1], jnp.float32) - 1) / 2
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    rotation = jnp.array([[cosine, -sine], [sine, cosine]])  # y points down
    turned = (points - centre) @ rotation.T + centre
    margin = 0.5 + 1e-3  # a quarter turn is exact but for rounding
    return turned, (jnp.abs(turned - centre) <= centre + margin).all(-1)


def orientation_weights(
    concentration: Float[Array, "K N V"], inside: Bool[Array, "K N"]
) -> Float[Array, "K N V"]:
    """Returns the weight of each angle for each point and view.

    The more distinctly the points of the first view are found in a view at an angle, by their mean
    concentration, the more this angle weighs. A mean that is lower by SHARPNESS weighs 1 / e as much.

    Args:
      concentration: how distinctly each point was found, see `refinement.best_positions`.
      inside: whether each point was in the frame. At the first angle all are. Others have weight 0.

    Returns:
      The weights, which sum to 1 over the angles.
    """
    counted = inside[:, :, None]
    mean = (concentration * counted).sum(1) / jnp.maximum(counted.sum(1), 1)  # (K, V)
    return jax.nn.softmax(jnp.broadcast_to(mean[:, None], concentration.shape) / SHARPNESS, 0, counted)


def angles(count: int) -> Float[Array, " K"]:
    """Returns `count` angles that divide a full turn evenly, from 0, in radians."""
    return 2 * jnp.pi * jnp.arange(count) / count
