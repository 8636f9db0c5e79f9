"""The main metric of a finished unit of work, as text for the log."""

from collections.abc import Sequence

from muskie_jax.evaluators.results import ResultRow


def headline(rows: Sequence[ResultRow]) -> str:
    """Returns a unit's main metric as text: the score of an unrefined predictor, or the masked error."""
    slices = ("angle", "points", "overlap")
    overall = [row for row in rows if all(row.labels.get(key, "all") == "all" for key in slices)]
    unrefined = [
        row for row in overall if "px_ate" in row.values and "+" not in str(row.labels["predictor"])
    ]
    if unrefined:
        return _correspondence_headline(unrefined)
    if overall and "epipolar_mean" in overall[0].values:
        return _epipolar_headline(overall)
    if overall and "auc_30" in overall[0].values:
        return _pose_headline(overall)
    if overall and "cm_2" in overall[0].values:
        best = max(overall, key=lambda row: row.values["cm_2"])
        return f"{best.values['cm_2']:.1f}% of matches within 2 cm (layer {best.labels['layer']})"
    if overall and "mse" not in overall[0].values:  # of another evaluator
        return ", ".join(f"{name} {value:.4g}" for name, value in overall[0].values.items())
    if overall:
        # Later rows, which have more reference views, replace earlier ones.
        errors = {row.labels["context"]: row.values["mse"] for row in overall}
        return "masked error " + ", ".join(f"{mse:.4f} ({context})" for context, mse in errors.items())
    return "nothing to measure"


def _correspondence_headline(rows: Sequence[ResultRow]) -> str:
    """Describes the best row: protocol "targets" first, then all layers, then the smallest mean error."""

    def preference(row: ResultRow) -> tuple[bool, bool, float]:
        return row.labels["protocol"] != "targets", row.labels["layer"] != "all", row.values["px_ate"]

    best = min(rows, key=preference)
    labels = best.labels
    layer = "" if labels["layer"] == "all" else f" of layer {labels['layer']}"
    return f"{labels['predictor']}{layer} {best.values['px_10']:.1f}% within 10 px ({labels['protocol']})"


def _epipolar_headline(rows: Sequence[ResultRow]) -> str:
    """Describes the best unrefined row: all layers first, then the smallest mean distance."""
    rows = [row for row in rows if "+" not in str(row.labels["predictor"])]
    best = min(rows, key=lambda row: (row.labels["layer"] != "all", row.values["epipolar_mean"]))
    return (
        f"{best.labels['predictor']} {best.values['epipolar_mean']:.1f} px from epipolar lines, random "
        f"positions {best.values['random_mean']:.1f} px"
    )


def _pose_headline(rows: Sequence[ResultRow]) -> str:
    """Describes cameras and points of a decoder, or the layer whose pose probe fits best."""
    best = min(rows, key=lambda row: row.values.get("fit_error", 0))
    text = f"pose AUC@30 {best.values['auc_30']:.1f}"
    if "layer" in best.labels:
        return f"{text} (layer {best.labels['layer']})"
    return f"{text}, points {best.values['l1_mean']:.3f} m off" if "l1_mean" in best.values else text
