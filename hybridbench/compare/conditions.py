"""conditions: the machine and the software of a record, as conditions of its cell, and the caveats that deny a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hybridbench.record import Caveat, Ceilings, Environment, said_of
from hybridbench.stats import median

_BESIDE = ("fvcore", "nvidia-ml-py")
"""Packages that a record names and nothing that is timed runs."""
DENYING = (Caveat.SHARED_GPU, Caveat.SHARED_CPU, Caveat.SHORT_STEP, Caveat.RECOMPILED, Caveat.BEYOND_LIMIT)
"""Caveats that deny a time: no interval knows how far off it is. Unsteady samples deny it on a CPU, where the same code
differed by 2.4 times as other work came and went; on a GPU they widen the interval, as a clock that dropped does."""


def conditions(environment: Environment, schema: str) -> dict[str, str]:
    """The machine and the software, by name of each field."""
    on_cpu = environment.device_kind == "cpu"
    packages = sorted(environment.packages.items())
    return {
        "device": environment.device,
        "cpu": environment.cpu,
        "cores": str(environment.cores),
        "threads": _or_unknown(environment.threads) if on_cpu else "",
        "schema": schema,
        "python": environment.python,
        "driver": _or_unknown(environment.driver),
        "cuda": _or_unknown(environment.cuda),
        "packages": " ".join(f"{name}={version}" for name, version in packages if name not in _BESIDE),
    }


def made_by(environment: Environment) -> str:
    """Version and commit of hybridbench, in words."""
    return f"hybridbench {environment.hybridbench}, commit {environment.git_commit or 'unknown'}"


def canaries(environment: Environment, rates: Ceilings | None, loop_ns: Sequence[int] = ()) -> tuple[float, ...]:
    """On a CPU, the rates of a product, of reading memory and of a fixed loop: what others left of it in that process.

    Args:
        rates: the first two, measured before the cell.
        loop_ns: times of the loop between the cell's samples; none in records of before there was one.
    """
    if rates is None or environment.device_kind != "cpu":
        return ()
    loop = (1 / median(loop_ns),) if loop_ns else ()
    return rates.matmul_flops_per_s, rates.read_bytes_per_s, *loop


def denied(environment: Environment, caveats: Iterable[Caveat]) -> list[Caveat]:
    """The caveats that deny a time."""
    on_cpu = (Caveat.UNSTEADY,) if environment.device_kind == "cpu" else ()
    return [caveat for caveat in caveats if caveat in (*DENYING, *on_cpu)]


def sentences(caveats: Iterable[Caveat]) -> tuple[str, ...]:
    """Caveats with their advice."""
    return tuple(said_of(caveat) for caveat in caveats)


def _or_unknown(value: object) -> str:
    return "unknown" if value is None else str(value)
