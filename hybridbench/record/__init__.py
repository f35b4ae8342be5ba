"""record: what one case yielded when it ran, and the JSON form it is stored in."""

from __future__ import annotations

from hybridbench.record.caveats import ADVICE, Caveat, said_of
from hybridbench.record.clocks import clock_dropped, power_limit_text, power_limited, unexplained
from hybridbench.record.line import Line, as_line, body_of, stating_fields, time_of
from hybridbench.record.observed import (
    BackendUse,
    CacheObserved,
    Ceilings,
    Energy,
    Environment,
    GpuState,
    Links,
    Memory,
    Observed,
    OperatorCount,
    Part,
    RankObserved,
    SizeCheck,
)
from hybridbench.record.record import SCHEMA, Record, Status

__all__ = [
    "ADVICE",
    "SCHEMA",
    "BackendUse",
    "CacheObserved",
    "Caveat",
    "Ceilings",
    "Energy",
    "Environment",
    "GpuState",
    "Line",
    "Links",
    "Memory",
    "Observed",
    "OperatorCount",
    "Part",
    "RankObserved",
    "Record",
    "SizeCheck",
    "Status",
    "as_line",
    "body_of",
    "clock_dropped",
    "power_limit_text",
    "power_limited",
    "said_of",
    "stating_fields",
    "time_of",
    "unexplained",
]
