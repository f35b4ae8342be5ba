"""One word has one meaning: names in the package mean what the glossary of docs/design.md says, and nothing else."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator

import pytest
from pages import ROOT, TEXTS, table

PACKAGE = ROOT / "hybridbench"
TIMED_AT_DEPTHS = ("compare", "derive", "record", "report", "suite", "workload")
"""What knows generations that are timed at depths."""
OF_NEEDLES = "quality/contexts/"
"""Where a depth is the place of a needle in a text, the field's word; everything else has no depth."""
OF_MODE = {"AS_PUBLISHED", "AS_PUBLISHED_HELP", "PUBLISHED", "as_published", "decoding_as_published"}
"""Names that hold the mode of execution."""
EARLIER = ("Group", "Cache", "Scale", "Moment", "Step", "MIXERS", "OPS")
"""Names that once stood for several things."""


@functools.cache
def sources() -> dict[str, str]:
    """The text of each module by its path below the package."""
    return {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


def names_in(tree: ast.Module) -> Iterator[str]:
    """Every name that a module gives or takes: of values, fields, arguments, functions, classes and imports."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.alias(name=name, asname=other):
                yield from (*name.split("."), *([other] if other else []))


def where(word: str) -> dict[str, set[str]]:
    """The names that hold a word, each with its modules."""
    found: dict[str, set[str]] = defaultdict(set)
    for module, text in sources().items():
        if word in text.lower():
            for name in names_in(ast.parse(text)):
                if word in name.lower():
                    found[name].add(module)
    return found


def given(pattern: str) -> dict[str, list[str]]:
    """What modules give a name to at their top level, each with its modules."""
    found: dict[str, list[str]] = defaultdict(list)
    for module, text in sources().items():
        for name in re.findall(pattern, text, re.MULTILINE):
            found[name].append(module)
    return found


def test_no_two_classes_have_one_name() -> None:
    found = given(r"^class (\w+)")
    assert len(found) > 300
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == {}


@pytest.mark.parametrize("name", EARLIER)
def test_a_name_that_stood_for_several_things_stands_once(name: str) -> None:
    assert len(given(rf"^(?:class )?({name})(?:\(.*\))?(?:: .*)?(?: =|:$)")[name]) == 1


def test_a_depth_is_one_of_cached_tokens() -> None:
    found = where("depth")
    assert {"depth", "depths"} <= set(found)
    modules = {module for modules in found.values() for module in modules if not module.startswith(OF_NEEDLES)}
    assert {module.split("/")[0] for module in modules} <= set(TIMED_AT_DEPTHS)


def test_published_is_a_mode_of_execution() -> None:
    assert set(where("published")) == OF_MODE
    assert [path.name for path in PACKAGE.rglob("*published*.py")] == []


def test_the_glossary_gives_each_word_once() -> None:
    words = [word for row in table("word", TEXTS["docs/design.md"]) for word in row[0].split(", ")]
    assert [word for word, times in Counter(words).items() if times > 1] == []
    assert {"context", "depth", "block", "layer", "operation", "backend", "published", "preset"} <= set(words)
