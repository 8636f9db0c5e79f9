"""Writes tables as text: CSV of all results; Markdown and LaTeX of the comparison tables."""

import csv
import html
import io
import json
import re
from collections.abc import Iterable, Sequence

from muskie_jax.errors import printable
from muskie_jax.report.results_file import ModelInfo, ResultUnit
from muskie_jax.report.tables import Row, Section, Table

LATEX_COLUMNS = 8  # number columns that fit the width of a page
BEYOND_PAPER = "Not in the paper"
LATEX_ESCAPES = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "\N{EN DASH}": "--", "\N{MINUS SIGN}": "$-$", "°": r"$^\circ$", "`": r"\textasciigrave{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{character: f"{{{character}}}" for character in "[]*"},  # after \\ LaTeX reads these as options
}  # fmt: skip


def csv_text(units: Sequence[ResultUnit]) -> str:
    """Returns one CSV row per result row: model, evaluator, labels, values and origin.

    A label or value whose name is taken by another column gets the prefix "label " or "value ".
    """
    rows = [(unit, row) for unit in units for row in unit.rows]
    names = lambda kind: list(dict.fromkeys(name for _, row in rows for name in getattr(row, kind)))
    model_columns = ["model", *ModelInfo._fields[1:]]
    origin_columns = ["unit", "setting", "seconds", "finished", "device", "version"]
    labels, values = names("labels"), names("values")
    reserved = {*model_columns, "evaluator", *origin_columns}
    label_columns = [f"label {name}" if name in reserved or name in values else name for name in labels]
    value_columns = [f"value {name}" if name in reserved else name for name in values]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*model_columns, "evaluator", *label_columns, *value_columns, *origin_columns])
    for unit, row in rows:
        writer.writerow([
            *unit.model,
            unit.evaluator,
            *(row.labels.get(name) for name in labels),
            *(row.values.get(name) for name in values),
            unit.identity,
            json.dumps(unit.setting, sort_keys=True),
            *(unit.seconds, unit.finished, unit.device, unit.version),
        ])  # fmt: skip
    return text.getvalue()


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
            text = table.text(row, column)
            numbers.append(f"**{text}**" if table.is_best(row, column) else text)
        lines.append(line_of([model, *rest, *numbers]))
    return [*lines, "", *([_markdown(table.note), ""] if table.note else [])]


def _markdown(text: str) -> str:
    """Escapes text so that Markdown shows it literally."""
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", html.escape(printable(text), quote=False))


def latex_text(parts: Iterable[tuple[str, Sequence[Section]]]) -> str:
    r"""Returns all tables as LaTeX to \input, best values in bold. They need only the package booktabs."""
    blocks = ["% Tables of an evaluation: write \\usepackage{booktabs} and \\input this file.\n"]
    for part, sections in parts:
        for section in sections:
            for prefix, tables in (
                ("", section.tables + section.details),
                (f"{BEYOND_PAPER}: ", section.beyond_paper),
            ):
                for table in tables:
                    caption = f"{part}: {section.title}. {prefix}{table.title}. {table.note}".strip()
                    blocks += _latex_tables(table, caption)
    return "\n".join(blocks)


def _latex_tables(table: Table, caption: str) -> list[str]:
    """Returns a table, split into several of at most LATEX_COLUMNS number columns."""
    blocks = []
    for start in range(0, len(table.columns), LATEX_COLUMNS):
        columns = range(start, min(start + LATEX_COLUMNS, len(table.columns)))
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
        text = _latex(table.text(row, column).replace("-", "\N{MINUS SIGN}"))
        cells.append(f"\\textbf{{{text}}}" if table.is_best(row, column) else text)
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
