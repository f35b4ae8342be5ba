"""The tree in the page on the program's design is the real one, and every module says in a sentence what it owns."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from pages import ROOT, TEXTS

MODULES = sorted(path for path in (ROOT / "hybridbench").rglob("*.py"))


def listed(block: str) -> list[str]:
    """The path from the root of every line of a tree, each of which has a sentence."""
    found: list[str] = []
    above: list[str] = []
    for line in block.splitlines():
        match = re.fullmatch(r"((?:  )*)(\S+) {2,}(\S.*)", line)
        assert match is not None, f"the tree has a line without a name or a sentence: {line!r}"
        above[len(match[1]) // 2 :] = [match[2]]
        found.append("".join(above))
    return found


def test_the_trees_are_the_real_ones() -> None:
    package, beside = re.findall(
        r"^```\n(\w+/ .*?)^```$", TEXTS["docs/design.md"].partition("## The tree")[2], re.MULTILINE | re.DOTALL
    )
    packages = [f"{path.parent.relative_to(ROOT)}/" for path in MODULES if path.name == "__init__.py"]
    modules = [str(path.relative_to(ROOT)) for path in MODULES if path.name != "__init__.py"]
    assert sorted(listed(package)) == sorted([*packages, *modules])
    suites = [f"{path.relative_to(ROOT)}{'/' * path.is_dir()}" for path in (ROOT / "suites").iterdir()]
    tests = {f"tests/{path.parent.name}/" for path in (ROOT / "tests").glob("*/*.py")}
    assert sorted(listed(beside)) == sorted([*suites, *tests, "docs/", "suites/", "results/", "tests/"])


def first_sentence(path: Path) -> str:
    """The first paragraph of a module's docstring on one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_open_with_their_name_and_a_sentence(path: Path) -> None:
    name = path.parent.name if path.name == "__init__.py" else path.stem
    sentence = first_sentence(path)
    assert sentence.startswith(f"{name}: "), sentence
    assert sentence.endswith((".", ":")), sentence
