"""file: a suite, which is a named list of sweeps, and the TOML it is read from.

name = "smoke"
[defaults]
scale = "tiny"
[[sweep]]
workload = "decode"
arch = "transformer,mamba"
ctx = "1k..4k"
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hybridbench.errors import BadInput, unknown_name
from hybridbench.suite.case import Case
from hybridbench.suite.ops import check_backends_used
from hybridbench.suite.sweep import Sweep, cases, merged_ratios
from hybridbench.suite.workloads import WORKLOADS, workload_row


@dataclass(frozen=True)
class Suite:
    """A named list of sweeps."""

    name: str
    sweeps: tuple[Sweep, ...]

    def cases(self, *, has_gpu: bool) -> list[Case]:
        """All cases, each once, in the order of the sweeps."""
        made = [case for sweep in self.sweeps for case in cases(sweep, has_gpu=has_gpu)]
        check_backends_used([op for sweep in self.sweeps for op in sweep.backends], made)
        return list({case.key: case for case in made}.values())

    def merged_ratios(self, *, has_gpu: bool) -> list[str]:
        """A sentence for each stack that several ratios of a sweep round to, and that is one case therefore."""
        return list(dict.fromkeys(said for sweep in self.sweeps for said in merged_ratios(sweep, has_gpu=has_gpu)))


def as_published(suite: Suite) -> Suite:
    """The suite's decode and generate sweeps in mode published, which training and prefill do not have.

    Raises:
        BadInput: the suite decodes nothing.
    """
    decoding = [sweep for sweep in suite.sweeps if workload_row(sweep.workload).decodes]
    sweeps = tuple(replace(sweep, as_published=True) for sweep in decoding)
    if not sweeps:
        raise BadInput(f"suite {suite.name} neither decodes nor generates: nothing in it can be run as published.")
    return Suite(f"{suite.name}-as-published", sweeps)


def load_suite(path: Path) -> Suite:
    """A suite from a TOML file.

    Raises:
        BadInput: no such file, not TOML, an unknown table or key (named), a value of the wrong type.
    """
    body = _read(path)
    tables = body.get("sweep", [])
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise BadInput(f"{path} has no [[sweep]] table: a suite needs at least one.")
    name = _name(body.get("name", path.stem), path)
    defaults = _checked(body.get("defaults", {}), path, "[defaults]")
    made = []
    for index, table in enumerate(tables, start=1):
        merged = {**defaults, **_checked(table, path, f"[[sweep]] {index}")}
        if "workload" not in merged:
            raise BadInput(f"{path}: [[sweep]] {index} has no workload: give one of {', '.join(WORKLOADS)}.")
        made.append(Sweep(**merged))
    return Suite(name, tuple(made))


def _read(path: Path) -> dict[str, Any]:
    """The tables and keys at the top of a TOML file."""
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as exc:
        raise BadInput(f"no suite at {path}: give the path of a TOML file such as suites/smoke.toml.") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise BadInput(f"{path} cannot be read as a suite ({exc}): give the path of a TOML file.") from exc
    except tomllib.TOMLDecodeError as exc:
        raise BadInput(f"{path} is not TOML: {exc}.") from exc
    for key in body:
        if key not in ("name", "defaults", "sweep"):
            raise BadInput(f"{path}: unknown key '{key}' at the top: known are name, [defaults] and [[sweep]].")
    return body


def _name(name: Any, path: Path) -> str:
    if not isinstance(name, str):
        raise BadInput(f"{path}: name is {name!r}, not text.")
    if not name or Path(name).name != name:
        raise BadInput(f"{path}: name is {name!r}, but a folder is named after it: give one word.")
    return name


_TYPE_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table"}
_SWEEP_TYPES: dict[str, tuple[type, ...]] = {
    **{f.name: (str,) for f in fields(Sweep)},
    **dict.fromkeys(("window", "sinks", "prompt", "depths", "streams", "seed", "min_samples"), (int,)),
    **dict.fromkeys(("max_time_s", "limit_s"), (int, float)),
    **dict.fromkeys(("moe", "as_published"), (bool,)),
    "backends": (dict,),
}
_NUMBERS = ("ctx", "batch", "positions")


def _checked(table: Any, path: Path, where: str) -> dict[str, Any]:
    """A table's values, with lists and plain numbers turned into the text a person would type."""
    if not isinstance(table, dict):
        raise BadInput(f"{path}: {where} is {table!r}, not a table.")
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _SWEEP_TYPES:
            raise BadInput(f"{path}: {where}: {unknown_name('key', key, _SWEEP_TYPES)}")
        if key in _NUMBERS and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, list) and _SWEEP_TYPES[key] == (str,):
            if not value:
                raise BadInput(f"{path}: {where}: {key} is an empty list: give at least one value, or leave it out.")
            value = ",".join(str(item) for item in value)
        types = _SWEEP_TYPES[key]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            wanted = " or ".join(_TYPE_WORDS[t] for t in types)
            raise BadInput(f"{path}: {where}: {key} is {value!r}, where {wanted} is expected.")
        if isinstance(value, dict) and not all(isinstance(name, str) for name in value.values()):
            raise BadInput(f"{path}: {where}: backends is {value!r}, where each operation names a backend as text.")
        values[key] = value
    return values
