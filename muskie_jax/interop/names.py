"""The published PyTorch name of every parameter, as one table for reading and writing.

The two layouts differ only in arrangement. A linear layer's kernel is (in, out) in JAX and (out, in) in
PyTorch, where the patch embedding is a convolution. Conversion is therefore exact in both directions.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from muskie_jax.errors import UserError
from muskie_jax.models.muskie import CHANNELS, VARIANTS, Muskie
from muskie_jax.models.rope import BASE

# (name of the PyTorch module, path in our tree, kind); {i} is the block index.
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
HEAD = ("decoder_norm", "decoder_pred")  # modules of the reconstruction head

# (PyTorch name, path in our tree, PyTorch shape).
TOKENS = (
    ("register_tokens", "register_tokens", "1 1 registers width"),
    ("mask_placeholder", "mask_token", "1 1 1 width"),
    # Our addition; the published implementation has no view embedding.
    ("view_embedding", "view_embedding", "1 max_views 1 width"),
)

READABLE_TYPES = ("float16", "bfloat16", "float32", "float64")  # converted to float32 when read
# Tensors that every file of Muskie weights contains.
REQUIRED = ("register_tokens", "mask_placeholder", "patch_embed.proj.weight")
MAX_NAMES, MAX_NAME = 6, 100  # parameters in a message, characters per name


@dataclasses.dataclass(frozen=True)
class Network:
    """The sizes that fix every parameter's shape, and two settings that shapes do not reveal.

    These are the number of heads and the base of the rotary embedding.

    `muskie_jax.models.muskie.Muskie` describes the attributes.
    """

    width: int
    depth: int
    heads: int
    patch: int
    registers: int
    view_embed: str = "none"
    max_views: int = 8
    rope_base: float = BASE

    @classmethod
    def of(cls, model: Muskie) -> "Network":
        return cls(**{field.name: getattr(model, field.name) for field in dataclasses.fields(cls)})

    @property
    def variant(self) -> str | None:
        """The name of the variant of this size; None if there is none."""
        size = (self.width, self.depth, self.heads)
        return next((name for name, v in VARIANTS.items() if (v.width, v.depth, v.heads) == size), None)

    @property
    def backbone(self) -> "Network":
        """The Muskie in this network: here the network itself."""
        return self

    def parameters(self) -> "list[Parameter]":
        """Lists every parameter."""
        return parameters(self)

    def metadata(self) -> dict[str, Any]:
        """Returns the sizes as a weights file stores them."""
        return {
            "variant": self.variant,
            "width": self.width,
            "depth": self.depth,
            "num_heads": self.heads,
            "patch": self.patch,
            "registers": self.registers,
            "view_embed": self.view_embed,
            "rope_base": self.rope_base,
        }


class Parameter(NamedTuple):
    """One parameter: its name and shape in PyTorch, its path and shape in our tree.

    `in_head` says whether it belongs to the backbone's reconstruction head, which may be missing.
    """

    torch_name: str
    torch_shape: tuple[int, ...]
    path: tuple[str, ...]
    shape: tuple[int, ...]
    in_head: bool = False

    @property
    def is_kernel(self) -> bool:
        return self.path[-1] == "kernel"

    @property
    def is_convolution(self) -> bool:
        """Whether our kernel is (rows, columns, in, out), and PyTorch's (out, in, rows, columns)."""
        return self.is_kernel and len(self.shape) == 4

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        if self.is_convolution:
            array = array.transpose(3, 2, 0, 1)
        elif self.is_kernel:
            array = array.T
        return np.ascontiguousarray(array.reshape(self.torch_shape))

    def to_jax(self, array: np.ndarray) -> np.ndarray:
        if self.is_convolution:
            array = array.transpose(2, 3, 1, 0)
        elif self.is_kernel:
            array = array.reshape(self.shape[::-1]).T
        return np.ascontiguousarray(array.reshape(self.shape))


def parameters(network: Network) -> list[Parameter]:
    """Lists every parameter of a Muskie."""
    sizes = dataclasses.asdict(network)
    listed = []
    for torch_name, path, dimensions in TOKENS:
        if torch_name == "view_embedding" and network.view_embed == "none":
            continue
        torch_shape = tuple(int(sizes.get(word, word)) for word in dimensions.split())
        shape = tuple(size for size, word in zip(torch_shape, dimensions.split()) if word != "1")
        listed.append(Parameter(torch_name, torch_shape, (path,), shape))
    for module, path, kind in MODULES:
        for block in range(network.depth) if "{i}" in module else (0,):
            of_module = module_parameters(module.format(i=block), path.format(i=block), kind, network)
            listed += [p._replace(in_head=module in HEAD) for p in of_module]
    return listed


def module_parameters(module: str, path: str, kind: str, network: Network) -> list[Parameter]:
    """Returns the weight and the bias of a module, see `MODULES`."""
    keys = tuple(path.split("/"))
    inputs, outputs = _features(keys[-1], network)
    leaf, torch_shape, shape = {
        "norm": ("scale", (outputs,), (outputs,)),
        "linear": ("kernel", (outputs, inputs), (inputs, outputs)),
        "patches": ("kernel", (outputs, CHANNELS, network.patch, network.patch), (inputs, outputs)),
    }[kind]
    return [
        Parameter(f"{module}.weight", torch_shape, (*keys, leaf), shape),
        Parameter(f"{module}.bias", (outputs,), (*keys, "bias"), (outputs,)),
    ]


def _features(layer: str, network: Network) -> tuple[int, int]:
    """Returns a layer's input and output feature counts."""
    width, pixels = network.width, CHANNELS * network.patch**2
    return {
        "patch_embed": (pixels, width),
        "qkv": (width, 3 * width),
        "fc1": (width, 4 * width),
        "fc2": (4 * width, width),
        "head": (width, 2 * pixels),
    }.get(layer, (width, width))


def to_torch(params: Mapping[str, Any], network: Network) -> dict[str, np.ndarray]:
    """Converts our tree to float32 arrays under their PyTorch names.

    Args:
      params: parameters of the network; the backbone's `norm` and `head` may both be missing.

    Raises:
      UserError: if parameters are missing, unknown, or of the wrong shape or type; it lists them.
    """
    table, flat = check_params(params, network), flatten_dict(params)
    return {p.torch_name: p.to_torch(np.asarray(flat[p.path])) for p in table}


def check_params(params: Mapping[str, Any], network: Network) -> list[Parameter]:
    """Checks our tree against the table and returns the table; see `to_torch` for errors."""
    flat = {"/".join(path): array for path, array in flatten_dict(params).items()}
    table = _table(network, lambda p: "/".join(p.path) in flat)
    check_tensors({"/".join(p.path): p.shape for p in table}, flat, "the parameters")
    return table


def _table(network: Network, is_present: Callable[[Parameter], bool]) -> list[Parameter]:
    """Lists every parameter of a network, without the backbone's head if all of it is absent."""
    table = network.parameters()
    has_head = any(p.in_head and is_present(p) for p in table)
    return [p for p in table if has_head or not p.in_head]


def to_jax(tensors: Mapping[str, np.ndarray], network: Network) -> dict[str, Any]:
    """Converts arrays under their PyTorch names to our tree, in float32.

    Args:
      tensors: float arrays of 16, 32 or 64 bits; `decoder_norm` and `decoder_pred` may both be missing.

    Raises:
      UserError: if tensors are missing, unknown, or of the wrong shape or type; it lists them.
    """
    table = _table(network, lambda p: p.torch_name in tensors)
    expected = {p.torch_name: p.torch_shape for p in table}
    check_tensors(expected, tensors, "the weights", READABLE_TYPES)
    return unflatten_dict({p.path: p.to_jax(to_float32(tensors[p.torch_name])) for p in table})


def to_float32(array: np.ndarray) -> np.ndarray:
    """Converts floats of any size to float32; returns other types unchanged.

    Numbers of 16 bits convert exactly. Numbers of 64 bits are rounded, and become infinite above 3.4e38.
    """
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False) if array.dtype.name in READABLE_TYPES else array


def check_tensors(
    expected: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, Any],
    subject: str,
    types: tuple[str, ...] = ("float32",),
) -> None:
    """Raises UserError if tensors are missing, unknown, or of the wrong shape or type; it lists them.

    Args:
      expected: shapes by name.
      tensors: arrays by name.
      subject: start of the message, such as "the weights".
      types: names of the allowed types.
    """
    shape = lambda dimensions: "x".join(map(str, dimensions)) or "a scalar"
    common = [name for name in expected if name in tensors]
    problems = {
        "missing": [name for name in expected if name not in tensors],
        "unknown": [name for name in tensors if name not in expected],
        "wrong shape": [
            f"{name} ({shape(tensors[name].shape)}, not {shape(expected[name])})"
            for name in common
            if tensors[name].shape != expected[name]
        ],
        "not float32": [
            f"{name} ({tensors[name].dtype})" for name in common if tensors[name].dtype.name not in types
        ],
    }
    found = [f"{kind}: {_abridged(names)}" for kind, names in problems.items() if names]
    if found:
        raise UserError(f"{subject} do not fit this network; {'; '.join(found)}")


def _abridged(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(name[:MAX_NAME] for name in names[:MAX_NAMES]) + more


def network_from_tensors(tensors: Mapping[str, np.ndarray], num_heads: int | None = None) -> Network:
    """Infers the network from the names and shapes of its tensors.

    Args:
      num_heads: number of heads; None takes it from the variant with this width and depth.

    Raises:
      UserError: if these are not the weights of a Muskie, or the number of heads is unknown.
    """
    for name in (*REQUIRED, *({"view_embedding"} & tensors.keys())):
        if name not in tensors:
            raise UserError(f"these are not Muskie weights: {name} is missing")
        if len(tensors[name].shape) != 4:
            raise UserError(f"these are not Muskie weights: {name} has shape {tensors[name].shape}")
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.") and name.count(".") > 2}
    depth = len(blocks)
    if not (width and patch and depth):
        raise UserError(f"these are not Muskie weights: width {width}, patch size {patch}, {depth} blocks")
    if num_heads is None:
        known = {(v.width, v.depth): v.heads for v in VARIANTS.values()}
        num_heads = known.get((width, depth))
    if num_heads is None:
        raise UserError(f"no variant has width {width} and {depth} blocks: set num_heads= (--num_heads)")
    check_heads(width, num_heads)
    views = tensors["view_embedding"].shape[1] if "view_embedding" in tensors else None
    learned = {} if views is None else {"view_embed": "learned", "max_views": views}
    return Network(width, depth, num_heads, patch, tensors["register_tokens"].shape[2], **learned)


def check_heads(width: int, heads: int) -> None:
    """Raises UserError unless each head gets a multiple of 4 channels, as the 2D rotary embedding needs."""
    if type(heads) is not int or heads < 1 or width % heads or (width // heads) % 4:
        raise UserError(
            f"num_heads={str(heads)[:20]} does not fit width {width}: each head needs a multiple of 4 "
            "channels"
        )
