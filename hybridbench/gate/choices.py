"""choices: what the first pair decided for a cell, which holds for both sides and for all pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hybridbench.files import RECORDS_BYTES, from_json, read_text
from hybridbench.gate.cells import CheckCell


@dataclass
class Choices:
    """What the first pair's base chose for a cell, and what the change would choose.

    Attributes:
        backend: the base's; None where the cell names one.
        pinned: the configurations of the base's autotuners, as JSON values.
        graph: whether calls are replayed from a graph: where either side launches slower than it runs. None where it is
            not known, so that each process finds out.
        own_backend: the change's own.
        own_tuning: the configurations that the change would take and the base does not, as sentences.
        planted: parts of planted work (``side.planted``), by its share of the call as text.
    """

    backend: str | None = None
    pinned: list[dict[str, Any]] = field(default_factory=list)
    graph: bool | None = None
    own_backend: str | None = None
    own_tuning: list[str] = field(default_factory=list)
    planted: dict[str, int] = field(default_factory=dict)

    def remarks(self, cell: str) -> list[str]:
        """Sentences about what the change would choose differently."""
        said = [f"{cell}: the change's tuner would take {one}." for one in self.own_tuning]
        if self.own_backend and self.backend and self.own_backend != self.backend:
            said.insert(0, f"{cell}: the change would take backend {self.own_backend}; timed is {self.backend}.")
        return said


def chosen(base: Mapping[str, Any], head: Mapping[str, Any], choice: Choices) -> Choices:
    """What holds from the first pair on, from what both sides said when they were prepared.

    Args:
        choice: as it was for the head: the base's backend and configurations.
    """
    graphs = [one["graph"] for one in (base, head) if one.get("graph") is not None]
    return Choices(
        choice.backend,
        choice.pinned,
        any(graphs) if graphs else None,
        head["facts"].get("own_backend"),
        own_tuning(choice.pinned, head["chosen"]),
    )


def of_base(cell: CheckCell, base: Mapping[str, Any]) -> Choices:
    """What the base chose, which the change is to take."""
    auto = cell.what == "kernel" and cell.base["backend"] == "auto"
    return Choices(base["facts"].get("backend") if auto else None, base["chosen"])


def own_tuning(pinned: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the change chose where the base chose otherwise for the same kernel and problem, as phrases."""
    of_base = {(one["kernel"], str(one["key"])): one["configuration"] for one in pinned}
    said = []
    for one in found:
        there = of_base.get((one["kernel"], str(one["key"])))
        if there is not None and there != one["configuration"]:
            said.append(f"'{one['configuration']}' for {one['kernel']}, where the base takes '{there}'")
    return list(dict.fromkeys(said))


def renamed(pinned: list[dict[str, Any]], cell: CheckCell) -> list[dict[str, Any]]:
    """Configurations for the change's module, where a kernel of one's own stands in another one on the base."""
    names = [str(body.get("backend", "")).partition(":") for body in (cell.base, cell.head)]
    (base, of_base, _), (head, of_head, _) = names
    if not (of_base and of_head):
        return pinned
    return [{**one, "module": head} if one["module"] == base else one for one in pinned]


OF = ("machine", "versions", "source")
"""What of a run decides whether its choices hold for another one."""


def write_choices(choices: Mapping[str, Choices], run: Mapping[str, Any], path: Path) -> None:
    """Keep choices for later runs of the same code on the same kind of machine, beside those that are kept already.

    Args:
        run: the first line of a run (``pool.run_of``), with the cells.
    """
    kept = _kept(path, run)
    kept |= {name: {"cell": run["cells"][name], "choice": asdict(one)} for name, one in choices.items()}
    path.write_text(json.dumps({"of": {name: run[name] for name in OF}, "cells": kept}) + "\n", encoding="utf-8")


def read_choices(path: Path, run: Mapping[str, Any]) -> dict[str, Choices]:
    """The choices that an earlier run kept of the cells of a run; none where they are of another code or machine."""
    found = {name: one for name, one in _kept(path, run).items() if run["cells"].get(name) == one.get("cell")}
    try:
        return {name: Choices(**one["choice"]) for name, one in found.items()}
    except (KeyError, TypeError):
        return {}


def _kept(path: Path, run: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    try:
        body = from_json(read_text(path, RECORDS_BYTES))
        return dict(body["cells"]) if body["of"] == {name: run[name] for name in OF} else {}
    except (ValueError, KeyError, TypeError, AttributeError):  # there is none, or it is damaged
        return {}
