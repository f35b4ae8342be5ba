"""ncu: the hardware's own counters of GPU kernels, through Nsight Compute: its command line and its report.

    sm__ops_path_tensor_src_*_dst_*.sum                     FLOPs of tensor cores: 2 n^3 for a product of side n
    smsp__sass_thread_inst_executed_op_*_pred_on.sum        threads that executed a floating-point instruction
    dram__bytes_read.sum, dram__bytes_write.sum             bytes of device memory

A fused multiply-add is 2 FLOPs, an add or a multiply 1, and twice that in half precision, whose instructions process
two numbers at once. These are the weights of Nsight's own rooflines. Compilers also use such instructions to load
constants and to convert, so the small figure of a bfloat16 model is an upper bound. Exponentials and divisions run on
other units and are not counted.

Nsight Compute replays every kernel once per pass that its metrics need, and restores what it wrote between passes. That
changes the data in the caches: on an H200, three passes made a prefill at 100m read 1.00 GiB instead of 0.51 and write
0.23 instead of 0.48. So tensor cores and bytes, which take one pass there, are counted in one call, and instructions in
another. If the two calls do not see the same kernels in the same order, the second is not used.

The report is written when the program ends: a call that is cut off leaves nothing. So each call counts one case.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hybridbench.processes import last_line, run_program
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
_PASSES, _ID, _KERNEL = "profiler__replayer_passes", "ID", "Kernel Name"
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
        """FLOPs of tensor cores and vector units together."""
        return self.tensor_flops + self.vector_flops


class NoCountersError(Exception):
    """Nsight Compute gave nothing that can be read; the text says why."""


class NeverCountersError(NoCountersError):
    """Nsight Compute works with no program on this machine."""


def find() -> str | None:
    """The ``ncu`` to call: the one on PATH, else the CUDA toolkit's, else the newest that NVIDIA's installer left."""
    if found := shutil.which("ncu"):
        return found
    for place in _PLACES:
        path = Path(place)
        candidates = [path] if path.is_file() else sorted(path.glob("*/ncu"), reverse=True)
        if candidates and os.access(candidates[0], os.X_OK):
            return str(candidates[0])
    return None


def step_metrics(dtype: str) -> tuple[str, ...]:
    """FLOPs of tensor cores and bytes of memory."""
    return (*_TENSOR[dtype], _READ, _WRITTEN)


def vector_metrics(dtype: str) -> tuple[str, ...]:
    """Instructions of vector units."""
    return tuple(_INSTRUCTION.format(name) for name in (_DOUBLE if dtype == "float64" else _PER_INSTRUCTION))


def command(ncu: str, metrics: Sequence[str], log: Path, program: Sequence[str]) -> list[str]:
    """The command line: a row of CSV per kernel into ``log``, clocks and caches left alone, profiling off at first."""
    options = {
        "--profile-from-start": "off",
        "--clock-control": "none",
        "--cache-control": "none",
        "--target-processes": "application-only",
        "--print-units": "base",
        "--print-kernel-base": "demangled",
        "--page": "raw",
        "--metrics": ",".join(metrics),
        "--log-file": str(log),
    }
    return [ncu, "--csv", *(word for pair in options.items() for word in pair), *program]


def run(
    ncu: str,
    metrics: Sequence[str],
    log: Path,
    program: Sequence[str],
    limit_s: float,
    environment: Mapping[str, str] | None = None,
    tick: Callable[[], object] = lambda: None,
) -> str:
    """Runs the program under Nsight Compute and returns its report. Both processes have ended then.

    Args:
        ncu: the profiler to call.
        metrics: names of Nsight Compute's counters.
        log: where the report goes.
        program: the command that is watched.
        limit_s: how long it may take; seconds.
        environment: variables that it has beside those of this process.
        tick: called now and then meanwhile; what it raises ends the program.

    Raises:
        NoCountersError: it could not be started, ran too long, failed, or left no report.
    """
    try:
        code, output, errors = run_program(command(ncu, metrics, log, program), limit_s, tick, environment)
    except OSError as exc:
        raise NeverCountersError(f"{ncu} cannot be started ({exc.strerror})") from exc
    except subprocess.TimeoutExpired as exc:
        raise NoCountersError(f"Nsight Compute had not finished after {format_seconds(limit_s)}") from exc
    report = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    if code or not report:
        said = refusal(report) or refusal(output) or last_line(errors)
        kind = NeverCountersError if _NEVER.search(said) else NoCountersError
        raise kind(f"Nsight Compute ended with exit code {code}: {said}")
    return report


_NEVER = re.compile("ERR_NVGPUCTRPERM|Failed to initialize the profiler")
"""Errors of a machine that gives no permission to read counters, or has no driver for them."""


def refusal(report: str) -> str | None:
    """The first error that Nsight Compute put into its report, as a sentence without its mark."""
    found = re.search(r"^==ERROR== (.+:\n==ERROR== .+|.+)$", report, re.MULTILINE)
    return found[1].replace("\n==ERROR==", "").strip().rstrip(".") if found else None


def parse(report: str) -> list[Launch]:
    """The kernels of a report on ``step_metrics`` in raw CSV, in order, without what ran on vector units.

    Raises:
        NoCountersError: there is no table, or it lacks a column, or a counter has no value.
    """
    table = _Table.read(report)
    tensor = [name for name in table.names if any(name in known for known in _TENSOR.values())]
    if not tensor:
        raise NoCountersError("Nsight Compute's report has no counter of tensor cores")
    tensor_flops = table.summed(dict.fromkeys(tensor, 1))
    read, written = table.summed({_READ: 1}), table.summed({_WRITTEN: 1})
    counted = zip(table.column(_ID), table.column(_KERNEL), tensor_flops, read, written, strict=True)
    return [Launch(int(number), name, tensor, 0, *moved) for number, name, tensor, *moved in counted]


def with_vector(launches: Sequence[Launch], report: str) -> list[Launch]:
    """The kernels with what they ran on vector units, by a report on ``vector_metrics`` of the same step.

    Raises:
        NoCountersError: as of ``parse``, or other kernels ran.
    """
    table = _Table.read(report)
    if table.column(_KERNEL) != [launch.name for launch in launches]:
        raise NoCountersError("other kernels ran while they were counted")
    weights = {_INSTRUCTION.format(name): flops for name, flops in {**_PER_INSTRUCTION, **_DOUBLE}.items()}
    known = {name: flops for name, flops in weights.items() if name in table.names}
    if not known:
        raise NoCountersError("Nsight Compute's report has no counter of instructions")
    return [replace(launch, vector_flops=flops) for launch, flops in zip(launches, table.summed(known), strict=True)]


def passes(report: str) -> int:
    """The largest number of passes in which one kernel was replayed; 0 where the report does not say.

    Raises:
        NoCountersError: there is no table.
    """
    table = _Table.read(report)
    return max(table.summed({_PASSES: 1}), default=0) if _PASSES in table.names else 0


@dataclass(frozen=True)
class _Table:
    """A report in raw CSV: names of columns, their units (which some reports lack), and one row per kernel."""

    names: list[str]
    units: list[str]
    rows: list[list[str]]

    @classmethod
    def read(cls, report: str) -> _Table:
        """A report begins with lines of Nsight's own; every cell of the table is quoted, numbers have separators.

        Raises:
            NoCountersError: there is no table.
        """
        lines = report.splitlines()
        start = next((place for place, line in enumerate(lines) if line.startswith('"ID"')), None)
        if start is None:
            raise NoCountersError(refusal(report) or "Nsight Compute's report has no table: no kernel was profiled")
        names, *rows = csv.reader(line for line in lines[start:] if line.startswith('"'))
        if rows and not rows[0][0]:
            return cls(names, rows[0], rows[1:])
        return cls(names, [], rows)

    def column(self, name: str) -> list[str]:
        """The cells under a name.

        Raises:
            NoCountersError: there is no such column.
        """
        if name not in self.names:
            raise NoCountersError(f"Nsight Compute's report has no column {name}")
        place = self.names.index(name)
        return [row[place] for row in self.rows]

    def summed(self, weights: Mapping[str, int]) -> list[int]:
        """For each kernel the weighted sum of some columns.

        Raises:
            NoCountersError: there is no such column, or a cell is no number.
        """
        sums = [0] * len(self.rows)
        for name, weight in weights.items():
            size = _size(self.units[self.names.index(name)] if self.units and name in self.names else "")
            for place, text in enumerate(self.column(name)):
                try:
                    sums[place] += weight * round(float(text.replace(",", "")) * size)
                except ValueError as exc:
                    kernel = self.column(_KERNEL)[place][:60]
                    raise NoCountersError(f"Nsight Compute counted no {name} of {kernel}: {text!r}") from exc
        return sums


_PREFIXES = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def _size(unit: str) -> float:
    """What a unit is worth, where Nsight scaled it although base units were asked for: 1e9 for ``Gbyte``."""
    return _PREFIXES.get(unit[:1], 1.0) if unit[1:].lower() in ("byte", "inst") else 1.0
