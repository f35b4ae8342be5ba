"""ncu: the hardware's own counters of GPU kernels, through Nsight Compute: how it is called and how its report is read.

    sm__ops_path_tensor_src_*_dst_*.sum                     FLOPs of tensor cores: 2 n^3 for a product of side n
    smsp__sass_thread_inst_executed_op_*_pred_on.sum        threads that executed a floating-point instruction
    dram__bytes_read.sum, dram__bytes_write.sum             bytes of device memory

A fused multiply-add is 2 FLOPs, an add or a multiply 1, and twice that in half precision, whose instructions take two
numbers at once: the weights of Nsight's own rooflines. Compilers also use such instructions to load constants, and
conversions are among them, so that what little of them a bfloat16 model has is an upper bound.
Exponentials and divisions run elsewhere and are not among these. Every kernel is replayed once per pass that its
metrics need, with caches as the pass before left them, so that with more than one pass bytes read are too few.

The report is written when the program has ended: of a call that is cut off nothing is left. So a call is one case.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hybridbench.count.processes import last_line, run_program
from hybridbench.units import format_seconds

_TENSOR = {
    "bfloat16": ("sm__ops_path_tensor_src_bf16_dst_fp32.sum",),
    "float16": ("sm__ops_path_tensor_src_fp16_dst_fp32.sum", "sm__ops_path_tensor_src_fp16_dst_fp16.sum"),
    "float32": ("sm__ops_path_tensor_src_tf32_dst_fp32.sum",),
    "float64": ("sm__ops_path_tensor_src_fp64.sum",),
}
_INSTRUCTION = "smsp__sass_thread_inst_executed_op_{}_pred_on.sum"
_PER_INSTRUCTION = {"ffma": 2, "fadd": 1, "fmul": 1, "hfma": 4, "hadd": 2, "hmul": 2}
_DOUBLE = {"dfma": 2, "dadd": 1, "dmul": 1}
_READ, _WRITTEN = "dram__bytes_read.sum", "dram__bytes_write.sum"
_PASSES = "profiler__replayer_passes"
_PLACES = ("/usr/local/cuda/bin/ncu", "/opt/nvidia/nsight-compute")


@dataclass(frozen=True)
class Launch:
    """One kernel that ran, in order of ``number``."""

    number: int
    name: str
    tensor_flops: int
    vector_flops: int
    read_bytes: int
    written_bytes: int

    @property
    def flops(self) -> int:
        return self.tensor_flops + self.vector_flops


class NoCounters(Exception):
    """Nsight Compute gave nothing that can be read; the text says why."""


class NeverCounters(NoCounters):
    """It gives nothing on this machine, whatever the program."""


def find() -> str | None:
    """The ``ncu`` to call: that of the path, else of the CUDA toolkit, else the newest that NVIDIA's installer left."""
    if found := shutil.which("ncu"):
        return found
    for place in _PLACES:
        path = Path(place)
        candidates = [path] if path.is_file() else sorted(path.glob("*/ncu"), reverse=True)
        if candidates and os.access(candidates[0], os.X_OK):
            return str(candidates[0])
    return None


def metrics(dtype: str, vector: bool = True) -> tuple[str, ...]:
    """The metrics collected for a dtype; without ``vector`` those of tensor cores and memory alone."""
    instructions = [_INSTRUCTION.format(name) for name in _instructions(dtype)] if vector else []
    return (*_TENSOR[dtype], *instructions, _READ, _WRITTEN)


def _instructions(dtype: str) -> dict[str, int]:
    return _DOUBLE if dtype == "float64" else _PER_INSTRUCTION


def command(ncu: str, dtype: str, log: Path, program: Sequence[str], vector: bool = True) -> list[str]:
    """The call: a row of CSV a kernel into ``log``, clocks and caches as they are, nothing until the program asks."""
    options = {
        "--profile-from-start": "off",
        "--clock-control": "none",
        "--cache-control": "none",
        "--target-processes": "application-only",
        "--print-units": "base",
        "--print-kernel-base": "demangled",
        "--page": "raw",
        "--metrics": ",".join(metrics(dtype, vector)),
        "--log-file": str(log),
    }
    return [ncu, "--csv", *(word for pair in options.items() for word in pair), *program]


def run(ncu: str, dtype: str, log: Path, program: Sequence[str], vector: bool, limit_s: float) -> str:
    """Runs the program under Nsight Compute and returns its report; neither lives on.

    Raises:
        NoCounters: it could not be started, ran too long, failed, or left no report.
    """
    try:
        code, output, errors = run_program(command(ncu, dtype, log, program, vector), limit_s)
    except OSError as exc:
        raise NeverCounters(f"{ncu} cannot be started ({exc.strerror})") from exc
    except subprocess.TimeoutExpired as exc:
        raise NoCounters(f"Nsight Compute had not finished after {format_seconds(limit_s)}") from exc
    report = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    if code or not report:
        said = refusal(report) or refusal(output) or last_line(errors)
        kind = NeverCounters if _NEVER.search(said) else NoCounters
        raise kind(f"Nsight Compute ended with exit code {code}: {said}")
    return report


_NEVER = re.compile("ERR_NVGPUCTRPERM|Failed to initialize the profiler")
"""No permission to read counters, and no driver that has them."""


def refusal(report: str) -> str | None:
    """The first error that Nsight Compute put into its report, as a sentence without its mark."""
    found = re.search(r"^==ERROR== (.+:\n==ERROR== .+|.+)$", report, re.MULTILINE)
    return found[1].replace("\n==ERROR==", "").strip().rstrip(".") if found else None


def passes(report: str) -> int:
    """The most passes that one kernel was replayed for; 0 where the report does not say.

    Raises:
        NoCounters: there is no table.
    """
    names, _, kernels = _table(report)
    if _PASSES not in names:
        return 0
    column = names.index(_PASSES)
    return max((int(row[column]) for row in kernels if row[column].isdecimal()), default=0)


def _table(report: str) -> tuple[list[str], list[str], list[list[str]]]:
    """Names, units and rows of a report in raw CSV.

    It begins with lines of Nsight's own; then come a row of names, a row of units, and a row per kernel, every cell
    quoted, numbers with separators. A report without a row of units has none.

    Raises:
        NoCounters: there is no table.
    """
    lines = report.splitlines()
    start = next((place for place, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        raise NoCounters(refusal(report) or "Nsight Compute's report has no table: no kernel was profiled")
    names, *rows = list(csv.reader(line for line in lines[start:] if line.startswith('"')))
    if rows and not rows[0][0]:
        return names, rows[0], rows[1:]
    return names, [], rows


def parse(report: str) -> list[Launch]:
    """The kernels of a report in raw CSV, in order.

    Raises:
        NoCounters: there is no table, or it lacks a column, or a counter has no value.
    """
    names, units, kernels = _table(report)
    place = {name: column for column, name in enumerate(names)}
    for needed in ("ID", "Kernel Name", _READ, _WRITTEN):
        if needed not in place:
            raise NoCounters(f"Nsight Compute's report has no column {needed}")
    weights = {_INSTRUCTION.format(name): flops for name, flops in {**_PER_INSTRUCTION, **_DOUBLE}.items()}
    tensor = [name for name in names if any(name in known for known in _TENSOR.values())]
    if not tensor:
        raise NoCounters("Nsight Compute's report has no counter of tensor cores")

    def number(row: Sequence[str], name: str) -> int:
        text = row[place[name]].replace(",", "")
        try:
            value = float(text)
        except ValueError as exc:
            raise NoCounters(f"Nsight Compute counted no {name} of {row[place['Kernel Name']][:60]}: {text!r}") from exc
        return round(value * _size(units[place[name]] if units else ""))

    return [
        Launch(
            number=number(row, "ID"),
            name=row[place["Kernel Name"]],
            tensor_flops=sum(number(row, name) for name in tensor),
            vector_flops=sum(flops * number(row, name) for name, flops in weights.items() if name in place),
            read_bytes=number(row, _READ),
            written_bytes=number(row, _WRITTEN),
        )
        for row in kernels
    ]


_PREFIXES = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def _size(unit: str) -> float:
    """What a unit is worth, where Nsight scaled it although base units were asked for: 1e9 for ``Gbyte``."""
    return _PREFIXES.get(unit[:1], 1.0) if unit[1:].lower() in ("byte", "inst") else 1.0
