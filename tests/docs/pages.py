"""pages: every page that people read, in parts that tests check: code blocks, commands, tables, headings and links."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
TEXTS = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in FILES}
"""The text of each page by its path from the root."""
README = TEXTS["README.md"]
ALL = "\n".join(TEXTS.values())


def fenced(language: str, text: str = ALL) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def table(first_heading: str, text: str = ALL) -> list[list[str]]:
    """The rows of the one table of a page, or of all, whose first column is headed so; code marks removed."""
    found = re.findall(rf"^\| {first_heading} \|.*\n\|[-:|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert len(found) == 1, f"{len(found)} tables headed {first_heading!r}"
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in found[0].splitlines()]


def commands(text: str) -> list[str]:
    """The lines of a page that are typed into a shell."""
    return [
        line.partition("   #")[0].removeprefix("$ ").strip()
        for block in (*fenced("sh", text), *fenced("console", text))
        for line in block.splitlines()
        if line.removeprefix("$ ").startswith(("hybridbench ", "make ", ".venv/"))
    ]


def anchors(text: str) -> set[str]:
    """What a link may name after ``#``: the headings of a page, as GitHub and MkDocs spell them."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings)
    return {re.sub(r" ", "-", heading) for heading in plain}
