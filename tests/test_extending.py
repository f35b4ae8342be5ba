"""docs/extending.md shows the program as it is: every line of its excerpts is in the file it names, in that order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
EXCERPTS = re.findall(r"^`([\w/]+\.py)`:\n\n```python\n(.*?)```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_it_has_excerpts() -> None:
    assert len(EXCERPTS) >= 8


@pytest.mark.parametrize(("path", "excerpt"), EXCERPTS, ids=[path for path, _ in EXCERPTS])
def test_an_excerpt_is_in_its_file(path: str, excerpt: str) -> None:
    lines = iter((ROOT / path).read_text(encoding="utf-8").splitlines())
    for wanted in (line for line in excerpt.splitlines() if line.strip() != "..."):
        assert any(line == wanted for line in lines), f"{path} no longer has, in this order: {wanted}"


def test_files_and_folders_that_are_named_exist() -> None:
    named = set(re.findall(r"`((?:hybridbench|tests)/[\w/.]+)`", PAGE))
    assert len(named) > 15
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_names_in_capitals_stand_in_the_files_named_beside_them() -> None:
    pairs = re.findall(r"`(_?[A-Z]{4,})` in `(hybridbench/[\w/]+\.py)`", PAGE)
    assert pairs
    for name, path in pairs:
        assert re.search(rf"^{name}\b", (ROOT / path).read_text(encoding="utf-8"), flags=re.MULTILINE), (name, path)


def test_the_readme_leads_in_one_hop_to_where_each_common_thing_is_added() -> None:
    """From the row of the README to the table, and from a row of the table to a file: nothing is opened in between."""
    (row,) = re.findall(
        r"^\| where to add (.*) \| \[.*\]\(docs/extending\.md#where-one-thing-is-added\) \|$",
        (ROOT / "README.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    wanted = re.split(r", | or ", row)
    assert len(wanted) == 6
    table = PAGE.partition("\n## Where one thing is added\n")[2]
    rows = dict(re.findall(r"^\| (.*?) \| (.*) \|$", table, flags=re.MULTILINE))
    assert list(rows)[1:7] == wanted
    for what in wanted:
        first = re.findall(r"`(hybridbench/[\w/.]+)`", rows[what])[0]
        assert (ROOT / first).exists(), (what, first)
