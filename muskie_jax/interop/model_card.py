"""The model card of exported weights: what they are, how they were trained, and their results."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from muskie_jax.models.rope import BASE
from muskie_jax.reconstruction.settings import RECONSTRUCT
from muskie_jax.reconstruction.task import TERMS

MAX_CELL = 300  # characters per value in a table

CARD = """---
{header}---

# {title}

[Muskie](https://arxiv.org/abs/2511.18115) is a vision backbone that processes several photographs of a
scene together. It is pre-trained to reconstruct masked patches by finding the same surface in another view.
These weights were exported by muskie_jax {version}.

| | |
|---|---|
{network}

## Usage

In JAX, with muskie_jax:

```python
from muskie_jax import load_pretrained

model, params = load_pretrained("user/name")  # this repository, or a local copy of its folder
{usage}
```

In PyTorch, with only the file `torch_model.py` of muskie_jax:

```python
from torch_model import load

tokens = load("model.safetensors").features(images)  # images (B, V, 3, H, W) in [-1, 1]
```

## Training

{training}

## Results

{results}

## Licence

The muskie_jax code is under the Apache License 2.0. {licence}

## Citation

```bibtex
@misc{{li2025muskie,
  title={{Muskie: Multi-view Masked Image Modeling for 3D Vision Pre-training}},
  author={{Wenyu Li and Sidun Liu and Peng Qiao and Yong Dou and Tongrui Hu}},
  year={{2025}}, eprint={{2511.18115}}, archivePrefix={{arXiv}}, primaryClass={{cs.CV}}
}}
```
"""

FEATURES = (
    'tokens = model.apply({"params": params}, images, method="features")  '
    "# images (B, V, H, W, 3) in [-1, 1]"
)
RECONSTRUCTION = """output = model.apply({"params": params}, images)  # images (B, V, H, W, 3) in [-1, 1]
output.points  # (B, V, H, W, 3), in a frame common to the views, up to one scale per group
output.camera_to_world  # (B, V, 4, 4)"""

NO_LICENCE = (
    "The licence of these weights is **not stated yet**: write it here, and as `license:` in the header. "
    "The training photographs may restrict it. The authors of Muskie state no licence for the weights that "
    "they publish."
)


def model_card(metadata: Mapping[str, Any], licence: str | None) -> str:
    """Returns the README.md of an exported folder.

    Args:
      metadata: metadata of the weights, see `Weights.metadata`.
      licence: licence of the weights, as the hub names it ("cc-by-nc-4.0"); None asks the owner to add it.
    """
    name = (metadata["variant"] or f"width {metadata['width']}").capitalize()
    network = {
        "blocks of two transformer layers": metadata["depth"],
        "width": metadata["width"],
        "attention heads": metadata["num_heads"],
        "patch size": metadata["patch"],
        "register tokens per view": metadata["registers"],
        "reconstruction head": "no, features only" if metadata["backbone_only"] else "yes",
        "parameter digest": metadata["params_digest"],
    }
    decodes = "decoder_depth" in metadata
    if decodes:
        del network["reconstruction head"]  # of the backbone, for pre-training alone
        network["decoder blocks, for point maps and cameras"] = metadata["decoder_depth"]
    if metadata["rope_base"] != BASE:
        network["base of the rotary embedding"] = metadata["rope_base"]
    if metadata["view_embed"] != "none":
        network["view embedding"] = metadata["view_embed"]
    header = ["library_name: muskie_jax", "pipeline_tag: image-feature-extraction"]
    header += ["tags:", "- muskie", "- multi-view", "- 3d-vision", "- jax", "- pytorch"]
    if licence:
        header.insert(0, f"license: {json.dumps(licence)}")
    return CARD.format(
        header="".join(f"{line}\n" for line in header),
        title=f"Muskie ({name})" + (" with a decoder of point maps and cameras" if decodes else ""),
        version=metadata["muskie_jax"],
        network=_rows(network),
        usage=RECONSTRUCTION if decodes else FEATURES,
        training=_training(metadata),
        results=_results(metadata),
        licence=f"The weights are under: {_cell(licence)}." if licence else NO_LICENCE,
    )


def _cell(value: Any) -> str:
    """Formats a value as one table cell; escapes what would end the cell or become markup."""
    text = " ".join((value if isinstance(value, str) else json.dumps(value)).split())
    text = text if len(text) <= MAX_CELL else f"{text[:MAX_CELL]} ..."
    return re.sub(r"([|<>`*_~#&\\\[\]:@])", r"\\\1", text).replace("www.", "www\\.")


def _rows(values: Mapping[str, Any]) -> str:
    return "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in values.items())


def _training(metadata: Mapping[str, Any]) -> str:
    """Summarises the training settings that readers ask for most; config.json has all of them."""
    training, origin = metadata.get("training"), metadata.get("origin")
    start = ""
    if origin:
        names = ("variant", "step", "params_digest")
        start = _cell(", ".join(f"{name} {origin[name]}" for name in names if name in origin))
    if not training:
        if origin:
            return f"Imported from other weights ({start}); no further training is recorded."
        return "Unknown: the source file of these weights does not describe it."
    section = lambda name: training[name] if isinstance(training.get(name), dict) else {}
    is_decoder = training.get("task") == RECONSTRUCT
    rows: dict[str, Any] = {
        "updates": metadata.get("step"),
        "planned duration": training.get("duration"),
        "groups per batch": section("batch").get("groups"),
        "views per group": _listed(section("buckets").get("views")),
        "image sizes, height x width": _sizes(section("buckets").get("resolutions")),
        "masks and their ratios": None if is_decoder else _listed(section("mask").get("modes")),
        "backbone": _backbone(section("reconstruct")) if is_decoder else None,
        "peak learning rate": section("optim").get("learning_rate"),
        "weight decay": section("optim").get("weight_decay"),
    }
    for name, source in section("sources").items():
        settings = source if isinstance(source, dict) else {"": source}
        shown = [f"{k} {v}" for k, v in settings.items() if v not in (None, "") and not isinstance(v, dict)]
        rows[f"data: {name}"] = ", ".join(shown)
    table = _rows({name: value for name, value in rows.items() if value is not None})
    text = f"| | |\n|---|---|\n{table}\n\n`config.json` has all settings."
    if origin:
        text = (
            f"Initialised from other weights ({start}). The settings below describe the training that "
            f"followed.\n\n{text}"
        )
    return text


def _backbone(settings: Mapping[str, Any]) -> str:
    """Says which weights the backbone started from, and whether it was trained."""
    frozen = ", frozen" if settings.get("freeze_backbone") else ""
    return f"started from {settings.get('backbone') or 'random weights'}{frozen}"


def _listed(values: Any) -> str | None:
    """Formats a list such as "1, 2, 4" or "random 0.9, rectangle 0.75"; None if it is not a list."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        return None
    item = lambda value: " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return ", ".join(map(item, values))


def _sizes(resolutions: Any) -> str | None:
    """Formats the distinct image sizes, such as "224x224, 384x384"; None if they are malformed."""
    try:
        sizes = [f"{height}x{width}" for choices in resolutions for height, width in choices]
    except (TypeError, ValueError):
        return None
    return ", ".join(dict.fromkeys(sizes))


def _results(metadata: Mapping[str, Any]) -> str:
    metrics = metadata.get("metrics") or {}
    when = f", after {metrics['step']} updates" if "step" in metrics else ""
    if "points" in metrics:
        shown = {f"loss of {name}": f"{metrics[name]:.4f}" for name in TERMS if name in metrics}
        return f"Point maps and cameras of held-out scenes{when}:\n\n| | |\n|---|---|\n{_rows(shown)}"
    if "mse" not in metrics:
        return "Not measured."
    rows = {"squared error on masked patches": f"{metrics['mse']:.4f}"}
    if "baseline_mse" in metrics:
        rows["baseline: masked patches filled with the mean of the visible ones"] = (
            f"{metrics['baseline_mse']:.4f}"
        )
    network = ", by the full network that this backbone comes from" if metadata["backbone_only"] else ""
    return f"Reconstruction of held-out scenes{network}{when}:\n\n| | |\n|---|---|\n{_rows(rows)}"
