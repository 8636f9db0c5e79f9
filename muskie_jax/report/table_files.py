"""Tables as files: CSV of every row, Markdown and LaTeX of the tables that people compare."""

import csv
import html
import io
import json
import re
from collections.abc import Iterable, Sequence

from muskie_jax.errors import printable
from muskie_jax.report.results_file import ModelInfo, ResultUnit
from muskie_jax.report.tables import Line, Section, Table

LATEX_COLUMNS = 8  # of figures that fit into one table
OURS = "Ours, beyond the paper"
LATEX_ESCAPES = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "\N{EN DASH}": "--", "\N{MINUS SIGN}": "$-$", "°": r"$^\circ$", "`": r"\textasciigrave{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{character: f"{{{character}}}" for character in "[]*"},  # after \\ they would be its options
}  # fmt: skip


def csv_text(units: Sequence[ResultUnit]) -> str:
    """A line for each row of results: model, evaluator, all labels, all values, and where they are from.

    A label or value that is called like another column has "label " or "value " before its name.
    """
    rows = [(unit, row) for unit in units for row in unit.rows]
    names = lambda kind: list(dict.fromkeys(name for _, row in rows for name in getattr(row, kind)))
    model = ["model", *ModelInfo._fields[1:]]
    about = ["evaluator", "unit", "setting", "seconds", "finished", "device", "version"]
    labels, values, fixed = names("labels"), names("values"), {*model, *about}
    label_heads = [f"label {name}" if name in fixed or name in values else name for name in labels]
    value_heads = [f"value {name}" if name in fixed else name for name in values]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*model, about[0], *label_heads, *value_heads, *about[1:]])
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
    """All tables, given (title, sections) of each part."""
    lines = ["# Evaluation", ""]
    for part, sections in parts:
        for section in sections:
            lines += [f"## {_markdown(part)}: {_markdown(section.title)}", ""]
            for title, tables in (("", section.tables + section.details), (OURS, section.ours)):
                for table in tables:
                    lines += [f"### {f'{title}: ' if title else ''}{_markdown(table.title)}", ""]
                    lines += _markdown_table(table)
    return "\n".join(lines)


def _markdown_table(table: Table) -> list[str]:
    cells = lambda texts: f"| {' | '.join(texts)} |"
    lines = [
        cells([_markdown(name) for name in (*table.heads, *(column.name for column in table.columns))]),
        cells(["---"] * len(table.heads) + ["---:"] * len(table.columns)),
    ]
    for line in (*table.lines, *table.published):
        first, *rest = map(_markdown, line.heads)
        marked = f"{first} *({line.tag})*" if line.tag else first
        texts = [table.text(line, number) for number in range(len(table.columns))]
        bold = [f"**{text}**" if table.is_best(line, number) else text for number, text in enumerate(texts)]
        lines.append(cells([marked, *rest, *bold]))
    return [*lines, "", *([_markdown(table.note), ""] if table.note else [])]


def _markdown(text: str) -> str:
    """Text that is shown as it is."""
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", html.escape(printable(text), quote=False))


def latex_text(parts: Iterable[tuple[str, Sequence[Section]]]) -> str:
    r"""All tables, to be \input; the best in bold. They need the package booktabs alone."""
    blocks = ["% Tables of an evaluation: write \\usepackage{booktabs} and \\input this file.\n"]
    for part, sections in parts:
        for section in sections:
            for ours, tables in ((False, section.tables + section.details), (True, section.ours)):
                for table in tables:
                    caption = f"{part}: {section.title}. {f'{OURS}: ' if ours else ''}{table.title}."
                    blocks += _latex_tables(table, f"{caption} {table.note}".strip())
    return "\n".join(blocks)


def _latex_tables(table: Table, caption: str) -> list[str]:
    """A table, in several if it is too wide."""
    blocks = []
    for start in range(0, len(table.columns), LATEX_COLUMNS):
        numbers = range(start, min(start + LATEX_COLUMNS, len(table.columns)))
        names = [*table.heads, *(table.columns[number].name for number in numbers)]
        body = [_latex_row(map(_latex, names)), r"\midrule"]
        body += [_latex_line(table, line, numbers) for line in table.lines]
        if table.published:
            body += [r"\midrule", *(_latex_line(table, line, numbers) for line in table.published)]
        columns = "l" * len(table.heads) + "r" * len(numbers)
        blocks.append(
            "\\begin{table}\n\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}\n"
            f"\\caption{{{_latex(caption)}}}\n"
            f"\\makebox[\\linewidth][c]{{\\begin{{tabular}}{{{columns}}}\n\\toprule\n"
            + "\n".join(body)
            + "\n\\bottomrule\n\\end{tabular}}\n\\end{table}\n"
        )
    return blocks


def _latex_line(table: Table, line: Line, numbers: Iterable[int]) -> str:
    first, *rest = map(_latex, line.heads)
    cells = [f"{first} ({_latex(line.tag)})" if line.tag else first, *rest]
    for number in numbers:
        text = _latex(table.text(line, number).replace("-", "\N{MINUS SIGN}"))
        cells.append(f"\\textbf{{{text}}}" if table.is_best(line, number) else text)
    return _latex_row(cells)


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex(text: str) -> str:
    """Text that is set as it is; letters that not every LaTeX can set are spelled as escapes."""
    escaped = ""
    for character in printable(text):
        if character not in LATEX_ESCAPES and not (character.isascii() or "À" <= character <= "ÿ"):
            character = character.encode("unicode_escape").decode()
        escaped += "".join(LATEX_ESCAPES.get(letter, letter) for letter in character)
    return escaped
