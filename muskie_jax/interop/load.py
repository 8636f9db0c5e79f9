"""Loads weights from work directories, checkpoints, files, folders and the Hugging Face hub."""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from muskie_jax.checkpoints.contents import read_config, read_params
from muskie_jax.checkpoints.object_storage import is_complete
from muskie_jax.checkpoints.saved_steps import CHECKPOINTS, UnreadableRecord
from muskie_jax.checks import one_of
from muskie_jax.errors import UserError
from muskie_jax.interop.bundled import CHOICES
from muskie_jax.interop.hub import WEIGHTS, download
from muskie_jax.interop.metadata import latest_evaluation, shareable_config, to_json
from muskie_jax.interop.names import Network, check_heads, check_params
from muskie_jax.interop.reconstruction_names import ReconstructionNetwork
from muskie_jax.interop.sources import SourceKind, identify_source
from muskie_jax.interop.weights import Weights, read_provenance, read_weights
from muskie_jax.models.attention import Attention, check_kernel
from muskie_jax.models.muskie import DTYPES, REMAT, Muskie, build_model
from muskie_jax.models.reconstruction import Reconstruction
from muskie_jax.reconstruction.settings import RECONSTRUCT
from muskie_jax.storage.address import absolute
from muskie_jax.storage.outputs import local_copy
from muskie_jax.writers import log

ORIGIN = "imported.json"  # metadata of the weights that an imported work directory started from
OPTIONS = ("residual_dtype", "remat", "scan_blocks")  # fields that do not affect parameters
TRIES = 10  # attempts to read the newest checkpoint while a running training deletes old ones


def load_pretrained(
    source: str | os.PathLike,
    *,
    num_heads: int | None = None,
    revision: str | None = None,
    filename: str | None = None,
    dtype: str = "float32",
    attention: str = "auto",
    **options: Any,
) -> tuple[Muskie | Reconstruction, dict[str, Any]]:
    """Loads a Muskie, or one with a decoder of point maps and cameras, and its parameters.

        model, params = load_pretrained("small")
        output = model.apply({"params": params}, images, mask)  # images (B, V, H, W, 3) in [-1, 1]
        tokens = model.apply({"params": params}, images, method="features")  # after every block

    If a file has a decoder of point maps and cameras, the model is a `Reconstruction`, which takes `images`
    alone and returns a `ReconstructionOutput`, see `muskie_jax.models.reconstruction`. `load_backbone`
    loads only its Muskie.

    Args:
      source: "small" or "tiny", weights in this repository ("./small" is a path); a work directory (its
        newest intact checkpoint), one of its checkpoints (`runs/x/5000`, `runs/x/checkpoints/5000`, or
        `runs/x/best`, the one with the lowest error), a `.safetensors`, `.pth` or `.ckpt` file (exported,
        published or of a larger model), a folder made by `save_pretrained`, or a repository of the hub
        (`user/name`). Paths may be URLs of object storage, such as gs://bucket/runs/x.
      num_heads: overrides the number of heads; needed for a file without metadata whose size matches no
        variant.
      revision, filename: branch, tag or commit of a repository, and the file in it.
      dtype: type of matrix products: "float32", or "bfloat16", which is faster on GPUs and TPUs.
      attention: see `muskie_jax.models.attention.Attention`.
      options: `residual_dtype`, `remat` and `scan_blocks`, see `build_model` and `Muskie`.

    Returns:
      The model and its parameters, float32, on the default device. If the source lacks the reconstruction
      head, only `method="features"` works.

    Raises:
      UserError: if the source has no weights, or they are damaged or belong to another network; one line.
    """
    weights = open_weights(source, num_heads, revision, filename, with_decoder=True)
    model = model_of(weights.network.backbone, dtype, attention, **options)
    if isinstance(weights.network, ReconstructionNetwork):
        model = Reconstruction(model, weights.network.decoder_depth)
    return model, jax.device_put(weights.params)


def load_backbone(source: str | os.PathLike) -> tuple[Muskie, dict[str, Any]]:
    """Loads a Muskie and its parameters, in float32, also from a file that has a decoder too.

    `load_pretrained` describes sources and errors.
    """
    weights = open_weights(source)
    return model_of(weights.network), jax.device_put(weights.params)


def model_of(network: Network, dtype: Any = "float32", attention: str = "auto", **options: Any) -> Muskie:
    """Builds the Flax module of a Muskie; see `load_pretrained` for arguments and errors."""
    dtype, kernel = parse_compute_options(dtype, attention)
    for name in options:
        one_of(name, OPTIONS, "load_pretrained")
    one_of(options.get("remat", "none"), REMAT, "remat")
    if "residual_dtype" in options:
        options["residual_dtype"] = _parse_dtype(options["residual_dtype"], "residual_dtype")
    return Muskie(**dataclasses.asdict(network), dtype=dtype, attention=kernel, **options)


def parse_compute_options(dtype: Any, attention: str) -> tuple[Any, Attention]:
    """Returns the type of matrix products and the attention kernel.

    See `load_pretrained` for arguments and errors.
    """
    dtype = _parse_dtype(dtype, "dtype")
    try:
        check_kernel(attention, dtype.name)
        return dtype, Attention(attention)
    except ValueError as error:
        raise UserError(str(error)) from error


def _parse_dtype(dtype: Any, name: str) -> Any:
    with contextlib.suppress(TypeError):  # not a dtype: one_of below reports it
        dtype = jax.numpy.dtype(dtype)
    one_of(getattr(dtype, "name", dtype), DTYPES, name)
    return dtype


def open_weights(
    source: str | os.PathLike,
    num_heads: int | None = None,
    revision: str | None = None,
    filename: str | None = None,
    *,
    with_decoder: bool = False,
) -> Weights:
    """Reads weights and their provenance into host memory.

    Args:
      source, num_heads, revision, filename: see `load_pretrained`, also for errors.
      with_decoder: whether to read the decoder of point maps and cameras too, if the source has one.
    """
    found = identify_source(source)
    if found.is_local and (revision or filename):
        raise UserError(
            f"{found.path} is a local path: revision= and filename= are for hub repositories only"
        )
    match found.kind:
        case SourceKind.WORKDIR:
            return _read_newest_intact(found.path / CHECKPOINTS, num_heads, with_decoder)
        case SourceKind.CHECKPOINT:
            return _read_checkpoint(found.path, num_heads, with_decoder)
        case SourceKind.FILE | SourceKind.EXPORT:
            with local_copy(found.path) as path:
                return read_weights(path, num_heads, with_decoder)
        case SourceKind.REPOSITORY:
            log(f"Looking for {source} on the Hugging Face hub")
            return read_weights(download(str(source), revision, filename), num_heads, with_decoder)
        case SourceKind.NO_WEIGHTS:
            raise UserError(
                f"{found.path} is neither a work directory nor a checkpoint, and has no {WEIGHTS}"
            )
    raise UserError(
        f"{str(found.path)!r} does not exist: choose {CHOICES}, a work directory, a checkpoint, "
        "a weights file, or user/name on the hub"
    )


def _read_newest_intact(checkpoints: pathlib.Path, num_heads: int | None, with_decoder: bool) -> Weights:
    """Reads the newest intact checkpoint, while a training run may be writing and deleting checkpoints."""
    damaged: dict[pathlib.Path, UserError] = {}
    vanished = 0
    while vanished < TRIES:
        steps = [path for path in checkpoints.iterdir() if path.name.isdigit() and path not in damaged]
        steps = [path for path in steps if is_complete(path)]
        if not steps:
            break
        newest = max(steps, key=lambda path: int(path.name))
        try:
            return _read_checkpoint(newest, num_heads, with_decoder)
        except UnreadableRecord:  # of the run, so that earlier checkpoints would fail too
            raise
        except UserError as error:
            if not newest.is_dir():
                vanished += 1  # the running training deleted it, and has written a newer one
                continue
            log(f"{error}; trying the previous one")
            damaged[newest] = error
    if not damaged and not vanished:
        raise UserError(f"{checkpoints} has no checkpoint yet")
    reason = next(iter(damaged.values()), "a running training deletes them faster than they can be read")
    raise UserError(f"{checkpoints} has no intact checkpoint: {reason}")


def _read_checkpoint(folder: pathlib.Path, num_heads: int | None, with_decoder: bool) -> Weights:
    """Reads the parameters of a checkpoint, and their provenance from its work directory."""
    params, step, config = read_params(folder)
    network = network_from_config(config["model"])
    if config.get("task") == RECONSTRUCT:
        if with_decoder:
            depth = config["reconstruct"]["decoder_depth"]
            network = ReconstructionNetwork(**dataclasses.asdict(network), decoder_depth=depth)
        else:
            params = params["backbone"]
    if num_heads is not None:
        check_heads(network.width, num_heads)
        network = dataclasses.replace(network, heads=num_heads)
    check_params(params, network)
    workdir = absolute(folder).parent.parent
    provenance: dict[str, Any] = {"origin": _origin(workdir)}
    if step > 0:  # step 0 was imported: its config is for a later training run
        provenance |= {
            "step": step,
            "training": shareable_config(config),
            "metrics": latest_evaluation(workdir, step),
        }
    return Weights(
        network, params, {name: value for name, value in provenance.items() if value not in (None, {})}
    )


def training_configs(source: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the configs that weights were trained with, the latest first; [] if none is known.

    Weights that were imported and trained further have two. The config of a checkpoint is complete. Other
    files have the parts of `shareable_config`, with paths cut to their last component.

    Args:
      source: see `load_pretrained`.

    Raises:
      UserError: if the source cannot be read.
    """
    found, configs = identify_source(source), []
    match found.kind:
        case SourceKind.CHECKPOINT:
            step, config = read_config(found.path)
            configs += [config] if step > 0 else []
            provenance = {"origin": _origin(absolute(found.path).parent.parent)}
        case SourceKind.FILE | SourceKind.EXPORT:
            with local_copy(found.path) as path:
                provenance = read_provenance(path)
        case SourceKind.REPOSITORY:
            provenance = read_provenance(download(str(source), None, None))
        case _:
            return []
    origin = provenance.get("origin") or {}
    return [each for each in (*configs, provenance.get("training"), origin.get("training")) if each]


def _origin(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Returns the metadata of a work directory's imported weights; None if it was not imported."""
    try:
        return to_json(json.loads((workdir / ORIGIN).read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{workdir / ORIGIN} cannot be read: {error}") from error


def network_from_config(model: Mapping[str, Any]) -> Network:
    """Returns the network of a config's section `model`.

    Raises:
      UserError: if the variant does not exist.
    """
    sizes = ("patch", "registers", "view_embed", "max_views")
    later = {"rope_base"} & model.keys()  # settings that earlier versions did not have
    try:
        return Network.of(build_model(model["variant"], **{name: model[name] for name in (*sizes, *later)}))
    except ValueError as error:
        raise UserError(f"config.model.{error}") from error
