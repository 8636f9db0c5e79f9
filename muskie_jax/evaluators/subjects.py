"""What is evaluated: networks of any kind, behind one interface."""

from typing import Any, Protocol

from jax import Array


class Subject(Protocol):
    """A network, or something as simple as a rule, that says where a point of one view is in another.

    Letters: B groups, V views, H x W pixels, L = rows x columns of its patches.

    Attributes:
      name: what tables call it.
      kind: "muskie", "mae", "dinov2", "dinov3", "crocov2", "still" or "patches".
      step: of training, if that is known.
      layers: how many levels of features there are; they are numbered from 1.
      attends: whether it has attention across views.
      params: what its functions get first.
      model: the flax module, if there is one.
    """

    name: str
    kind: str
    step: int | None
    layers: int
    attends: bool
    params: Any
    model: Any

    def features(self, params: Any, images: Array) -> tuple[Array, ...]:
        """float (B, V, H, W, 3) in [-1, 1] -> a map (B, V, rows, columns, channels) for every layer."""
        ...
