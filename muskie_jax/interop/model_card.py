"""What goes along with weights: how they were trained, how well, and the card that says so."""

import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

# Sections of a config that decide what is learned; the others say how it ran, and where.
TOLD = (
    "model",
    "sources",
    "mask",
    "loss",
    "batch",
    "buckets",
    "duration",
    "epoch_groups",
    "optim",
    "evaluation",
    "seed",
)
PLACES = ("root", "photos", "groups")  # settings of sources that are paths of the training's computer

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


def shareable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a training's config, what decides the weights, without paths of the computer it ran on."""
    told = {name: config[name] for name in TOLD if name in config}
    told["sources"] = {name: _source(source) for name, source in told.get("sources", {}).items()}
    return json.loads(json.dumps(told))  # tuples as lists, as they come back from a file


def _source(source: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: pathlib.PurePath(value).name if name in PLACES and isinstance(value, str) else value
        for name, value in source.items()
    }


def metrics_of(workdir: pathlib.Path, step: int) -> dict[str, float]:
    """The newest evaluation at or before a step, by `metrics.jsonl`; empty if there is none."""
    found: dict[str, float] = {}
    path = workdir / "metrics.jsonl"
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                values = json.loads(line)
                measured = {k.split("/", 1)[1]: v for k, v in values.items() if k.startswith("evaluation/")}
                if measured and values["step"] <= step:
                    found = {"step": values["step"]} | measured
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # a line that a killed run did not finish
    return found


def model_card(described: Mapping[str, Any], licence: str | None) -> str:
    """The README.md of a folder of weights.

    Args:
      described: what the weights say of themselves, see `Weights.described`.
      licence: of the weights, as the hub names it ("cc-by-nc-4.0"); None leaves a place for it.
    """
    name = (described["variant"] or f"width {described['width']}").capitalize()
    rows = {
        "blocks, of two transformer layers each": described["depth"],
        "width": described["width"],
        "heads": described["num_heads"],
        "patch size": described["patch"],
        "register tokens per view": described["registers"],
        "reconstruction head": "no, features only" if described["backbone_only"] else "yes",
        "digest of the parameters": f"`{described['params_digest']}`",
    }
    if described["view_embed"] != "none":
        rows["view embedding"] = described["view_embed"]
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
        network=_rows(rows),
        training=_training(described),
        results=_results(described.get("metrics") or {}),
        licence=said,
    )


def _cell(value: Any) -> str:
    """A value inside a table: one line, and nothing that ends the cell or begins markup."""
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"([|<>`*\\\[\]])", r"\\\1", " ".join(text.split()))


def _rows(values: Mapping[str, Any]) -> str:
    shown = {k: v if str(v).startswith("`") else _cell(v) for k, v in values.items()}
    return "\n".join(f"| {name} | {value} |" for name, value in shown.items())


def _training(described: Mapping[str, Any]) -> str:
    training = described.get("training")
    if not training:
        return "Not known: the file that these weights came from does not say."
    rows: dict[str, Any] = {"duration": training.get("duration")}
    if "step" in described:
        rows["updates done"] = described["step"]
    for name, source in training.get("sources", {}).items():
        told = {k: v for k, v in source.items() if v not in (None, "") and not isinstance(v, Mapping)}
        rows[f"data: {name}"] = ", ".join(f"{k} {v}" for k, v in told.items())
    for section in ("batch", "buckets", "mask", "loss", "optim"):
        for name, value in training.get(section, {}).items():
            rows[f"{section}.{name}"] = value
    table = _rows({_cell(name): value for name, value in rows.items()})
    return f"| | |\n|---|---|\n{table}\n\nAll of it is in `config.json`."


def _results(metrics: Mapping[str, float]) -> str:
    numbers = {k: v for k, v in metrics.items() if isinstance(v, (int, float)) and math.isfinite(v)}
    if "mse" not in numbers:
        return "Not measured."
    filled = numbers.get("baseline_mse", math.nan)
    rows = {
        "squared error of hidden patches": f"{numbers['mse']:.4f}",
        "the same, filling them with the mean of what is visible": f"{filled:.4f}",
    }
    return (
        f"Reconstruction on held-out scenes, after {numbers.get('step', '?')} updates:\n\n"
        f"| | |\n|---|---|\n{_rows(rows)}"
    )
