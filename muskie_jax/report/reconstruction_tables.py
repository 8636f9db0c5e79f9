"""Tables of reconstruction as numbers: errors on masked patches, and the gain from other views."""

from collections.abc import Sequence
from typing import NamedTuple

from muskie_jax.report.results_file import ModelInfo
from muskie_jax.report.selection import (
    MaskedEvalSet,
    Measurement,
    by_model,
    in_eval_set,
    parse_range,
    shown_models,
    with_labels,
)
from muskie_jax.report.tables import Column, Section, Table, Titles, make_row

CLEAR_FRACTION = 0.01  # smaller relative differences do not count as one model being better


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
      measurement: one of the measurements that the errors come from.
    """

    alone: float | None
    same_scene: float | None
    distractor: float | None
    measurement: Measurement


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
                values = (
                    errors.alone,
                    errors.same_scene,
                    errors.distractor,
                    gain(errors.same_scene, errors.distractor),
                    errors.measurement.values.get("baseline_mse"),
                    errors.measurement.values.get("patches"),
                )
                labels = (titles[model], str(views), str(references))
                rows.append(make_row(labels, model, values, group=(views, references)))
    if not rows:
        return None
    return Table(
        "Error on masked patches by number of views",
        ("model", "views", "reference views"),
        (
            Column("MSE, alone", 4, relative_margin=CLEAR_FRACTION),
            Column("MSE, same scene", 4, relative_margin=CLEAR_FRACTION),
            Column("MSE, distractors", 4, ""),
            Column("gain %", 1, "higher", margin=100 * CLEAR_FRACTION),
            Column("MSE, mean colour", 4, ""),
            Column("patches", 0, ""),
        ),
        tuple(rows),
        note="The same masked patches of a target view are reconstructed three times: from the target "
        "alone, with other views of its scene, and with distractors (the same number of views of another "
        "scene). Reference views have no mask. MSE is of pixels in [-1, 1]. Mean colour fills masked "
        "patches with the mean of the target's visible pixels. Gain: how far the error with the same scene "
        "is below the error with distractors. Bold: better by more than 1% than other models with equal "
        "view counts.",
    )


def overlap_table(
    measurements: Sequence[Measurement], titles: Titles, all_references: bool = False
) -> Table | None:
    """Returns the gain from the same scene by overlap with the target; see `context_table` for rows."""
    gains: dict[ContextKey, dict[str, float | None]] = {}
    ranges = {str(measurement.labels.get("overlap", "all")) for measurement in measurements} - {"all"}
    ranges = sorted(ranges, key=parse_range)
    for label in ranges:
        for key, errors in context_errors(with_labels(measurements, overlap=label), all_references).items():
            gains.setdefault(key, {})[label] = gain(errors.same_scene, errors.distractor)
    rows = []
    for model in shown_models(model for model, *_ in gains):
        for (of_model, views, references), by_overlap in gains.items():
            if of_model == model:
                values = [by_overlap.get(label) for label in ranges]
                labels = (titles[model], str(views), str(references))
                rows.append(make_row(labels, model, values, group=(views, references)))
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
    mse = lambda row: row.values.get("mse") if row else None
    errors = {
        key: ContextErrors(
            alone=mse(alone[key[0]][1]) if key[0] in alone else None,
            same_scene=mse(rows.get("own")),
            distractor=mse(rows.get("distractor")),
            measurement=next(iter(rows.values())),
        )
        for key, rows in by_key.items()
    }
    order = lambda item: (parse_range(item[0][2]), parse_range(item[0][1]))
    return dict(sorted(errors.items(), key=order))


def gain(error: float | None, reference_error: float | None) -> float | None:
    """Returns how far an error is below a reference error, in percent."""
    if error is None or not reference_error:
        return None
    return 100 * (1 - error / reference_error)
