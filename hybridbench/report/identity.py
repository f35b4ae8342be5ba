"""identity: what tells one record from another, and how it ended, as fields with names."""

from __future__ import annotations

from hybridbench.derive.doubts import doubts, problems
from hybridbench.record import Record
from hybridbench.report.groups import backends_text

IDENTITY = (
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
        "weight_dtype",
        "kv_dtype",
        "mode",
        "streams",
        "checkpoint",
        "gpus",
        "tp",
        "backends",
        "ran",
        "seed",
    ),
    *("status", "message", "caveats", "problems"),
)
"""The fields, in the order in which files have them."""


def identity(record: Record) -> dict[str, object]:
    """The value of each name of ``IDENTITY`` for a record; None or empty text where it has none."""
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
        "weight_dtype": execution.weight_dtype,
        "kv_dtype": execution.kv_dtype,
        "mode": execution.mode,
        "streams": execution.streams,
        "checkpoint": execution.checkpoint,
        "gpus": execution.gpus,
        "tp": execution.tp,
        "backends": backends_text(execution),
        "ran": " ".join(f"{use.op}={use.ran.replace(', ', '/').replace(' ', '-')}" for use in used),
        "seed": execution.seed,
        "status": record.status.value,
        "message": record.message,
        "caveats": " ".join(doubts(record)),
        "problems": "; ".join(problems(record)),
    }
