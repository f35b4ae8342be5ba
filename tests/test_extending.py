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
