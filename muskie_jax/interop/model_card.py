"""The card that goes along with weights: what they are, how they were trained, how well."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

MAX_CELL = 300  # characters of a value in a table

CARD = """---
{header}---

# {title}

[Muskie](https://arxiv.org/abs/2511.18115) is a vision backbone that looks at several photographs of a
scene at once. It was trained to paint hidden parts back by finding the same surface in another view.
These weights were written by muskie_jax {version}.

| | |
|---|---|
{network}

## Use

In JAX, with muskie_jax:

```python
from muskie_jax import load_pretrained

model, params = load_pretrained("user/name")  # this repository's name, or its folder
tokens = model.apply({{"params": params}}, images, method="features")  # images (B, V, H, W, 3) in [-1, 1]
```

In PyTorch, with muskie_jax's `torch_model.py` alone:

```python
from torch_model import load

tokens = load("model.safetensors").features(images)  # images (B, V, 3, H, W) in [-1, 1]
```

## Training

{training}

## Results

{results}

## Licence

The code is under the Apache License 2.0. {licence}

```bibtex
@misc{{li2025muskie,
  title={{Muskie: Multi-view Masked Image Modeling for 3D Vision Pre-training}},
  author={{Wenyu Li and Sidun Liu and Peng Qiao and Yong Dou and Tongrui Hu}},
  year={{2025}}, eprint={{2511.18115}}, archivePrefix={{arXiv}}, primaryClass={{cs.CV}}
}}
```
"""


def model_card(described: Mapping[str, Any], licence: str | None) -> str:
    """The README.md of a folder of weights.

    Args:
      described: what the weights say of themselves, see `Weights.described`.
      licence: of the weights, as the hub names it ("cc-by-nc-4.0"); None leaves a place for it.
    """
    name = (described["variant"] or f"width {described['width']}").capitalize()
    network = {
        "blocks, of two transformer layers each": described["depth"],
        "width": described["width"],
        "heads": described["num_heads"],
        "patch size": described["patch"],
        "register tokens per view": described["registers"],
        "reconstruction head": "no, features only" if described["backbone_only"] else "yes",
        "digest of the parameters": described["params_digest"],
    }
    if described["view_embed"] != "none":
        network["view embedding"] = described["view_embed"]
    header = ["library_name: muskie_jax", "pipeline_tag: image-feature-extraction"]
    header += ["tags:", "- muskie", "- multi-view", "- 3d-vision", "- jax", "- pytorch"]
    if licence:
        header.insert(0, f"license: {json.dumps(licence)}")
        said = f"The weights are under: {_cell(licence)}."
    else:
        said = (
            "That of the weights: **not stated yet**. Write it here, and as `license:` above; the "
            "photographs that they were trained on may limit it."
        )
    return CARD.format(
        header="".join(f"{line}\n" for line in header),
        title=f"Muskie ({name})",
        version=described["muskie_jax"],
        network=_rows(network),
        training=_training(described),
        results=_results(described),
        licence=said,
    )


def _cell(value: Any) -> str:
    """A value inside a table: one line, nothing that ends the cell, begins markup or becomes a link."""
    text = " ".join((value if isinstance(value, str) else json.dumps(value)).split())
    text = text if len(text) <= MAX_CELL else f"{text[:MAX_CELL]} ..."
    return re.sub(r"([|<>`*_~#&\\\[\]:@])", r"\\\1", text).replace("www.", "www\\.")


def _rows(values: Mapping[str, Any]) -> str:
    return "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in values.items())


def _training(described: Mapping[str, Any]) -> str:
    """In words what most readers ask for; all of it is in config.json."""
    training, origin = described.get("training"), described.get("origin")
    said = []
    if origin:
        told = [f"{name} {origin[name]}" for name in ("variant", "step", "params_digest") if name in origin]
        said.append(f"Trained on from other weights ({_cell(', '.join(told))}). What follows came after.")
    if not training:
        said.append("Not known: the file that these weights came from does not say.")
        return "\n\n".join(said)
    of = lambda section: training[section] if isinstance(training.get(section), dict) else {}
    rows: dict[str, Any] = {
        "updates": described.get("step"),
        "of a planned": training.get("duration"),
        "groups per batch": of("batch").get("groups"),
        "views per group": _listed(of("buckets").get("views")),
        "image sizes, height x width": _sizes(of("buckets").get("resolutions")),
        "masks and their ratios": _listed(of("mask").get("modes")),
        "peak learning rate": of("optim").get("learning_rate"),
        "weight decay": of("optim").get("weight_decay"),
    }
    for name, source in of("sources").items():
        told = source if isinstance(source, dict) else {"": source}
        words = [f"{k} {v}" for k, v in told.items() if v not in (None, "") and not isinstance(v, dict)]
        rows[f"data: {name}"] = ", ".join(words)
    table = _rows({name: value for name, value in rows.items() if value is not None})
    said.append(f"| | |\n|---|---|\n{table}\n\nAll of it is in `config.json`.")
    return "\n\n".join(said)


def _listed(values: Any) -> str | None:
    """1, 2, 4; or random 0.9, rectangle 0.75."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        return None
    one = lambda value: " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return ", ".join(map(one, values))


def _sizes(resolutions: Any) -> str | None:
    """224x224, 384x384; each once."""
    try:
        sizes = [f"{height}x{width}" for choices in resolutions for height, width in choices]
    except (TypeError, ValueError):
        return None
    return ", ".join(dict.fromkeys(sizes))


def _results(described: Mapping[str, Any]) -> str:
    metrics = described.get("metrics") or {}
    if "mse" not in metrics:
        return "Not measured."
    rows = {"squared error of hidden patches": f"{metrics['mse']:.4f}"}
    if "baseline_mse" in metrics:
        rows["filling them with the mean of what is visible"] = f"{metrics['baseline_mse']:.4f}"
    when = f", after {metrics['step']} updates" if "step" in metrics else ""
    whole = " by the whole network, of which this is the backbone" if described["backbone_only"] else ""
    return f"Reconstruction of held-out scenes{whole}{when}:\n\n| | |\n|---|---|\n{_rows(rows)}"
