"""told: how a check tells CI what it found: test cases as JUnit XML, and workflow commands of GitHub Actions."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NAME = "hybridbench check"
"""Of the suite of tests that JUnit XML holds."""
NO_VERDICT = "no verdict"


@dataclass(frozen=True)
class ToldCase:
    """A test case of JUnit XML.

    Args:
        kind: what its class is named after.
        outcome: ``failure``, ``error`` or ``skipped``; empty where it passed.
        type: of what it came to, in a word.
        text: the same in a line.
    """

    kind: str
    name: str
    outcome: str
    type: str
    text: str


def junit_of(cases: Sequence[ToldCase], properties: Mapping[str, str] | None = None) -> str:
    """JUnit XML of a suite of test cases."""
    counts = Counter(one.outcome for one in cases)
    suite = ET.Element("testsuite", {"name": NAME, "tests": str(len(cases))})
    for key, outcome in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(key, str(counts[outcome]))
    if properties:
        listed = ET.SubElement(suite, "properties")
        for name, value in properties.items():
            ET.SubElement(listed, "property", {"name": name, "value": _printable(value)})
    for one in cases:
        classname = ".".join(filter(None, (NAME, one.kind))).replace(" ", ".")
        case = ET.SubElement(suite, "testcase", {"classname": _printable(classname), "name": _printable(one.name)})
        text = _printable(one.text)
        if one.outcome:
            ET.SubElement(case, one.outcome, {"message": text, "type": one.type})
        else:
            ET.SubElement(case, "system-out").text = text
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def annotation(level: str, title: str, text: str) -> str:
    """A workflow command of GitHub Actions.

    Args:
        level: ``error``, ``warning`` or ``notice``.
    """
    return f"::{level} title={_data(title).replace(':', '%3A').replace(',', '%2C')}::{_data(text)}"


def _printable(text: str) -> str:
    """A text without the characters that XML 1.0 cannot hold."""
    return "".join(mark if mark in "\t\n\r" or mark.isprintable() else "?" for mark in text)


def _data(text: str) -> str:
    """A message as workflow commands escape it."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
