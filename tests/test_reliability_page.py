"""Each promise of docs/reliability.md names a test that exists."""

import re

from conftest import ROOT

PAGE = ROOT / "docs/reliability.md"


def test_all_tests_that_the_page_names_exist():
    files = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    text = PAGE.read_text()
    for name in re.findall(r"\btest_\w+\.py\b", text):
        assert name in files, f"{name} does not exist"
    defined = set(re.findall(r"^def (test_\w+)", "\n".join(files.values()), re.MULTILINE))
    named = {name.rstrip("_") for name in re.findall(r"\btest_\w+\b(?!\.py)", text)}
    unknown = {name for name in named if not any(each.startswith(name) for each in defined)}
    assert len(named) > 50 and not unknown


def test_each_row_names_a_test():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("|") and "---" not in line]
    heads = ("| promise ", "| fault ", "| change ")
    table, unnamed = "", []
    for row in rows:
        table = row if row.startswith(heads) else table
        if row != table and not table.startswith("| change ") and not re.search(r"test_\w+|the same", row):
            unnamed.append(row)
    assert not unnamed
