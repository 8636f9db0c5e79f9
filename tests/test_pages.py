"""Pages of documentation: headings, footnotes, and links to files and sections."""

import re

import pytest

from conftest import ROOT

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "weights/*.md", "tests/**/*.md")
    for path in ROOT.glob(pattern)
)


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


def headings(page: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", without_code_blocks(page), re.MULTILINE)


def without_code_blocks(page: str) -> str:
    return re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)


def anchor(heading: str) -> str:
    """Returns the name that GitHub gives a section."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_there_are_pages():
    assert "README.md" in PAGES and len(PAGES) > 15


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_each_heading_and_each_footnote_is_there_once(page):
    found = headings(page)
    assert sorted(found) == sorted(set(found))
    text = without_code((ROOT / page).read_text())
    definition = r"^\[\^([\w-]+)\]:"
    defined = re.findall(definition, text, re.MULTILINE)
    used = re.findall(r"\[\^([\w-]+)\]", re.sub(definition, "", text, flags=re.MULTILINE))
    assert sorted(defined) == sorted(set(used))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_sections(page):
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code((ROOT / page).read_text())):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, section = target.partition("#")
        file = folder / path if path else ROOT / page
        assert file.exists(), target
        if section and file.suffix == ".md":
            anchors = map(anchor, headings(file.resolve().relative_to(ROOT).as_posix()))
            assert section in anchors, target
