"""Muskie in PyTorch, for exported weights. This file needs PyTorch and safetensors, but not JAX.

    model = load("muskie.safetensors")  # or a .pth or .ckpt file, exported, published or of a trainer
    images, crops = load_images(["kitchen/1.jpg", "kitchen/2.jpg"])
    with torch.inference_mode():
        output = model(images, mask)  # images (B, V, 3, H, W) in [-1, 1]; mask (B, V, L), True = masked
        tokens = model.features(images)  # after every block: (B, V, L, d)

Parameters have their published names (arXiv 2511.18115), so state dicts load in both directions. Letters:
B groups, V views, L = (H/p)(W/p) patches per view, R registers, T = R + L tokens per view, d width, D
channels per head.
"""

import argparse
import collections
import hashlib
import json
import math
import os
import re
import statistics
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BASE = 100.0  # base of the rotary embedding's frequencies, as published
EPSILON = 1e-5  # epsilon of layer norms
LARGEST_VALUE = 10.0  # larger ones are pixels from 0 to 255 that were not scaled to [-1, 1]
# Number of heads of every variant, by width and block count.
HEADS = {(48, 2): 4, (192, 3): 3, (384, 6): 6, (768, 6): 12, (1024, 12): 16, (1280, 16): 16}


class Output(NamedTuple):
    """The reconstruction of every patch, (B, V, L, p*p*3), ordered (channel, row, column) in a patch.

    `pred` is the pixels, in [-1, 1]; `conf` is the confidence of each pixel, in (0, 1).
    """

    pred: Tensor
    conf: Tensor


class PatchEmbed(nn.Module):
    def __init__(self, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """Embeds images (N, 3, H, W) as tokens (N, L, d), patches row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


class TorchAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Attends over x (N, tokens, d); `cosines` and `sines` (tokens, D) rotate queries and keys."""
        n, tokens, width = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (N, heads, tokens, D)
        query, key = rotate(query, cosines, sines), rotate(key, cosines, sines)
        out = F.scaled_dot_product_attention(query, key, value)
        return self.proj(out.transpose(1, 2).reshape(n, tokens, width))


class TorchMLP(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A frame layer, which attends within each view, then a global layer, which attends across views."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, EPSILON)
        self.frame_attn = TorchAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, EPSILON)
        self.frame_mlp = TorchMLP(width)
        self.norm3 = nn.LayerNorm(width, EPSILON)
        self.global_atten = TorchAttention(width, heads)  # spelt as published
        self.norm4 = nn.LayerNorm(width, EPSILON)
        self.global_mlp = TorchMLP(width)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Maps x (B, V, T, d) to the same shape; `cosines` and `sines` (T, D) are for one view."""
        groups, views, tokens, width = x.shape
        x = x.reshape(groups * views, tokens, width)
        x = x + self.frame_attn(self.norm1(x), cosines, sines)
        x = x + self.frame_mlp(self.norm2(x))
        x = x.reshape(groups, views * tokens, width)
        x = x + self.global_atten(self.norm3(x), cosines.repeat(views, 1), sines.repeat(views, 1))
        x = x + self.global_mlp(self.norm4(x))
        return x.reshape(groups, views, tokens, width)


class TorchMuskie(nn.Module):
    """The Muskie backbone with its reconstruction head.

    Args:
      width, depth, heads: 768, 6, 12 for Muskie-B; each of the `depth` blocks has two transformer layers.
      patch: side of a patch in pixels.
      registers: number of learned tokens in front of each view's patches.
      max_views: number of learned view embeddings; 0 for a network without them.
      head: whether to build the reconstruction head. Without it only `features` works.
      rope_base: base of the rotary embedding's frequencies.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch: int = 16,
        registers: int = 4,
        max_views: int = 0,
        head: bool = True,
        rope_base: float = BASE,
    ):
        super().__init__()
        self.patch, self.head_size, self.rope_base = patch, width // heads, rope_base
        self.register_tokens = nn.Parameter(torch.randn(1, 1, registers, width))
        self.mask_placeholder = nn.Parameter(torch.zeros(1, 1, 1, width))
        if max_views:
            self.view_embedding = nn.Parameter(0.02 * torch.randn(1, max_views, 1, width))
        self.patch_embed = PatchEmbed(width, patch)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        if head:
            self.decoder_norm = nn.LayerNorm(width, EPSILON)
            self.decoder_pred = nn.Linear(width, 2 * 3 * patch**2)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Output:
        """Reconstructs every patch of every view.

        Args:
          images: (B, V, 3, H, W) in [-1, 1]; H and W divisible by the patch size.
          mask: bool (B, V, L), True = hidden from the network; None masks nothing.
        """
        if not hasattr(self, "decoder_pred"):
            raise ValueError("these weights have no reconstruction head: call features()")
        x = self.decoder_pred(self.decoder_norm(self.features(images, mask)[-1])).float()
        pred, logit = x.chunk(2, dim=-1)
        return Output(pred, logit.sigmoid())

    def features(self, images: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Returns the patch tokens after every block, each (B, V, L, d), without a final norm."""
        check_images(images, self.patch)
        groups, views, _, height, width = images.shape
        x = self.patch_embed(images.flatten(0, 1)).unflatten(0, (groups, views))
        if mask is not None:
            x = torch.where(mask.unsqueeze(-1), self.mask_placeholder, x)
        # Under autocast, registers are float32, so the concatenation keeps the residual stream in float32.
        registers = self.register_tokens.expand(groups, views, -1, -1)
        first = registers.shape[2]
        x = torch.cat([registers, x], dim=2)
        if hasattr(self, "view_embedding"):
            x = x + self.view_embedding[:, :views]
        grid = (height // self.patch, width // self.patch)
        cosines, sines = rotations(grid, first, self.head_size, x.device, self.rope_base)
        tokens = []
        for block in self.blocks:
            x = block(x, cosines, sines)
            tokens.append(x[:, :, first:])
        return tokens


def check_images(images: Tensor, patch: int) -> None:
    """Raises ValueError for images whose axes, sides or values a network cannot take."""
    shape = tuple(images.shape)
    if len(shape) != 5 or shape[2] != 3:
        message = f"images must have shape (B, V, 3, H, W), got {shape}"
        if len(shape) == 5 and shape[-1] == 3:
            message += ": convert images whose channels are last with images.movedim(-1, 2)"
        raise ValueError(message)
    height, width = images.shape[-2:]
    if height % patch or width % patch:
        smaller = [max(patch, side // patch * patch) for side in (height, width)]
        larger = [-(-side // patch) * patch for side in (height, width)]
        raise ValueError(
            f"image size {height}x{width} is not divisible by the patch size {patch}: crop or resize to "
            f"{smaller[0]}x{smaller[1]} or {larger[0]}x{larger[1]}"
        )
    if torch.compiler.is_compiling():  # values are unknown, and the size was checked
        return
    largest = images.detach().abs().max().item()
    if largest > LARGEST_VALUE:
        raise ValueError(
            f"images must be in [-1, 1], but have values up to {largest:g}: convert 0..255 pixels with "
            "x / 127.5 - 1, or call load_images"
        )


def load_images(
    paths: Sequence[str | os.PathLike], size: int = 224, patch: int = 16
) -> tuple[Tensor, list[tuple[float, float, float, float]]]:
    """Loads photographs as views of one group: upright, of one size, in [-1, 1]. Needs Pillow.

    It does what `muskie_jax.load_images` does. Each view is the largest centred crop of its photograph with
    the photographs' median aspect ratio.

    Args:
      paths: the files.
      size: the views' shorter side in pixels; both sides become multiples of `patch`.
      patch: the network's patch size.

    Returns:
      The views (1, V, 3, H, W), and the left, top, right and bottom of each view in its upright photograph,
      in pixels.
    """
    from PIL import Image, ImageOps

    def read(path: str | os.PathLike) -> Image.Image:
        upright = ImageOps.exif_transpose(Image.open(path))
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, (0, 0, 0, 255)), upright)
        return upright.convert("RGB")

    photographs = [read(path) for path in paths]
    aspect = math.exp(statistics.median(math.log(each.width / each.height) for each in photographs))
    sides = size * max(1, 1 / aspect), size * max(1, aspect)
    height, width = (max(patch, round(side / patch) * patch) for side in sides)
    views, crops = [], []
    for each in photographs:
        scale = min(each.height / height, each.width / width)
        left, top = (each.width - scale * width) / 2, (each.height - scale * height) / 2
        crops.append((left, top, left + scale * width, top + scale * height))
        view = each.resize((width, height), Image.Resampling.BICUBIC, box=crops[-1])
        pixels = torch.frombuffer(bytearray(view.tobytes()), dtype=torch.uint8)
        views.append(pixels.reshape(height, width, 3).permute(2, 0, 1))
    return torch.stack(views)[None] / 127.5 - 1, crops


def rotations(
    grid: tuple[int, int], registers: int, head_size: int, device: torch.device, base: float = BASE
) -> tuple[Tensor, Tensor]:
    """Returns the cosines and sines (T, D) of the rotary embedding's angles for one view's tokens.

    The first half of D rotates by the patch's row + 1, and the second half rotates by its column + 1.
    Registers have position (0, 0), so they are not rotated.
    """
    rows, columns = torch.meshgrid(*(torch.arange(1, n + 1, device=device) for n in grid), indexing="ij")
    positions = torch.stack([rows, columns], dim=-1).reshape(-1, 2)
    positions = F.pad(positions, (0, 0, registers, 0)).double()  # (T, 2)
    half = head_size // 2
    frequencies = base ** (-torch.arange(0, half, 2, device=device, dtype=torch.float64) / half)
    angles = (positions[:, :, None] * frequencies).repeat(1, 1, 2).flatten(1)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotates x (..., T, D): in each half of D, channel i pairs with channel i + D/4."""
    x32 = x.float()
    first, second = x32.unflatten(-1, (2, 2, -1)).unbind(-2)  # each (..., T, 2, D/4)
    quarter_turn = torch.stack([-second, first], dim=-2).flatten(-3)
    return (x32 * cosines + quarter_turn * sines).to(x.dtype)


# --- Reading files ------------------------------------------------------------------------------------

# Tensors that every file of Muskie weights contains.
REQUIRED = ("register_tokens", "mask_placeholder", "patch_embed.proj.weight")
STATE_KEYS = ("model", "state_dict", "model_state_dict", "teacher")  # keys of state dicts in checkpoints
# Averaged weights, which self-supervised methods evaluate. A file also has the weights that are averaged.
AVERAGED = re.compile(r"(^|[._])(teacher|ema)[._]")
UNREADABLE = "it cannot be read: it is damaged, or not a weights file"
PASS_A_FILE = "pass a .safetensors, .pth, .pt or .ckpt file"
MAX_HEADER = 10**8  # bytes; safetensors refuses longer headers
MAX_NAMES, MAX_NAME = 3, 100  # tensors in a message, characters per name
# Classes of settings in checkpoints, which are never constructed; `ignored_classes` stands in for them.
SETTINGS_CLASSES = {
    "omegaconf.dictconfig": "DictConfig",
    "omegaconf.listconfig": "ListConfig",
    "omegaconf.tupleconfig": "TupleConfig",
    "omegaconf.base": "Metadata ContainerMetadata UnionNode",
    "omegaconf.nodes": "AnyNode NoneNode StringNode PathNode IntegerNode BytesNode FloatNode BooleanNode",
    "typing": "Any Dict List Tuple",
    "collections": "defaultdict",
    "builtins": "dict list tuple int float str bool bytes",
    "pathlib": "PosixPath WindowsPath PurePosixPath PureWindowsPath",
    "pathlib._local": "PosixPath WindowsPath PurePosixPath PureWindowsPath",
}


def load(path: str | os.PathLike, num_heads: int | None = None) -> TorchMuskie:
    """Loads the network from a .safetensors, .pth, .pt or .ckpt file, in float32.

    Args:
      path: path of the file. Names may have a prefix, such as `encoder.` or `teacher.backbone.`.
      num_heads: overrides the file's metadata; needed for a file without metadata whose size matches no
        variant.

    Raises:
      FileNotFoundError: if the file does not exist.
      ValueError: if it is a folder, it does not contain Muskie weights, a weight is not finite, or the
        number of heads is unknown.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} does not exist: {PASS_A_FILE}")
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder: {PASS_A_FILE}, such as model.safetensors in it")
    try:
        weights, metadata = read(path)
        heads = metadata.get("num_heads") if num_heads is None else num_heads
        return _build(weights, heads, float(metadata.get("rope_base", BASE)), path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def from_state_dict(
    weights: Mapping[str, Tensor], num_heads: int | None = None, rope_base: float = BASE
) -> TorchMuskie:
    """Builds the network from tensors with published names; `load` describes prefixes and errors."""
    return _build(weights, num_heads, rope_base, "state dict")


def _build(
    weights: Mapping[str, Tensor], num_heads: int | None, rope_base: float, source: str | os.PathLike
) -> TorchMuskie:
    weights, prefix, left_out = network_tensors(weights, REQUIRED)
    for name in (*REQUIRED, *({"view_embedding"} & weights.keys())):
        if name not in weights:
            raise ValueError(f"these are not Muskie weights: {name} is missing")
        if weights[name].ndim != 4:
            raise ValueError(f"these are not Muskie weights: {name} has shape {tuple(weights[name].shape)}")
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    heads = HEADS.get((width, depth)) if num_heads is None else num_heads
    if heads is None:
        raise ValueError(f"no variant has width {width} and {depth} blocks: set num_heads=")
    if heads < 1 or width % heads or width // heads % 4:
        raise ValueError(
            f"num_heads={heads} does not fit width {width}: each head needs a multiple of 4 channels"
        )
    model = TorchMuskie(
        width,
        depth,
        heads,
        patch=patch,
        registers=weights["register_tokens"].shape[2],
        max_views=weights["view_embedding"].shape[1] if "view_embedding" in weights else 0,
        head=any(name.startswith("decoder_") for name in weights),
        rope_base=rope_base,
    )
    check_tensors(model.state_dict(), weights)
    model.load_state_dict(weights, strict=True)
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise ValueError("the weights contain infinite or undefined numbers, so they cannot be used")
    rounded = sum(tensor.dtype == torch.float64 for tensor in weights.values())
    if note := reading_note(prefix, left_out, rounded):
        print(f"{source}: {note}", file=sys.stderr)
    return model.eval()


def network_tensors(
    tensors: Mapping[str, Tensor], anchors: Collection[str]
) -> tuple[dict[str, Tensor], str, list[str]]:
    """Returns the tensors under the prefix that has the most `anchors`, without the prefix.

    Args:
      tensors: all tensors of a file, by name.
      anchors: names of tensors that identify the network. If the file has none, all tensors are returned.

    Returns:
      The tensors, the prefix, and the names of all other tensors.

    Raises:
      ValueError: if several prefixes have equally many, and none or several of them are of a teacher.
    """
    starts = [name.removesuffix(each) for name in tensors for each in anchors if name.endswith(each)]
    counts = collections.Counter(start for start in starts if not start or start.endswith("."))
    prefixes = [prefix for prefix, count in counts.items() if count == max(counts.values())]
    if not prefixes or "" in prefixes:
        return dict(tensors), "", []
    if len(prefixes) > 1:
        prefixes = [prefix for prefix in prefixes if AVERAGED.search(prefix)] or prefixes
    if len(prefixes) > 1:
        raise ValueError(
            f"it contains several networks, under {', '.join(map(repr, prefixes))}: save one of their "
            "state dicts alone"
        )
    (prefix,) = prefixes
    kept = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
    return kept, prefix, [name for name in tensors if not name.startswith(prefix)]


def reading_note(prefix: str, left_out: list[str], rounded: int) -> str:
    """Returns what reading changed, as one line; empty if nothing. `rounded` counts float64 tensors."""
    parts = []
    if prefix:
        parts.append(f"read the tensors under {prefix!r}")
    if left_out:
        parts.append(f"left out {len(left_out)} more ({_abridged(left_out)})")
    if rounded:
        parts.append(f"rounded {rounded} float64 tensors to float32")
    return "; ".join(parts)


def check_tensors(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError if tensors are missing, unknown, or of the wrong shape; it lists them."""
    shape = lambda tensor: "x".join(map(str, tensor.shape)) or "a scalar"
    problems = {
        "missing": [name for name in expected if name not in tensors],
        "unknown": [name for name in tensors if name not in expected],
        "wrong shape": [
            f"{name} ({shape(tensors[name])}, not {shape(x)})"
            for name, x in expected.items()
            if name in tensors and tensors[name].shape != x.shape
        ],
    }
    found = [f"{kind}: {_abridged(names)}" for kind, names in problems.items() if names]
    if found:
        raise ValueError(f"the weights do not fit this network; {'; '.join(found)}")


def _abridged(names: list[str]) -> str:
    more = ", ..." if len(names) > MAX_NAMES else ""
    return ", ".join(name[:MAX_NAME] for name in names[:MAX_NAMES]) + more


def read(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict]:
    """Reads the tensors of a file by name, and its metadata; executes nothing in the file.

    `from_state_dict` checks names and shapes. Only `muskie_jax.load_pretrained` checks the numbers against
    the file's digest.

    Raises:
      ValueError: if the file contains anything but tensors and plain values, or its metadata is damaged.
    """
    is_safetensors = str(path).endswith(".safetensors")
    with open(path, "rb") as file:
        if mistake := format_mistake(file.read(1024), is_safetensors):
            raise ValueError(mistake)
    if is_safetensors:
        import safetensors

        try:
            with safetensors.safe_open(path, "pt") as file:
                entries = dict(file.metadata() or {})
                if entries.pop("muskie_digest", None) not in (None, header_digest(entries)):
                    raise ValueError(
                        "it is damaged: its metadata does not match its digest; download it again"
                    )
                metadata = json.loads(entries.get("muskie", "{}"))
                return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
        except safetensors.SafetensorError as error:
            raise ValueError(f"{UNREADABLE}: {str(error)[:200]}") from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *ignored_classes()]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # the unpickler may raise anything on arbitrary bytes
        raise ValueError(why_not_loaded(str(error))) from error
    state, metadata = find_state(content)
    return state, metadata


def header_digest(entries: Mapping[str, str]) -> str:
    """Returns the digest of the entries of a safetensors header; muskie_jax writes it beside them."""
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()[:16]


def format_mistake(start: bytes, is_safetensors: bool) -> str:
    """Returns what a file is and what to do, if it is of another format than its name says; else "".

    Args:
      start: the file's first bytes.
      is_safetensors: whether its name is of a safetensors file, not of a PyTorch file.
    """
    # A safetensors file begins with the length of its header, 8 bytes, and the header, which is JSON.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MAX_HEADER:
        return "" if is_safetensors else "it is a safetensors file: rename it to .safetensors"
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):  # may begin with a byte order mark
        return "it is a web page, not a weights file: download the file itself"
    if is_safetensors and start.startswith((b"PK\x03\x04", b"\x80")):  # a zip archive, or a pickle
        return "it is a PyTorch file: rename it to .pth"
    return ""


def ignored_classes() -> list[type]:
    """Returns empty classes that replace SETTINGS_CLASSES while a file is read; they store nothing."""

    def ignore(cls: type, *arguments: Any) -> Any:
        return object.__new__(cls)

    members = {"__new__": ignore, "__setstate__": lambda self, state: None}
    return [
        type(name, (), members | {"__module__": module})
        for module, names in SETTINGS_CLASSES.items()
        for name in names.split()
    ]


def find_state(content: Any) -> tuple[dict[str, Tensor], Any]:
    """Returns the state dict in the content of a PyTorch file, and the metadata that we write.

    Raises:
      ValueError: if there is none.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"it contains a {type(content).__name__}, not a dictionary")
    inner = (content[key] for key in STATE_KEYS if isinstance(content.get(key), Mapping))
    state = dict(next(inner, content))
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        reason = f"{str(others[0])[:80]!r} is not a tensor" if others else "it contains no tensor"
        keys = ", ".join(map(repr, STATE_KEYS))
        raise ValueError(f"no state dict at the top level or under one of {keys}: {reason}")
    return {str(name): tensor for name, tensor in state.items()}, content.get("muskie", {})


def why_not_loaded(message: str) -> str:
    """Reduces PyTorch's error to its reason; the rest is advice, such as loading the file unsafely."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    reasons = [line for line in lines if "GLOBAL" in line or "Unsupported class" in line]
    if reasons:
        reason = reasons[0].partition(" was not an allowed global")[0].partition(". Please")[0]
        return (
            f"it contains Python objects other than weights, and none was run: {reason[:120]} (if you "
            "trust the file, save its state dict alone with PyTorch)"
        )
    return UNREADABLE
