"""cells: what a check times: operations by themselves and steps of models, each with its name and kind.

Both sides have the same cell, but where a kernel of one's own stands against another one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from hybridbench.errors import BadInput
from hybridbench.kernel_suite import file
from hybridbench.kernel_suite.cell import Cell
from hybridbench.kernel_suite.plan import KernelOptions, cells
from hybridbench.kernel_suite.problems import TIMED
from hybridbench.suite.case import GRAPH, Case
from hybridbench.suite.file import load_suite
from hybridbench.suite.tables import within
from hybridbench.suite.workloads import DECODE

DEFAULT_OPS = ("swiglu", "add_rms_norm", "attention", "ssd")
"""What is timed where nothing is named: one operation of each sort, of the inter-layer hybrid."""
AUTO = "auto"


@dataclass(frozen=True)
class CheckCell:
    """One cell of a check.

    Args:
        name: the same on both sides, and in the files of calibrations and accepted regressions.
        kind: a name in ``kinds.KINDS``.
        what: ``kernel`` or ``step``.
        base, head: the cell of each side as JSON values.
        limit_s: after so many seconds a side that answers nothing is ended.
        device: ``cpu`` or ``cuda``.
        planted: shares of work that the change is also timed with in addition, for the proof of the gate.
        unplanted: whether it is timed without them too.
        plain: fields of the cell that are at their default, as dotted paths: a base that lacks one does the same.
    """

    name: str
    kind: str
    what: str
    base: Mapping[str, Any]
    head: Mapping[str, Any]
    limit_s: float
    device: str
    planted: tuple[float, ...] = ()
    unplanted: bool = True
    plain: tuple[str, ...] = ()


def defaults_of(made: Any, at: str = "") -> tuple[str, ...]:
    """The fields of a dataclass, and of those that it holds, that are at their default, as dotted paths."""
    found: list[str] = []
    for one in fields(made):
        value, path = getattr(made, one.name), f"{at}{one.name}"
        if is_dataclass(value):
            found += defaults_of(value, f"{path}.")
        elif one.default is not MISSING and value == one.default:
            found.append(path)
    return tuple(found)


def of_kernel(cell: Cell, base_kernel: str | None = None) -> CheckCell:
    """The cell of an operation.

    Args:
        base_kernel: the function that stands for it on the base; None for the same as in the change.
    """
    base = cell if base_kernel is None else replace(cell, backend=base_kernel)
    name = cell.label + ("" if cell.sampling.cold else ", hot")
    kind = "cpu" if cell.device == "cpu" else "kernel"
    bodies = base.to_dict(), cell.to_dict()
    return CheckCell(name, kind, "kernel", *bodies, cell.limit_s, cell.device, plain=defaults_of(cell))


def of_step(case: Case) -> CheckCell:
    """The cell of a model's step."""
    kind = "cpu" if case.device == "cpu" else "training"
    if case.device != "cpu" and case.execution.mode == GRAPH and case.workload.kind == DECODE:
        kind = "step"
    body = case.to_dict()
    name, plain = f"{case.label}, {case.how}", defaults_of(case)
    return CheckCell(name, kind, "step", body, body, case.limit_s, case.device, plain=plain)


def asked(
    words: Sequence[str],
    *,
    has_gpu: bool,
    kernels: Mapping[str, str],
    base_kernels: Mapping[str, str],
    **ask: Any,
) -> list[CheckCell]:
    """The cells of what a person names: operations, or TOML files of kernels or of steps.

    Args:
        words: names of operations, or paths that end in ``.toml``; empty for ``DEFAULT_OPS``.
        kernels, base_kernels: functions as ``package.module:function`` by operation, of the change and of the base.
        ask: fields of ``plan.KernelOptions``, for operations.

    Raises:
        BadInput: a name that there is not, a file that is no suite, or words that do not go together.
    """
    files = [Path(word) for word in words if word.endswith(".toml")]
    more = [*(word for word in words if not word.endswith(".toml")), *kernels, *base_kernels]
    if files and (more or any(value is not None for value in ask.values())):
        raise BadInput(f"{files[0]} with operations or their options: a suite says all that is timed; give it alone.")
    if files:
        found = [one for path in files for one in _of_file(path, has_gpu)]
    else:
        found = _of_operations(words, has_gpu, kernels, base_kernels, ask)
    twice = sorted({one.name for one in found if [other.name for other in found].count(one.name) > 1})
    if twice:
        raise BadInput(f"'{twice[0]}' is timed twice with different settings: leave one of them out.")
    return found


def _of_file(path: Path, has_gpu: bool) -> list[CheckCell]:
    """The cells of a suite of kernels or of steps, by the tables that it has."""
    try:
        kernels = "kernels" in tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        kernels = True  # its reader says what is wrong
    if not kernels:
        return [of_step(case) for case in load_suite(path).cases(has_gpu=has_gpu)]
    made = list[Cell]()
    for place, ask in file.load(path)[1].items():
        with within(place):
            made += _made(ask, has_gpu)
    return [of_kernel(cell) for cell in {cell.key: cell for cell in made}.values()]


def _made(ask: KernelOptions, has_gpu: bool) -> list[Cell]:
    """The cells of what is asked for, by the backends named, or else by the one that each side takes of itself."""
    made = cells(ask, has_gpu=has_gpu)
    if not ask.backends:
        made = [replace(cell, backend=AUTO) for cell in made]
    return list({cell.key: cell for cell in made}.values())


def _of_operations(
    words: Sequence[str],
    has_gpu: bool,
    kernels: Mapping[str, str],
    base_kernels: Mapping[str, str],
    ask: dict[str, Any],
) -> list[CheckCell]:
    for op in base_kernels:
        if op not in kernels:
            raise BadInput(f"--base-kernel {op}=... without --kernel {op}=...: name the one that is compared with it.")
    ops = list(dict.fromkeys([*words, *(kernels if not words else ())])) or list(DEFAULT_OPS)
    for op in kernels:
        if op not in ops:
            raise BadInput(f"--kernel for {op}, which is not among {', '.join(ops)}: name it too, or leave these out.")
    wanted = KernelOptions(ops=",".join(ops), **ask)
    on_cpu = wanted.device == "cpu" or (wanted.device is None and not has_gpu)
    if not words and not kernels:
        wanted = replace(wanted, arch="inter", direction=wanted.direction or "forward")
    made = _made(replace(wanted, hot=on_cpu), has_gpu)
    own = [replace(cell, backend=kernels.get(cell.op, cell.backend)) for cell in made]
    return [of_kernel(cell, base_kernels.get(cell.op)) for cell in own]


def parse_kernels(option: str, values: Sequence[str]) -> dict[str, str]:
    """``OP=package.module:function``, given any number of times, by operation.

    Raises:
        BadInput: another form, an operation that is not timed, or one that is named twice.
    """
    found: dict[str, str] = {}
    for text in values:
        op, equals, path = (part.strip() for part in text.partition("="))
        module, colon, name = path.partition(":")
        if not (equals and op and module and colon and name):
            raise BadInput(f"{option} '{text}' is not OP=package.module:function: write swiglu=mypkg.fast:swiglu.")
        if op not in TIMED:
            raise BadInput(f"{option} '{text}': '{op}' is no operation that is timed; they are {', '.join(TIMED)}.")
        if op in found:
            raise BadInput(f"{option} names {op} twice: give it once.")
        found[op] = path
    return found
