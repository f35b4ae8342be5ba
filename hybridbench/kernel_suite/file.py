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

from dataclasses import fields
from pathlib import Path
from typing import Any

from hybridbench.errors import BadInput, unknown_name
from hybridbench.files import SUITE_BYTES, Damaged, Missing, from_toml, read_text
from hybridbench.kernel_suite.cell import Cell
from hybridbench.kernel_suite.plan import Ask, cells

NUMBERS = ("ctx", "batch")
TYPES: dict[str, tuple[type, ...]] = {
    **{one.name: (str,) for one in fields(Ask) if one.name != "kernel"},
    "backends": (list,),
    "problem": (dict, str),
    "hot": (bool,),
    **dict.fromkeys(("seed", "min_samples"), (int,)),
    **dict.fromkeys(("max_time_s", "limit_s"), (int, float)),
}


def load(path: Path) -> tuple[str, list[Ask]]:
    """The name of a suite and what it asks for.

    Raises:
        BadInput: no such file, not TOML, an unknown key (named), a value of the wrong type.
    """
    try:
        body = from_toml(read_text(path, SUITE_BYTES))
    except Missing as exc:
        raise BadInput(f"no suite at {path}: give the path of a TOML file such as suites/kernels.toml.") from exc
    except Damaged as exc:
        raise BadInput(f"{path} cannot be read as a suite: it {exc}.") from exc
    for key in body:
        if key not in ("name", "defaults", "kernels"):
            raise BadInput(f"{path}: unknown key '{key}' at the top: known are name, [defaults] and [[kernels]].")
    tables = body.get("kernels", [])
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise BadInput(f"{path} has no [[kernels]] table: a suite of kernels needs at least one.")
    name = body.get("name", path.stem)
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise BadInput(f"{path}: name is {name!r}, but a folder is named after it: give one word.")
    defaults = _checked(body.get("defaults", {}), f"{path}: [defaults]")
    asks = []
    for number, table in enumerate(tables, start=1):
        asks.append(Ask(**{**defaults, **_checked(table, f"{path}: [[kernels]] {number}")}))
    return name, asks


def cells_of(asks: list[Ask], *, has_gpu: bool) -> list[Cell]:
    """All cells, each once, in the order of the tables."""
    made = [cell for ask in asks for cell in cells(ask, has_gpu=has_gpu)]
    return list({cell.key: cell for cell in made}.values())


def _checked(table: Any, where: str) -> dict[str, Any]:
    """A table's values, with lists and plain numbers turned into the text that a person would type."""
    if not isinstance(table, dict):
        raise BadInput(f"{where} is {table!r}, not a table.")
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in TYPES:
            raise BadInput(f"{where}: {unknown_name('key', key, TYPES)}")
        if key in NUMBERS and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, list) and TYPES[key] == (str,):
            value = ",".join(str(item) for item in value)
        if not isinstance(value, TYPES[key]) or (isinstance(value, bool) and bool not in TYPES[key]):
            wanted = " or ".join(kind.__name__ for kind in TYPES[key])
            raise BadInput(f"{where}: {key} is {value!r}, where {wanted} is expected.")
        if key == "problem" and isinstance(value, dict):
            value = ",".join(f"{name}={size}" for name, size in value.items())
        if key == "backends":
            value = tuple(str(one) for one in value)
        values[key] = value
    return values
