"""baseline: the committed file of exact figures, its budgets, and what differs between it and now.

A figure has no noise, so it is equal or it differs. A budget takes the place of equality for one figure: it may be
anything up to a value, and the file says why.

    [[budget]]
    name = "inter/1b"
    quantity = "train peak [B] 32k"
    at_most = 26000000000
    reason = "the loss keeps a chunk more"
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from hybridbench.errors import BadInput
from hybridbench.files import CONFIG_BYTES, Missing, from_json, read_text
from hybridbench.gate.entries import read_entries
from hybridbench.gate.exits import WORST_FIRST, Exit, worst

SCHEMA = 1
EVERY = "every figure"
"""The quantity of a difference that is of a whole name."""
Figures = Mapping[str, Mapping[str, int | None]]
"""Name of a model, step or kernel to quantity to figure; None where there is no formula for it."""


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the exact figures.

    Args:
        figures: by name and quantity.
        versions: of the software that decides them. Figures of other versions are not compared.
        sources: of names whose figures need not be observed again: a hash of all that they follow from, by what they
            were observed for.
        kept: how many names have figures that were not observed again; not written.
    """

    figures: Figures
    versions: Mapping[str, str]
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    kept: int = 0


class Finding(StrEnum):
    """What is said of a figure that is not simply equal."""

    DIFFERS = "differs"
    OVER_BUDGET = "over budget"
    WITHIN_BUDGET = "within budget"
    VANISHED = "vanished"
    NEW = "not in the baseline"
    NOT_COMPARED = "not compared"
    """A whole part, without a name: its versions differ, or it could not be observed."""


_CODES = {
    Finding.DIFFERS: Exit.REGRESSION,
    Finding.OVER_BUDGET: Exit.REGRESSION,
    Finding.WITHIN_BUDGET: Exit.PASS,
    Finding.VANISHED: Exit.NOT_COMPARABLE,
    Finding.NEW: Exit.NOT_COMPARABLE,
    Finding.NOT_COMPARED: Exit.NOT_COMPARABLE,
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure that is not equal, or one part that was not compared.

    Args:
        part: of the exact figures.
        name: the model, step or kernel; empty for a whole part.
        quantity: what differs.
        before, after: in the baseline and now; None where there is no figure.
        finding: what is said of it.
        because: why, in a sentence; empty where the figures say it all.
    """

    part: str
    name: str
    quantity: str
    before: int | None
    after: int | None
    finding: Finding
    because: str = ""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one figure may be at most, and why."""

    name: str
    quantity: str
    at_most: int
    reason: str


def differences(part: str, before: Section, after: Section, budgets: Sequence[Allowance] = ()) -> list[Difference]:
    """Everything in a part that is not equal, in the order of the names."""
    if dict(before.versions) != dict(after.versions):
        names = dict.fromkeys((*before.versions, *after.versions))
        listed = ", ".join(
            f"{name} {before.versions.get(name, 'none')} there, {after.versions.get(name, 'none')} here"
            for name in names
            if before.versions.get(name) != after.versions.get(name)
        )
        return [not_compared(part, f"The baseline is of other versions: {listed}.")]
    allowed = {(one.name, one.quantity): one for one in budgets}
    found = []
    for name in dict.fromkeys((*before.figures, *after.figures)):
        if name not in after.figures or name not in before.figures:
            finding = Finding.NEW if name in after.figures else Finding.VANISHED
            found.append(Difference(part, name, EVERY, None, None, finding))
            continue
        old, new = before.figures[name], after.figures[name]
        for quantity in dict.fromkeys((*old, *new)):
            one = _difference(part, name, quantity, old, new, allowed.get((name, quantity)))
            if one is not None:
                found.append(one)
    return found


def check_budgets(budgets: Sequence[Allowance], sections: Mapping[str, Section]) -> None:
    """Check that every budget is of a figure that there is, and each figure has one.

    Raises:
        BadInput: one is not.
    """
    known = {(name, what) for part in sections.values() for name, row in part.figures.items() for what in row}
    seen = set()
    for one in budgets:
        if (one.name, one.quantity) not in known:
            raise BadInput(f"a budget names '{one.name}', '{one.quantity}', and the baseline has no such figure.")
        if (one.name, one.quantity) in seen:
            raise BadInput(f"'{one.name}', '{one.quantity}' has two budgets: keep one.")
        seen.add((one.name, one.quantity))


def not_compared(part: str, because: str) -> Difference:
    """A whole part that was not compared."""
    return Difference(part, "", "", None, None, Finding.NOT_COMPARED, because)


def _difference(
    part: str,
    name: str,
    quantity: str,
    old: Mapping[str, int | None],
    new: Mapping[str, int | None],
    budget: Allowance | None,
) -> Difference | None:
    before, after = old.get(quantity), new.get(quantity)
    if quantity not in new:
        return Difference(part, name, quantity, before, None, Finding.VANISHED)
    if budget is not None:
        finding = Finding.OVER_BUDGET if after is None or after > budget.at_most else Finding.WITHIN_BUDGET
        because = f"At most {budget.at_most:,} are allowed: {budget.reason}"
        return Difference(part, name, quantity, before, after, finding, because)
    if quantity not in old:
        return Difference(part, name, quantity, None, after, Finding.NEW)
    return None if before == after else Difference(part, name, quantity, before, after, Finding.DIFFERS)


def exit_of(found: Sequence[Difference], compared: int, fail_on: Sequence[Exit] = WORST_FIRST) -> Exit:
    """The exit code of an exact check.

    Args:
        compared: figures that were compared; a check of none has measured nothing.
    """
    codes = {_CODES[one.finding] for one in found}
    return worst(codes | ({Exit.NOTHING_MEASURED} if not compared else set()), fail_on)


def write_baseline(sections: Mapping[str, Section], path: Path) -> None:
    """Write sections as JSON, one name a line, so that a change of one figure is one changed line."""
    parts = []
    for part, section in sections.items():
        tables = {"figures": section.figures} | ({"sources": section.sources} if section.sources else {})
        listed = ",\n".join(f"  {json.dumps(table)}: {{\n{_rows(body)}\n  }}" for table, body in tables.items())
        parts.append(f' {json.dumps(part)}: {{\n  "versions": {json.dumps(dict(section.versions))},\n{listed}\n }}')
    path.parent.mkdir(parents=True, exist_ok=True)
    body = ",\n".join([f' "schema": {SCHEMA}', *parts])
    path.write_text(f"{{\n{body}\n}}\n", encoding="utf-8")


def _rows(table: Mapping[str, Mapping[str, Any]]) -> str:
    return ",\n".join(f"   {json.dumps(name)}: {json.dumps(dict(row))}" for name, row in table.items())


def read_baseline(path: Path) -> dict[str, Section]:
    """The sections of a file.

    Raises:
        BadInput: no such file, or not a baseline.
    """
    try:
        body = _table(from_json(read_text(path, CONFIG_BYTES)), "the file")
        if body.pop("schema", None) != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}")
        return {part: _section(part, one) for part, one in body.items()}
    except Missing as exc:
        raise BadInput(f"there is no baseline at {path}: write one with hybridbench check --exact --update.") from exc
    except ValueError as exc:
        raise BadInput(f"{path} cannot be read as a baseline ({exc}): write it again with --update.") from exc


def _table(value: Any, what: str) -> dict[str, Any]:
    """A table of JSON; raises ``ValueError`` with what is none."""
    if not isinstance(value, dict):
        said = {list: "a list", type(None): "null", str: "a text"}.get(type(value), "a number or a truth value")
        raise ValueError(f"{what} must be a table, and is {said}")
    return value


def _section(part: str, given: Any) -> Section:
    body = _table(given, f"part '{part}'")
    if not {"figures", "versions"} <= body.keys():
        raise ValueError(f"part '{part}' must have figures and versions")
    listed = _table(body["figures"], f"{part}: figures")
    figures = {name: _table(row, f"{part}: {name}") for name, row in listed.items()}
    for name, row in figures.items():
        for quantity, value in row.items():
            if value is not None and type(value) is not int:
                raise ValueError(f"{name}, {quantity}: {json.dumps(value)} is no whole number")
    versions = {name: str(version) for name, version in _table(body["versions"], f"{part}: versions").items()}
    sources = {
        name: {of: str(one) for of, one in _table(row, f"{part}: source of {name}").items()}
        for name, row in _table(body.get("sources", {}), f"{part}: sources").items()
    }
    return Section(figures, versions, sources)


def read_budgets(path: Path) -> list[Allowance]:
    """The budgets of a TOML file.

    Raises:
        BadInput: no such file, no TOML, or an entry that is not whole.
    """
    return [
        _budget(f"{path}, budget {number}", one) for number, one in enumerate(read_entries(path, "budget"), start=1)
    ]


def _budget(where: str, body: Any) -> Allowance:
    names = [field.name for field in fields(Allowance)]
    if not isinstance(body, dict) or set(body) != set(names):
        raise BadInput(f"{where} must have exactly {', '.join(names)}.")
    if type(body["at_most"]) is not int or body["at_most"] < 0:
        raise BadInput(f"{where}: at_most {body['at_most']} must be a whole number, 0 or more.")
    for name in ("name", "quantity", "reason"):
        if not isinstance(body[name], str) or not body[name].strip():
            raise BadInput(f"{where}: {name} must be a text that is not empty.")
    return Allowance(**body)
