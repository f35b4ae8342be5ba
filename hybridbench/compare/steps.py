"""steps: records of steps as cells of a comparison: training, prefill, decoding and whole generations.

Which work a step did is its model, workload and sizes. Everything else that changes its speed is a condition. The time
that sampling may take is neither: it changes how well a speed is known. A case that only asked whether the work runs at
all is of another kind, though, and so is a generation that was timed at depths.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from hybridbench.compare.calibrated import NONE, Calibrations
from hybridbench.compare.cell import EXACT, INVALID, ComparedCell, ComparedMetric
from hybridbench.compare.conditions import canaries, conditions, denied, made_by, sentences
from hybridbench.compare.noise import noise_between
from hybridbench.derive.doubts import doubts, problems
from hybridbench.metrics import value
from hybridbench.record import Caveat, Record, Status
from hybridbench.report.groups import backends_text, names_in_scales
from hybridbench.units import format_tokens

AS_DTYPE = "as dtype"
ENERGY_TICK_S = 0.1
"""How often NVML refreshes its energy counter (``measure.caveats``)."""


def step_cells(records: Sequence[Record], asked: ComparedMetric, known: Calibrations = NONE) -> list[ComparedCell]:
    """The cells of records, in the order given; ``records`` are those of all sides, so that a model has one name."""
    digests = [_digest(record) for record in records]
    models = dict(zip(digests, (record.case.model for record in records), strict=True))
    names = dict(zip(models, names_in_scales(list(models.values())), strict=True))
    return [_cell(record, asked, digest, names[digest], known) for record, digest in zip(records, digests, strict=True)]


def _cell(record: Record, asked: ComparedMetric, digest: str, model: str, known: Calibrations) -> ComparedCell:
    wrong, seen = problems(record), record.observed
    ok = record.status is Status.OK and not wrong
    status = INVALID if wrong else record.status.value.replace("_", " ")
    amount, low, high, samples = _amount(record, asked) if ok else (None, None, None, None)
    return ComparedCell(
        what=_what(record, digest, model),
        how=_how(record),
        status=status,
        message="; ".join(wrong) or record.message,
        amount=amount,
        low=low,
        high=high,
        samples=samples,
        noise=noise_between(record, known) if asked.timed else EXACT,
        memory_bytes=value(record, "peak_allocated_bytes") if ok else None,
        run=record.run_id,
        started_at=record.started_at,
        made_by=made_by(record.environment),
        doubts=_doubts(record, asked) if ok else (),
        ran={use.op: use.ran for use in seen.backends} if seen else {},
        canaries=canaries(record.environment, seen.ceilings, seen.canary_ns) if asked.timed and seen else (),
    )


def _what(record: Record, digest: str, model: str) -> dict[str, str]:
    work = record.case.workload
    return {
        "workload": work.kind,
        "model": model,
        "scale": record.case.model.scale,
        "spec": digest,
        "context": format_tokens(work.context),
        "batch": str(work.batch),
        "prompt": format_tokens(work.prompt) if work.prompt else "",
        "depths": str(work.depths or ""),
    }


def _how(record: Record) -> dict[str, str]:
    execution, environment = record.case.execution, record.environment
    return {
        "dtype": execution.dtype,
        "state dtype": AS_DTYPE if execution.state_dtype in (None, execution.dtype) else execution.state_dtype,
        "weight dtype": execution.weight_dtype or AS_DTYPE,
        "kv dtype": execution.kv_dtype or AS_DTYPE,
        "mode": execution.mode,
        "streams": str(execution.streams),
        "gpus": str(execution.gpus),
        "tp": str(execution.tp),
        "checkpoint": execution.checkpoint,
        "backends": backends_text(execution) or "auto",
        "seed": str(execution.seed),
        "sampling": "one sample, to see whether it runs" if record.case.sampling.probes else "timed",
        **conditions(environment, str(record.schema)),
    }


def _digest(record: Record) -> str:
    """The model, exactly: two models may have the same label."""
    spec = json.dumps(record.case.model.to_dict(), sort_keys=True)
    return hashlib.sha256(spec.encode()).hexdigest()[:12]


def _amount(record: Record, asked: ComparedMetric) -> tuple[float | None, float | None, float | None, int | None]:
    """The metric, the ends of its 95% interval, and the fewest samples behind it; a counted one has none."""
    amount = value(record, asked.metric)
    if amount is None or not asked.timed:
        return amount, amount, amount, None
    step, low, high = (value(record, name) for name in ("step_s", "step_low_s", "step_high_s"))
    if not (step and low and high):
        return None, None, None, None
    shares = (low / step, high / step) if asked.better == "lower" else (step / high, step / low)
    tick = _tick_frac(record) if asked.name == "energy" else 0.0
    return amount, amount * shares[0] * (1 - tick), amount * shares[1] * (1 + tick), _fewest(record)


def _fewest(record: Record) -> int:
    seen = record.observed
    if seen is None:
        return 0
    return min((len(part.samples_ns) for part in seen.parts), default=len(seen.samples_ns))


def _tick_frac(record: Record) -> float:
    """By how much the energy of the sampled window may be off: one refresh of its counter."""
    energy = record.observed.energy if record.observed else None
    return min(ENERGY_TICK_S / energy.window_s, 0.99) if energy and energy.window_s else 0.0


def _doubts(record: Record, asked: ComparedMetric) -> tuple[str, ...]:
    denying = denied(record.environment, doubts(record)) if asked.timed else []
    if asked.name == "energy" and Caveat.ENERGY_WINDOW_SHORT in record.caveats:
        denying.append(Caveat.ENERGY_WINDOW_SHORT)
    return sentences(denying)
