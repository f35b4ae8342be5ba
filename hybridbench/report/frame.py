"""frame: records as a pandas DataFrame, with one row per case: its identity, and every metric in SI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from hybridbench.derive.doubts import doubts, problems
from hybridbench.metrics import METRICS
from hybridbench.record import Record
from hybridbench.report.groups import NO_RUNS, backends_text


def to_frame(records: Sequence[Record], runs: Mapping[str, str] = NO_RUNS) -> pd.DataFrame:
    """One row per record, in the order given. An unknown number is missing (NaN or None), never zero.

    The first columns identify the case and say how it ended. The others are ``metrics.METRICS`` by name. If ``runs``
    names the runs that are compared, by their ``run_id``, the first column is ``run``.
    """
    columns = [*(["run"] if runs else []), *_IDENTITY, *METRICS]
    rows = [
        {
            "run": runs.get(record.run_id),
            **_identity(record),
            **{name: metric.compute(record) for name, metric in METRICS.items()},
        }
        for record in records
    ]
    frame = pd.DataFrame(rows, columns=pd.Index(columns))
    return frame.astype(dict.fromkeys(METRICS, "float64"))


_IDENTITY = (
    *("key", "run_id", "started_at", "arch", "model", "scale", "ratio", "recipe", "pattern"),
    *(
        "workload",
        "context",
        "batch",
        "prompt",
        "depths",
        "device",
        "dtype",
        "state_dtype",
        "mode",
        "streams",
        "checkpoint",
        "backends",
        "ran",
        "seed",
    ),
    *("status", "message", "caveats", "problems"),
)


def _identity(record: Record) -> dict[str, object]:
    case = record.case
    model, work, execution = case.model, case.workload, case.execution
    used = record.observed.backends if record.observed else []
    return {
        "key": case.key,
        "run_id": record.run_id,
        "started_at": record.started_at,
        "arch": model.arch,
        "model": model.label,
        "scale": model.scale,
        "ratio": " ".join(case.ratios) or model.ratio,
        "recipe": model.recipe,
        "pattern": model.pattern,
        "workload": work.kind,
        "context": work.context,
        "batch": work.batch,
        "prompt": work.prompt,
        "depths": work.depths,
        "device": record.environment.device,
        "dtype": execution.dtype,
        "state_dtype": execution.state_dtype,
        "mode": execution.mode,
        "streams": execution.streams,
        "checkpoint": execution.checkpoint,
        "backends": backends_text(execution),
        "ran": " ".join(f"{use.op}={use.ran.replace(', ', '/').replace(' ', '-')}" for use in used),
        "seed": execution.seed,
        "status": record.status.value,
        "message": record.message,
        "caveats": " ".join(doubts(record)),
        "problems": "; ".join(problems(record)),
    }
