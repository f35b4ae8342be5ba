"""file: a suite of kernels, a TOML file of what to time.

name = "kernels"
[defaults]
ctx = "8k"
batch = 4
[[kernels]]
ops = "attention,swiglu"
arch = "inter"
[[kernels]]
ops = "product"
problem = {d_model = 2048, width = 16384, length = 8192, batch = 4}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from hybridbench.kernel_suite.cell import Cell
from hybridbench.kernel_suite.plan import KernelOptions, cells
from hybridbench.suite.tables import checked, name_of, top, within

NUMBERS = ("ctx", "batch")
TYPES: dict[str, tuple[type, ...]] = {
    **{one.name: (str,) for one in fields(KernelOptions) if one.name != "kernel"},
    "backends": (list,),
    "problem": (dict, str),
    **dict.fromkeys(("hot", "sustained"), (bool,)),
    **dict.fromkeys(("seed", "min_samples"), (int,)),
    **dict.fromkeys(("max_time_s", "limit_s"), (int, float)),
}


def load(path: Path) -> tuple[str, dict[str, KernelOptions]]:
    """The name of a suite and what it asks for, by where that stands.

    Raises:
        BadInput: no such file, not TOML, an unknown key (named), a value of the wrong type.
    """
    body = top(path, "kernels")
    name = name_of(body, path)
    defaults = _checked(body.get("defaults", {}), f"{path}: [defaults]")
    asks = {}
    for number, table in enumerate(body["kernels"], start=1):
        place = f"{path}: [[kernels]] {number}"
        asks[place] = KernelOptions(**{**defaults, **_checked(table, place)})
    return name, asks


def cells_of(asks: Mapping[str, KernelOptions], *, has_gpu: bool) -> list[Cell]:
    """All cells, each once, in the order of the tables.

    Raises:
        BadInput: a value is wrong; names its table.
    """
    made: list[Cell] = []
    for place, ask in asks.items():
        with within(place):
            made += cells(ask, has_gpu=has_gpu)
    return list({cell.key: cell for cell in made}.values())


def _checked(table: Any, where: str) -> dict[str, Any]:
    """A table's values as ``KernelOptions`` takes them."""
    values = checked(table, TYPES, where, NUMBERS)
    if isinstance(values.get("problem"), dict):
        values["problem"] = ",".join(f"{name}={size}" for name, size in values["problem"].items())
    if "backends" in values:
        values["backends"] = tuple(str(one) for one in values["backends"])
    return values
