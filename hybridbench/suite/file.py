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

import itertools
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hybridbench.errors import BadInput
from hybridbench.suite.case import Case
from hybridbench.suite.ops import check_backends_used
from hybridbench.suite.sweep import Sweep, cases, merged_ratios
from hybridbench.suite.tables import checked, name_of, top, within
from hybridbench.suite.workloads import WORKLOADS, workload_row
from hybridbench.text import shown


@dataclass(frozen=True)
class Suite:
    """A named list of sweeps.

    Args:
        places: where each sweep stands in a file, in words; none for those of no file.
    """

    name: str
    sweeps: tuple[Sweep, ...]
    places: tuple[str, ...] = ()

    def cases(self, *, has_gpu: bool) -> list[Case]:
        """All cases, each once, in the order of the sweeps.

        Raises:
            BadInput: a value of a sweep is wrong; names the sweep's place, where that is known.
        """
        made: list[Case] = []
        for sweep, place in itertools.zip_longest(self.sweeps, self.places):
            with within(place):
                made += cases(sweep, has_gpu=has_gpu)
        check_backends_used([op for sweep in self.sweeps for op in sweep.backends], made)
        return list({case.key: case for case in made}.values())

    def merged_ratios(self, *, has_gpu: bool) -> list[str]:
        """A sentence for each stack that several ratios of a sweep round to, and that is one case therefore."""
        return list(dict.fromkeys(said for sweep in self.sweeps for said in merged_ratios(sweep, has_gpu=has_gpu)))


def decoding_as_published(suite: Suite) -> Suite:
    """The suite's decode and generate sweeps in mode published, which training and prefill do not have.

    Raises:
        BadInput: the suite decodes nothing.
    """
    decoding = [workload_row(sweep.workload).decodes for sweep in suite.sweeps]
    sweeps = tuple(replace(sweep, as_published=True) for sweep in itertools.compress(suite.sweeps, decoding))
    if not sweeps:
        raise BadInput(f"suite {suite.name} neither decodes nor generates: nothing in it can be run as published.")
    return Suite(f"{suite.name}-as-published", sweeps, tuple(itertools.compress(suite.places, decoding)))


def load_suite(path: Path) -> Suite:
    """A suite from a TOML file.

    Raises:
        BadInput: no such file, not TOML, an unknown table or key (named), a value of the wrong type.
    """
    body = top(path, "sweep")
    name = name_of(body, path)
    defaults = _checked(body.get("defaults", {}), f"{path}: [defaults]")
    made: dict[str, Sweep] = {}
    for index, table in enumerate(body["sweep"], start=1):
        place = f"{path}: [[sweep]] {index}"
        merged = {**defaults, **_checked(table, place)}
        if "workload" not in merged:
            raise BadInput(f"{place} has no workload: give one of {', '.join(WORKLOADS)}.")
        made[place] = Sweep(**merged)
    return Suite(name, tuple(made.values()), tuple(made))


_SWEEP_TYPES: dict[str, tuple[type, ...]] = {
    **{f.name: (str,) for f in fields(Sweep)},
    **dict.fromkeys(("window", "sinks", "prompt", "depths", "streams", "seed", "min_samples"), (int,)),
    **dict.fromkeys(("max_time_s", "limit_s"), (int, float)),
    **dict.fromkeys(("moe", "as_published"), (bool,)),
    "backends": (dict,),
}
_NUMBERS = ("ctx", "batch", "positions", "gpus", "tp")


def _checked(table: Any, where: str) -> dict[str, Any]:
    """A table's values as a sweep takes them."""
    values = checked(table, _SWEEP_TYPES, where, _NUMBERS)
    backends = values.get("backends", {})
    if not all(isinstance(name, str) for name in backends.values()):
        raise BadInput(f"{where}: backends is {shown(backends)}, where each operation names a backend as text.")
    return values
