"""Writes tables as text: CSV of all results; Markdown and LaTeX of the comparison tables."""

import csv
import html
import io
import json
import re
from collections.abc import Iterable, Sequence

from muskie_jax.errors import printable
from muskie_jax.evaluators.results import ResultRow
from muskie_jax.report.intervals import WEIGHTS, interval, resample
from muskie_jax.report.results_file import ModelInfo, ResultUnit
from muskie_jax.report.tables import Row, Section, Table

LATEX_COLUMNS = 8  # number columns that fit the width of a page
LATEX_INTERVAL_COLUMNS = 4  # the same, if the columns have intervals
BEYOND_PAPER = "Not in the paper"
LATEX_ESCAPES = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "\N{EN DASH}": "--", "\N{MINUS SIGN}": "$-$", "°": r"$^\circ$", "`": r"\textasciigrave{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{character: f"{{{character}}}" for character in "[]*"},  # after \\ LaTeX reads these as options
}  # fmt: skip


def csv_text(units: Sequence[ResultUnit]) -> str:
    """Returns one CSV row per result row: model, evaluator, labels, values and their intervals, origin.

    A label or value whose name is taken by another column gets the prefix "label " or "value ". The ends of
    the 95% interval of `px_ate` are in the columns "px_ate low" and "px_ate high".
    """
    rows = [(unit, row) for unit in units for row in unit.rows]
    names = lambda kind: list(dict.fromkeys(name for _, row in rows for name in getattr(row, kind)))
    with_intervals = [name for name in names("by_group") if name not in WEIGHTS]
    interval_columns = [f"{name} {end}" for name in with_intervals for end in ("low", "high")]
    model_columns = ["model", *ModelInfo._fields[1:]]
    origin_columns = ["unit", "setting", "seconds", "finished", "device", "version"]
    labels, values = names("labels"), names("values")
    reserved = {*model_columns, "evaluator", *origin_columns}
    label_columns = [f"label {name}" if name in reserved or name in values else name for name in labels]
    value_columns = [f"value {name}" if name in reserved else name for name in values]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [*label_columns, *value_columns, *interval_columns, *origin_columns]
    writer.writerow([*model_columns, "evaluator", *columns])
    for unit, row in rows:
        writer.writerow([
            *unit.model,
            unit.evaluator,
            *(row.labels.get(name) for name in labels),
            *(row.values.get(name) for name in values),
            *(end for name in with_intervals for end in _interval_ends(row, name)),
            unit.identity,
            json.dumps(unit.setting, sort_keys=True),
            *(unit.seconds, unit.finished, unit.device, unit.version),
        ])  # fmt: skip
    return text.getvalue()


def _interval_ends(row: ResultRow, metric: str) -> tuple[float | None, float | None]:
    resampled = resample(row.by_group, metric)
    return (None if resampled is None else interval(resampled)) or (None, None)


def markdown_text(parts: Iterable[tuple[str, Sequence[Section]]]) -> str:
    """Returns all tables as Markdown, given pairs (title, sections)."""
    lines = ["# Evaluation", ""]
    for part, sections in parts:
        for section in sections:
            lines += [f"## {_markdown(part)}: {_markdown(section.title)}", ""]
            for prefix, tables in (
                ("", section.tables + section.details),
                (f"{BEYOND_PAPER}: ", section.beyond_paper),
            ):
                for table in tables:
                    lines += [f"### {prefix}{_markdown(table.title)}", "", *_markdown_table(table)]
    return "\n".join(lines)


def _markdown_table(table: Table) -> list[str]:
    line_of = lambda cells: f"| {' | '.join(cells)} |"
    columns = range(len(table.columns))
    header = [*table.label_names, *(column.name for column in table.columns)]
    lines = [
        line_of(map(_markdown, header)),
        line_of(["---"] * len(table.label_names) + ["---:"] * len(table.columns)),
    ]
    for row in (*table.rows, *table.published):
        first, *rest = map(_markdown, row.labels)
        model = f"{first} *({row.badge})*" if row.badge else first
        numbers = []
        for column in columns:
            text, ends = table.text(row, column), _markdown(table.interval_text(row, column))
            text = f"**{text}**" if table.is_best(row, column) else text
            numbers.append(f"{text} {ends}" if ends else text)
        lines.append(line_of([model, *rest, *numbers]))
    note = table.full_note()
    return [*lines, "", *([_markdown(note), ""] if note else [])]


def _markdown(text: str) -> str:
    """Escapes text so that Markdown shows it literally."""
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", html.escape(printable(text), quote=False))


def latex_text(parts: Iterable[tuple[str, Sequence[Section]]]) -> str:
    r"""Returns all tables as LaTeX to \input, best values in bold. They need only the package booktabs."""
    blocks = ["% Tables of an evaluation: add \\usepackage{booktabs} and \\input this file.\n"]
    for part, sections in parts:
        for section in sections:
            for prefix, tables in (
                ("", section.tables + section.details),
                (f"{BEYOND_PAPER}: ", section.beyond_paper),
            ):
                for table in tables:
                    caption = f"{part}: {section.title}. {prefix}{table.title}. {table.full_note()}".strip()
                    blocks += _latex_tables(table, caption)
    return "\n".join(blocks)


def _latex_tables(table: Table, caption: str) -> list[str]:
    """Returns a table, split into several whose number columns fit the width of a page."""
    blocks, most = [], LATEX_INTERVAL_COLUMNS if table.has_intervals else LATEX_COLUMNS
    for start in range(0, len(table.columns), most):
        columns = range(start, min(start + most, len(table.columns)))
        header = [*table.label_names, *(table.columns[column].name for column in columns)]
        body = [_latex_row(map(_latex, header)), r"\midrule"]
        body += [_latex_table_row(table, row, columns) for row in table.rows]
        if table.published:
            body += [r"\midrule", *(_latex_table_row(table, row, columns) for row in table.published)]
        alignment = "l" * len(table.label_names) + "r" * len(columns)
        blocks.append(
            "\\begin{table}\n\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}\n"
            f"\\caption{{{_latex(caption)}}}\n"
            f"\\makebox[\\linewidth][c]{{\\begin{{tabular}}{{{alignment}}}\n\\toprule\n"
            + "\n".join(body)
            + "\n\\bottomrule\n\\end{tabular}}\n\\end{table}\n"
        )
    return blocks


def _latex_table_row(table: Table, row: Row, columns: Iterable[int]) -> str:
    first, *rest = map(_latex, row.labels)
    cells = [f"{first} ({_latex(row.badge)})" if row.badge else first, *rest]
    for column in columns:
        text, ends = (
            _latex(text.replace("-", "\N{MINUS SIGN}"))
            for text in (table.text(row, column), table.interval_text(row, column))
        )
        text = f"\\textbf{{{text}}}" if table.is_best(row, column) else text
        cells.append(f"{text} {{\\scriptsize {ends}}}" if ends else text)
    return _latex_row(cells)


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex(text: str) -> str:
    """Escapes text so that LaTeX sets it literally; letters that it may lack become escape sequences."""
    escaped = ""
    for character in printable(text):
        if character not in LATEX_ESCAPES and not (character.isascii() or "À" <= character <= "ÿ"):
            character = character.encode("unicode_escape").decode()
        escaped += "".join(LATEX_ESCAPES.get(letter, letter) for letter in character)
    return escaped
