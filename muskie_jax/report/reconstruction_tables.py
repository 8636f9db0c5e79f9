"""Tables of reconstruction as numbers: errors on masked patches, and the gain from other views."""

from collections.abc import Sequence
from typing import NamedTuple

from muskie_jax.report.intervals import Estimate, may_be_equal
from muskie_jax.report.results_file import ModelInfo
from muskie_jax.report.selection import (
    MaskedEvalSet,
    Measurement,
    by_model,
    in_eval_set,
    parse_range,
    shown_models,
    training_note,
    with_labels,
)
from muskie_jax.report.tables import Column, Section, Table, Titles, make_row

CLEAR_FRACTION = 0.01  # smaller relative differences do not count as one model being better
CONTEXT_NOTE = (
    "The same masked patches of a target view are reconstructed three times: from the target alone, with "
    "other views of its scene, and with distractors (the same number of views of another scene). Reference "
    "views have no mask. MSE is of pixels in [-1, 1]. Mean colour fills masked patches with the mean of "
    "the target's visible pixels. Gain: how far the error with the same scene is below the error with "
    "distractors. Bold: better by more than 1% than other models with equal view counts, with an error "
    "below that of the mean colour."
)


def reconstruction_section(
    measurements: Sequence[Measurement], eval_set: MaskedEvalSet, title: str, titles: Titles
) -> Section:
    """Returns all reconstruction tables of an evaluation set, under its `title`."""
    measurements = in_eval_set(measurements, eval_set)
    main, complete = (
        [
            table
            for table in (
                context_table(measurements, titles, all_references),
                overlap_table(measurements, titles, all_references),
            )
            if table
        ]
        for all_references in (False, True)
    )
    longer = [table for table, other in zip(complete, main) if len(table.rows) > len(other.rows)]
    return Section(title, beyond_paper=tuple(main), complete=tuple(longer))


class ContextErrors(NamedTuple):
    """MSE of one model on the same masked patches, by the views given with the target.

    Attributes:
      alone: error without other views.
      same_scene: error with views of the target's scene.
      distractor: error with the same number of views of another scene.
      baseline: error of filling with the mean of the target's visible pixels.
      patches: number of masked patches.
    """

    alone: Estimate | None
    same_scene: Estimate | None
    distractor: Estimate | None
    baseline: Estimate | None
    patches: Estimate | None


ContextKey = tuple[ModelInfo, int | None, int | None]  # model, views, reference views


def context_table(
    measurements: Sequence[Measurement], titles: Titles, all_references: bool = False
) -> Table | None:
    """Compares errors alone, with views of the same scene, and with distractor views.

    It has one row per model and view count, with the most reference views. With `all_references`, it has
    one row per reference-view count too.
    """
    errors_by_key = context_errors(with_labels(measurements, overlap="all"), all_references)
    rows = []
    for model in shown_models(model for model, *_ in errors_by_key):
        for (of_model, views, references), errors in errors_by_key.items():
            if of_model == model:
                estimates = (
                    errors.alone,
                    errors.same_scene,
                    errors.distractor,
                    gain(errors.same_scene, errors.distractor),
                    errors.patches,
                )
                # The gain of a model with a large error is no merit.
                behind = (errors.alone, errors.same_scene, None, errors.same_scene, None)
                losing = tuple(i for i, error in enumerate(behind) if _loses(error, errors.baseline))
                labels = (titles[model], str(views), str(references))
                rows.append(make_row(labels, model, estimates, (views, references), losing))
    if not rows:
        return None
    return Table(
        "Error on masked patches by number of views",
        ("model", "views", "reference views"),
        (
            Column("MSE alone", 4, relative_margin=CLEAR_FRACTION),
            Column("MSE with same scene", 4, relative_margin=CLEAR_FRACTION),
            Column("MSE with distractors", 4, ""),
            Column("gain %", 1, "higher", margin=100 * CLEAR_FRACTION),
            Column("patches", 0, ""),
        ),
        tuple(rows),
        note=f"{CONTEXT_NOTE} {training_note(measurements, titles)}".strip(),
    )


def overlap_table(
    measurements: Sequence[Measurement], titles: Titles, all_references: bool = False
) -> Table | None:
    """Returns the gain from the same scene by overlap with the target; see `context_table` for rows."""
    gains: dict[ContextKey, dict[str, Estimate | None]] = {}
    losing: dict[ContextKey, set[str]] = {}
    ranges = {str(measurement.labels.get("overlap", "all")) for measurement in measurements} - {"all"}
    ranges = sorted(ranges, key=parse_range)
    for label in ranges:
        for key, errors in context_errors(with_labels(measurements, overlap=label), all_references).items():
            gains.setdefault(key, {})[label] = gain(errors.same_scene, errors.distractor)
            if _loses(errors.same_scene, errors.baseline):
                losing.setdefault(key, set()).add(label)
    rows = []
    for model in shown_models(model for model, *_ in gains):
        for key, by_overlap in gains.items():
            of_model, views, references = key
            if of_model == model:
                estimates = [by_overlap.get(label) for label in ranges]
                columns = tuple(i for i, label in enumerate(ranges) if label in losing.get(key, ()))
                labels = (titles[model], str(views), str(references))
                rows.append(make_row(labels, model, estimates, (views, references), columns))
    if not rows:
        return None
    return Table(
        "Gain from views of the same scene (%) by overlap with the target",
        ("model", "views", "reference views"),
        tuple(Column(label, 1, "higher", margin=100 * CLEAR_FRACTION) for label in ranges),
        tuple(rows),
        note="Overlap: fraction of the target's pixels that its best reference view sees.",
    )


def context_errors(
    measurements: Sequence[Measurement], all_references: bool = True
) -> dict[ContextKey, ContextErrors]:
    """Returns errors by model, views and reference views, ordered by reference views, then views.

    Without `all_references`, keeps only the most reference views for each model and view count.
    A model measured only on the target alone gets one entry, with that error.
    """
    by_key: dict[ContextKey, dict[str, Measurement]] = {}
    alone: dict[ModelInfo, tuple[ContextKey, Measurement]] = {}
    for model, rows in by_model(measurements).items():
        for row in rows:
            key = (model, row.labels.get("views"), row.labels.get("num_reference"))
            context = str(row.labels.get("context"))
            if context == "none":
                alone[model] = key, row
            else:
                by_key.setdefault(key, {})[context] = row
    for model in alone.keys() - {model for model, *_ in by_key}:
        key, row = alone[model]
        by_key[key] = {"none": row}
    if not all_references:
        most_references: dict[tuple, ContextKey] = {}
        for key in sorted(by_key, key=lambda key: parse_range(key[2])):
            most_references[key[:2]] = key
        by_key = {key: rows for key, rows in by_key.items() if most_references[key[:2]] == key}
    errors = {
        key: ContextErrors(
            alone=_mse(alone[key[0]][1] if key[0] in alone else None),
            same_scene=_mse(rows.get("own")),
            distractor=_mse(rows.get("distractor")),
            baseline=next(iter(rows.values())).estimate("baseline_mse"),
            patches=next(iter(rows.values())).estimate("patches"),
        )
        for key, rows in by_key.items()
    }
    order = lambda item: (parse_range(item[0][2]), parse_range(item[0][1]))
    return dict(sorted(errors.items(), key=order))


def _mse(measurement: Measurement | None) -> Estimate | None:
    return measurement and measurement.estimate("mse")


def gain(error: Estimate | None, reference_error: Estimate | None) -> Estimate | None:
    """Returns how far an error is below a reference error, in percent."""
    if not error or not reference_error or not reference_error.value:
        return None
    resampled = None
    if error.resampled is not None and reference_error.resampled is not None:
        resampled = 100 * (1 - error.resampled / reference_error.resampled)
    return Estimate(100 * (1 - error.value / reference_error.value), resampled)


def _loses(error: Estimate | None, baseline: Estimate | None) -> bool:
    """Returns whether an error is not below the baseline's, as far as the two can be distinguished."""
    if not error or not baseline:
        return False
    return error.value >= baseline.value or may_be_equal(error.resampled, baseline.resampled)
