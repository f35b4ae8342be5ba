"""pool: the file that a proof's pairs are appended to: a line of what each run times, and how, then a line a pair.

Pairs of several runs and files pool where the machine, the versions, the code, the settings and the cells are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybridbench.errors import BadInput
from hybridbench.files import RECORDS_BYTES, Damaged, Missing, from_json, read_text
from hybridbench.gate.calibration import machine_of
from hybridbench.gate.cells import CheckCell
from hybridbench.gate.pairs import TimedPair
from hybridbench.gate.side.understood import flat
from hybridbench.record import Environment

SCHEMA = 2
Pairs = dict[tuple[str, str], list[TimedPair]]
"""Pairs by kind and name of the cell."""
SHOWN = 4
"""Of the fields that differ, where more do."""


def run_of(
    environment: Environment, source: str, settings: Mapping[str, Any], cells: Sequence[CheckCell]
) -> dict[str, Any]:
    """The first line of a run, as JSON values.

    Args:
        source: a hash of the code that is timed, as ``hash_of`` gives it.
        settings: how it is timed.
    """
    versions = {"python": environment.python, "cuda": environment.cuda, **environment.packages}
    run: dict[str, Any] = {
        "schema": SCHEMA,
        "machine": machine_of(environment),
        "versions": versions,
        "source": source,
        "settings": dict(settings),
        "commit": environment.git_commit,
        "cells": {one.name: {"kind": one.kind, "base": dict(one.base), "head": dict(one.head)} for one in cells},
    }
    read: dict[str, Any] = json.loads(json.dumps(run))  # as it is read from a file
    return read


def hash_of(package: Path) -> str:
    """A hash of all Python files of a package."""
    found = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        found.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


@dataclass
class _First:
    """What the pairs of a pool have in common, from the first run and each cell's first run; fields of any run."""

    fields: dict[str, Any] = field(default_factory=dict)
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    names: dict[str, None] = field(default_factory=dict)


def pooled(paths: Sequence[Path], across: Sequence[str] = ()) -> Pairs:
    """The pairs of each cell, by kind and name, in the order of the files.

    Args:
        across: fields in which runs may differ.

    Raises:
        BadInput: no such file, another file, or runs that were measured otherwise; names what differs.
    """
    found: Pairs = {}
    first = _First()
    for path in paths:
        _read(path, first, found, across)
    if not found:
        raise BadInput("no pairs: give files that run has written.")
    unknown = [name for name in across if name not in first.names]
    if unknown:
        raise BadInput(f"--across '{unknown[0]}' is no field of a run; they are {', '.join(first.names)}.")
    return found


def resumed(path: Path, run: Mapping[str, Any]) -> int:
    """How many pairs a file holds to which a run is to add its own; 0 where there is none.

    An unfinished line at its end, of a run that was killed, is removed.

    Raises:
        BadInput: its pairs would not pool with the run's.
    """
    try:
        text = read_text(path, RECORDS_BYTES)
    except Missing:
        return 0
    except Damaged as exc:
        raise BadInput(f"{path} {exc}: give another --out.") from exc
    found: Pairs = {}
    first = _First()
    count = _read(path, first, found, ())
    if first.fields:
        _check(f"{path} holds pairs that", first, run, (), "give another --out")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return count


def _read(path: Path, first: _First, found: Pairs, across: Sequence[str]) -> int:
    """Add the pairs of a file; how many there are."""
    try:
        text = read_text(path, RECORDS_BYTES)
    except Damaged as exc:
        raise BadInput(f"{path} {exc}: give files that run has written.") from exc
    count, run = 0, dict[str, Any]()
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), 1):  # an unfinished line is no pair
        where = f"{path}, line {number}"
        try:
            body = from_json(line)
            if "schema" in body:
                run = body
                _check(f"{where} begins a run that", first, body, across, "pool alike runs")
                continue
            if not run:
                raise KeyError("the line of its run")
            for name, row in body["cells"].items():
                found.setdefault((row.pop("kind"), name), []).append(TimedPair(**row))
            count += 1
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise BadInput(f"{where} is no pair of a proof ({type(exc).__name__}: {exc}).") from exc
    return count


MODELS = "models"
"""The field of a cell that says whose problem it is: suites reach the same problem from several models."""


def _check(begin: str, first: _First, run: Mapping[str, Any], across: Sequence[str], way_out: str) -> None:
    """Compare a run with those before it.

    Raises:
        BadInput: something differs that must not.
    """
    if run["schema"] != SCHEMA:
        raise BadInput(f"{begin} is of schema {run['schema']}, and {SCHEMA} is read: measure its pairs again.")
    fields = {**run["machine"], **run["versions"], "source": run["source"], **run["settings"]}
    first.fields = first.fields or fields
    first.names |= dict.fromkeys(fields)
    differing = [
        _shown(name, first.fields.get(name), fields.get(name))
        for name in dict.fromkeys((*first.fields, *fields))
        if name not in across and first.fields.get(name) != fields.get(name)
    ]
    for name, cell in run["cells"].items():
        known, now = flat(first.cells.setdefault(name, cell)), flat(cell)
        differing += [
            _shown(f"{at} of cell '{name}'", known.get(at), now.get(at))
            for at in dict.fromkeys((*known, *now))
            if known.get(at) != now.get(at) and at.rpartition(".")[2] != MODELS
        ]
    if differing:
        more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        raise BadInput(f"{begin} differs in {', '.join(differing[:SHOWN])}{more}: {way_out}.")


def _shown(name: str, first: Any, now: Any) -> str:
    return f"{name} ({first} in the first run, {now} in this one)"
