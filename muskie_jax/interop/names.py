"""The published PyTorch names of every parameter, as one table that is read in both directions.

Only arrangement differs between the two: a linear layer's kernel is (in, out) here and (out, in) there,
and the patch embedding is a convolution there. So nothing is rounded on the way, in either direction.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from muskie_jax.errors import UserError
from muskie_jax.models.muskie import CHANNELS, VARIANTS, Muskie

# (name of the PyTorch module, path in our tree, kind); {i} is the number of a block.
MODULES = (
    ("patch_embed.proj", "patch_embed", "patches"),
    ("blocks.{i}.norm1", "block_{i}/frame/norm1", "norm"),
    ("blocks.{i}.frame_attn.qkv", "block_{i}/frame/attention/qkv", "linear"),
    ("blocks.{i}.frame_attn.proj", "block_{i}/frame/attention/proj", "linear"),
    ("blocks.{i}.norm2", "block_{i}/frame/norm2", "norm"),
    ("blocks.{i}.frame_mlp.fc1", "block_{i}/frame/mlp/fc1", "linear"),
    ("blocks.{i}.frame_mlp.fc2", "block_{i}/frame/mlp/fc2", "linear"),
    ("blocks.{i}.norm3", "block_{i}/global/norm1", "norm"),
    ("blocks.{i}.global_atten.qkv", "block_{i}/global/attention/qkv", "linear"),
    ("blocks.{i}.global_atten.proj", "block_{i}/global/attention/proj", "linear"),
    ("blocks.{i}.norm4", "block_{i}/global/norm2", "norm"),
    ("blocks.{i}.global_mlp.fc1", "block_{i}/global/mlp/fc1", "linear"),
    ("blocks.{i}.global_mlp.fc2", "block_{i}/global/mlp/fc2", "linear"),
    ("decoder_norm", "norm", "norm"),
    ("decoder_pred", "head", "linear"),
)
HEAD = ("decoder_norm", "decoder_pred")  # what only reconstruction needs

# (PyTorch name, path in our tree, the shape there).
TOKENS = (
    ("register_tokens", "register_tokens", "1 1 registers width"),
    ("mask_placeholder", "mask_token", "1 1 1 width"),
    # Our option, which the published implementation does not have.
    ("view_embedding", "view_embedding", "1 max_views 1 width"),
)

WIDENED = ("float16", "bfloat16")  # types that are read as float32
LISTED, SHOWN = 6, 100  # names in a message, characters of each


@dataclasses.dataclass(frozen=True)
class Network:
    """What fixes the shape of every parameter, and the number of heads, which no shape tells.

    Attributes are those of `muskie_jax.models.muskie.Muskie`.
    """

    width: int
    depth: int
    heads: int
    patch: int
    registers: int
    view_embed: str = "none"
    max_views: int = 8

    @classmethod
    def of(cls, model: Muskie) -> "Network":
        return cls(**{field.name: getattr(model, field.name) for field in dataclasses.fields(cls)})

    @property
    def variant(self) -> str | None:
        """The name of its size, or None if it has none."""
        size = (self.width, self.depth, self.heads)
        return next((name for name, v in VARIANTS.items() if (v.width, v.depth, v.heads) == size), None)


class Parameter(NamedTuple):
    """One parameter: its name and shape in PyTorch, its path and shape in our tree."""

    torch_name: str
    torch_shape: tuple[int, ...]
    path: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def is_kernel(self) -> bool:
        return self.path[-1] == "kernel"

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray((array.T if self.is_kernel else array).reshape(self.torch_shape))

    def to_jax(self, array: np.ndarray) -> np.ndarray:
        if self.is_kernel:
            array = array.reshape(self.shape[::-1]).T
        return np.ascontiguousarray(array.reshape(self.shape))


def parameters(network: Network, backbone_only: bool = False) -> list[Parameter]:
    """Every parameter of a network, without those of the reconstruction head if so wished."""
    sizes = dataclasses.asdict(network)
    found = []
    for torch_name, path, dimensions in TOKENS:
        if torch_name == "view_embedding" and network.view_embed == "none":
            continue
        torch_shape = tuple(int(sizes.get(word, word)) for word in dimensions.split())
        shape = tuple(size for size, word in zip(torch_shape, dimensions.split()) if word != "1")
        found.append(Parameter(torch_name, torch_shape, (path,), shape))
    for module, path, kind in MODULES:
        if backbone_only and module in HEAD:
            continue
        for block in range(network.depth) if "{i}" in module else (0,):
            found += _of_module(module.format(i=block), path.format(i=block), kind, network)
    return found


def _of_module(module: str, path: str, kind: str, network: Network) -> list[Parameter]:
    """The weight and the bias of a module."""
    place = tuple(path.split("/"))
    into, out = _features(place[-1], network)
    leaf, torch_shape, shape = {
        "norm": ("scale", (out,), (out,)),
        "linear": ("kernel", (out, into), (into, out)),
        "patches": ("kernel", (out, CHANNELS, network.patch, network.patch), (into, out)),
    }[kind]
    return [
        Parameter(f"{module}.weight", torch_shape, (*place, leaf), shape),
        Parameter(f"{module}.bias", (out,), (*place, "bias"), (out,)),
    ]


def _features(layer: str, network: Network) -> tuple[int, int]:
    """How many numbers go into a layer and come out of it."""
    width, pixels = network.width, CHANNELS * network.patch**2
    return {
        "patch_embed": (pixels, width),
        "qkv": (width, 3 * width),
        "fc1": (width, 4 * width),
        "fc2": (4 * width, width),
        "head": (width, 2 * pixels),
    }.get(layer, (width, width))


def to_torch(params: Mapping[str, Any], network: Network) -> dict[str, np.ndarray]:
    """Our tree -> float32 arrays by their PyTorch names.

    Args:
      params: of the network; `norm` and `head` may both be missing.

    Raises:
      UserError: listing parameters that are missing, unknown or of another shape or type.
    """
    table, flat = check_params(params, network), flatten_dict(params)
    return {p.torch_name: p.to_torch(np.asarray(flat[p.path])) for p in table}


def check_params(params: Mapping[str, Any], network: Network) -> list[Parameter]:
    """The table of a tree of ours; raises what `to_torch` does."""
    flat = {"/".join(path): array for path, array in flatten_dict(params).items()}
    table = parameters(network, backbone_only=not params.keys() & {"norm", "head"})
    check_tensors({"/".join(p.path): p.shape for p in table}, flat, "the parameters")
    return table


def to_jax(tensors: Mapping[str, np.ndarray], network: Network) -> dict[str, Any]:
    """Arrays by their PyTorch names -> our tree, float32.

    Args:
      tensors: of float32, or of a 16-bit type; `decoder_norm` and `decoder_pred` may both be missing.

    Raises:
      UserError: listing tensors that are missing, unknown or of another shape or type.
    """
    table = parameters(network, backbone_only=not any(name.startswith(HEAD) for name in tensors))
    wanted = {p.torch_name: p.torch_shape for p in table}
    check_tensors(wanted, tensors, "the weights", (*WIDENED, "float32"))
    return unflatten_dict({p.path: p.to_jax(widened(tensors[p.torch_name])) for p in table})


def widened(array: np.ndarray) -> np.ndarray:
    """An array of 16-bit floats as float32, which holds them exactly; any other as it is."""
    return array.astype(np.float32) if array.dtype.name in WIDENED else array


def check_tensors(
    wanted: Mapping[str, tuple[int, ...]],
    found: Mapping[str, Any],
    what: str,
    types: tuple[str, ...] = ("float32",),
) -> None:
    """Raises UserError, listing them, if arrays are missing, unknown, or of another shape or type.

    Args:
      wanted: the shapes, by name.
      found: the arrays.
      what: the start of the message: "the weights".
      types: which may be.
    """
    shape = lambda dimensions: "x".join(map(str, dimensions)) or "a scalar"
    both = [name for name in wanted if name in found]
    problems = {
        "missing": [name for name in wanted if name not in found],
        "unknown": [name for name in found if name not in wanted],
        "of another shape": [
            f"{name} ({shape(found[name].shape)}, not {shape(wanted[name])})"
            for name in both
            if found[name].shape != wanted[name]
        ],
        "of another type than float32": [
            f"{name} ({found[name].dtype})" for name in both if found[name].dtype.name not in types
        ],
    }
    said = [f"{kind}: {_listed(names)}" for kind, names in problems.items() if names]
    if said:
        raise UserError(f"{what} are not those of this network; {'; '.join(said)}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(name[:SHOWN] for name in names[:LISTED]) + more


def network_of(tensors: Mapping[str, np.ndarray], num_heads: int | None = None) -> Network:
    """The network that tensors belong to, from their names and shapes.

    Args:
      num_heads: what no shape tells; None takes that of the published network of this width and depth.

    Raises:
      UserError: if these are no weights of a Muskie, or the number of heads is not known.
    """
    needed = ("register_tokens", "mask_placeholder", "patch_embed.proj.weight")
    for name in (*needed, *({"view_embedding"} & tensors.keys())):
        if name not in tensors:
            raise UserError(f"these are no weights of a Muskie: {name} is missing")
        if len(tensors[name].shape) != 4:
            raise UserError(f"these are no weights of a Muskie: {name} is {tensors[name].shape}")
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.") and name.count(".") > 2}
    depth = len(blocks)
    if not (width and patch and depth):
        raise UserError(f"these are no weights of a Muskie: width {width}, patch {patch}, {depth} blocks")
    if num_heads is None:
        known = {(v.width, v.depth): v.heads for v in VARIANTS.values()}
        num_heads = known.get((width, depth))
    if num_heads is None:
        raise UserError(
            f"no known network has width {width} and {depth} blocks: say how many heads it has (num_heads=)"
        )
    check_heads(width, num_heads)
    views = tensors["view_embedding"].shape[1] if "view_embedding" in tensors else None
    learned = {} if views is None else {"view_embed": "learned", "max_views": views}
    return Network(width, depth, num_heads, patch, tensors["register_tokens"].shape[2], **learned)


def check_heads(width: int, heads: int) -> None:
    """Raises UserError unless a width can be split over heads, with two axes of rotations in each."""
    if type(heads) is not int or heads < 1 or width % heads or (width // heads) % 4:
        raise UserError(
            f"num_heads={str(heads)[:20]} does not fit width {width}: each head needs a multiple of 4 "
            "channels"
        )
