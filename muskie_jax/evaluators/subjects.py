"""What is evaluated: networks of any kind, and rules as simple as "did not move", behind one interface.

Letters in shapes: B groups, V views, H x W pixels, L = h x w cells of a view's grid of patches.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
from jax import Array

from muskie_jax.checks import nearest_size
from muskie_jax.models.framewise import Framewise
from muskie_jax.models.muskie import PATCH, Muskie, patchify

MUSKIE, STILL, PATCHES = "muskie", "still", "patches"


class Traces(NamedTuple):
    """What a network leaves for matching.

    Attributes:
      features: for every layer (B, V, h, w, channels).
      to_others: for every layer float32 (B, L, V, L), weights of the first view's queries on all keys;
        of networks that do not look across views, none.
      to_first: for every layer float32 (B, V, L, L), weights of all queries on the first view's keys.
    """

    features: tuple[Array, ...] = ()
    to_others: tuple[Array, ...] = ()
    to_first: tuple[Array, ...] = ()


class Subject(Protocol):
    """What is evaluated.

    Two subjects with equal `network` run the same programs, with their own `params`.

    Attributes:
      name: what tables call it.
      kind: "muskie", "mae", "dinov2", "dinov3", "crocov2", "still" or "patches".
      step: of training, if that is known.
      source: where it came from.
      network: decides what `traces` computes; can be hashed.
      params: its parameters.
    """

    name: str
    kind: str
    step: int | None
    source: str
    network: Any
    params: Any

    def traces(self, params: Any, images: Array) -> Traces:
        """From images, float (B, V, H, W, 3) in [-1, 1]."""
        ...


def fit(images: Array, patch: int) -> Array:
    """Images (B, V, H, W, 3) resized to the nearest size that can be cut into patches."""
    size = nearest_size(images.shape[2:4], patch)
    if size == images.shape[2:4]:
        return images
    return jax.image.resize(images, (*images.shape[:2], *size, images.shape[4]), "cubic")


def as_map(tokens: Array, images: Array, patch: int) -> Array:
    """Tokens (B, V, L, d) of images as a map (B, V, h, w, d)."""
    rows, columns = images.shape[2] // patch, images.shape[3] // patch
    return tokens.reshape(*tokens.shape[:2], rows, columns, tokens.shape[-1])


@dataclasses.dataclass(frozen=True)
class MuskieSubject:
    """A Muskie: features and attention of every block."""

    name: str
    network: Muskie
    params: Any
    step: int | None = None
    source: str = ""
    kind: str = MUSKIE

    def traces(self, params: Any, images: Array) -> Traces:
        images = fit(images, self.network.patch)
        tokens, maps = self.network.apply({"params": params}, images, method=_tokens_and_attention)
        return Traces(
            tuple(as_map(x, images, self.network.patch) for x in tokens),
            tuple(weights[:, 0] for weights in maps),
            tuple(weights[:, :, :, 0] for weights in maps),
        )


def _tokens_and_attention(model: Muskie, images: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Of every block. Weights without the reconstruction head will do."""
    x = model.embed(images, None)
    _, tokens, maps = model.run_blocks(x, images.shape[2:4], True, True)
    return tokens, maps


@dataclasses.dataclass(frozen=True)
class FramewiseSubject:
    """A backbone that sees every view on its own: features of every block."""

    name: str
    kind: str
    network: Framewise
    params: Any
    step: int | None = None
    source: str = ""

    def traces(self, params: Any, images: Array) -> Traces:
        patch = self.network.settings.patch
        images = fit(images, patch)
        batch, views = images.shape[:2]
        tokens = self.network.apply(
            {"params": params}, images.reshape(-1, *images.shape[2:]), method="features"
        )
        maps = (x.reshape(batch, views, *x.shape[1:]) for x in tokens)
        return Traces(tuple(as_map(x, images, patch) for x in maps))


@dataclasses.dataclass(frozen=True)
class PatchSubject:
    """Raw patches as features: what matching comes to without any network."""

    name: str = PATCHES
    kind: str = PATCHES
    network: str = PATCHES
    params: Any = None
    step: int | None = None
    source: str = PATCHES

    def traces(self, params: Any, images: Array) -> Traces:
        del params
        images = fit(images, PATCH)
        return Traces((as_map(patchify(images, PATCH), images, PATCH),))


@dataclasses.dataclass(frozen=True)
class StillSubject:
    """Nothing moves: a point is where it was in the first view."""

    name: str = STILL
    kind: str = STILL
    network: str = STILL
    params: Any = None
    step: int | None = None
    source: str = STILL

    def traces(self, params: Any, images: Array) -> Traces:
        del params, images
        return Traces()
