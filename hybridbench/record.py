"""record: what one case yielded when it ran, and the JSON form it is stored in.

A record holds observations only: raw samples in nanoseconds in the order they were taken, bytes, clocks, counts, the
kernels that ran, and how the case ended. Latencies, throughputs, MFU and verdicts are pure functions of records and
live in ``metrics``. Unknown is ``None``, never zero.

Schema history:
    1   first version.
    2   ``Observed.ceilings``: rates measured in the same process; None in older records.
    3   ``Observed.parts`` and ``Workload.depths``: generations timed at depths; modes of execution have ``published``.
    4   ``Ceilings.sustained_matmul_flops_per_s``; None in older records.
    5   ``Observed.sized`` and ``check_ns``: the check of the work at its own size; empty and None in older records.
    6   ``OperatorCount.formulas``; in older records it is empty, and counters had only their own formulas, so that
        fused attention on a CPU and kernels outside the dispatcher counted as 0.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from hybridbench.arch.block import DTYPE_BYTES
from hybridbench.errors import BadInput, BadResults, unknown_name
from hybridbench.files import Damaged, NotJson, from_json
from hybridbench.plain import check_values, from_plain, to_plain
from hybridbench.suite.case import Case
from hybridbench.text import printable, shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SCHEMA = 6


class Status(StrEnum):
    """How a case ended; everything but ``ok`` is a row with a reason, never a hole."""

    OK = "ok"
    OOM = "oom"
    UNSUPPORTED = "unsupported"
    WRONG = "wrong"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"


class Caveat(StrEnum):
    """A reason to doubt a measurement; ``ADVICE`` says what to do about each.

    All are found while measuring except ``BEYOND_LIMIT`` and ``PLAIN_PYTORCH``, which are found on reading
    (``derive.doubts``): a kernel's limits may become known after it was timed.
    """

    UNSTEADY = "unsteady"
    FEW_SAMPLES = "few_samples"
    CLOCK_DROPPED = "clock_dropped"
    THROTTLED = "throttled"
    SHARED_GPU = "shared_gpu"
    SHORT_STEP = "short_step"
    ENERGY_WINDOW_SHORT = "energy_window_short"
    NOT_CHECKED = "not_checked"
    GRAPH_BREAKS = "graph_breaks"
    RECOMPILED = "recompiled"
    BEYOND_LIMIT = "beyond_limit"
    PLAIN_PYTORCH = "plain_pytorch"


ADVICE: dict[Caveat, str] = {
    Caveat.UNSTEADY: "samples still drift or spread more than the target: give it more time or quiet the machine",
    Caveat.FEW_SAMPLES: "fewer than five samples: percentiles mean little, raise --max-time",
    Caveat.CLOCK_DROPPED: "the SM clock fell by more than 5% while sampling: compare ratios within this run only",
    Caveat.THROTTLED: "the GPU reported a power or thermal limit: the figure is of a throttled card",
    Caveat.SHARED_GPU: "another process used this GPU: run again when it is idle",
    Caveat.SHORT_STEP: "a step is shorter than 50 times the clock's resolution: use a larger batch or context",
    Caveat.ENERGY_WINDOW_SHORT: "the sampled window is shorter than ten ticks of the energy counter: energy is rough",
    Caveat.NOT_CHECKED: "nothing held the results at this size to any others: kernels are known to be right up to some "
    "thousand tokens only",
    Caveat.GRAPH_BREAKS: "torch.compile broke the graph: the step is not what 'compile' promises",
    Caveat.RECOMPILED: "torch.compile compiled again inside the timed region: samples hold compilation",
    Caveat.BEYOND_LIMIT: (
        "a kernel was given more than it is known to be right on, and nobody checked what it computed: measure again"
    ),
    Caveat.PLAIN_PYTORCH: (
        "an operation ran as plain PyTorch on a GPU, since no kernel for it could run: this is no fair figure of the "
        "architecture; hybridbench backends says what is missing"
    ),
}


@dataclass(frozen=True)
class Environment:
    """Fingerprint of the machine and software a record was made on.

    ``threads`` is how many an operator on the CPU runs on; None where a GPU does the work, and in older records.
    """

    device: str
    device_kind: str
    device_memory_bytes: int | None
    cpu: str
    cores: int
    memory_bytes: int | None
    driver: str | None
    cuda: str | None
    python: str
    platform: str
    packages: dict[str, str]
    hybridbench: str
    git_commit: str | None
    threads: int | None = None


@dataclass(frozen=True)
class GpuState:
    """One NVML reading; any field the driver does not give is None."""

    sm_clock_hz: float | None
    memory_clock_hz: float | None
    power_w: float | None
    temperature_c: float | None
    throttle_mask: int | None
    throttle_reasons: list[str]
    other_processes: int | None


@dataclass(frozen=True)
class Energy:
    """NVML's energy counter over the sampled window."""

    energy_j: float
    window_s: float
    steps: int
    idle_power_w: float | None


@dataclass(frozen=True)
class Memory:
    """Bytes on the device; ``*_bytes`` parts are summed over tensors, peaks are the allocator's."""

    weights_bytes: int
    gradients_bytes: int | None
    optimizer_bytes: int | None
    cache_bytes: int | None
    peak_allocated_bytes: int | None
    peak_reserved_bytes: int | None


@dataclass(frozen=True)
class CacheObserved:
    """Bytes of the tensors in the caches, summed over the batch; ``tokens`` is how many each sequence has room for."""

    tokens: int
    kv_cache_bytes: int
    ssm_state_bytes: int
    conv_state_bytes: int


@dataclass(frozen=True)
class OperatorCount:
    """FLOPs of one step by one public counter, and the operators that it counted as nothing.

    Attributes:
        counter: ``torch`` or ``fvcore``.
        flops: a multiply-add is 2; None if the counter gave none.
        unseen: how often each operator ran that the counter has no formula for.
        error: why there is no count.
        formulas: the part of ``flops`` that comes from closed forms, by operation of the model: for kernels that the
            counter cannot look into.
    """

    counter: str
    flops: int | None
    unseen: dict[str, int]
    error: str | None = None
    formulas: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BackendUse:
    """One operation: the backend asked for, the one that ran, and how far it was from its reference.

    If not all sequences of the batch ran at once, ``ran`` says how many: "fla, 2 rows at a time".
    """

    op: str
    asked: str
    ran: str
    package: str
    version: str | None
    error: float | None
    bound: float | None

    @property
    def backend(self) -> str:
        """The name of what ran."""
        return self.ran.partition(", ")[0]


@dataclass(frozen=True)
class SizeCheck:
    """How the work was checked, at the size that was timed, before it was timed.

    Attributes:
        what: the work, such as ``prefill``.
        against: what it was compared with, such as ``each row alone``.
        batch, context: the size; for decode steps, context is the cached tokens.
        compared: tensors and parts of them that were compared.
        worst: the comparison that came closest to its bound.
        error, bound: its relative error, and the largest that was allowed.
        error_at_short: its error at 2048 tokens, where the same comparison was made there.
    """

    what: str
    against: str
    batch: int
    context: int
    compared: int
    worst: str
    error: float
    bound: float
    error_at_short: float | None = None


@dataclass(frozen=True)
class Ceilings:
    """Rates the device reached in the process that ran the case: of a large matrix product in ``dtype``, and of memory.

    ``sustained_matmul_flops_per_s`` is the product's rate after a second of products back to back, when a card at its
    power limit has slowed down; None on a CPU.
    """

    dtype: str
    matmul_flops_per_s: float
    read_bytes_per_s: float
    copy_bytes_per_s: float
    sustained_matmul_flops_per_s: float | None = None


@dataclass(frozen=True)
class Part:
    """Samples of one part of a generation that is integrated over depths.

    Attributes:
        depth: tokens that were cached at these decode steps; None for the prefill.
        samples_ns: in the order they were taken.
    """

    depth: int | None
    samples_ns: list[int]


@dataclass(frozen=True)
class Observed:
    """What was seen while a case ran.

    ``samples_ns`` are durations of single steps in order (of whole generations for a generate workload, each of which
    decodes ``steps_per_sample`` tokens per sequence). They are empty where ``parts`` were timed in place of the whole.
    """

    samples_ns: list[int]
    steps_per_sample: int
    warmup_steps: int
    warmup_ns: int
    timer: str
    parameters: int
    memory: Memory
    cache: CacheObserved | None
    counts: list[OperatorCount]
    backends: list[BackendUse]
    kernels: list[str]
    gpu_before: GpuState | None
    gpu_after: GpuState | None
    energy: Energy | None
    build_ns: int
    prepare_ns: int
    loss: float | None = None
    ceilings: Ceilings | None = None
    parts: list[Part] = field(default_factory=list)
    sized: list[SizeCheck] = field(default_factory=list)
    check_ns: int | None = None


@dataclass(frozen=True)
class Record:
    """One case, how it ended, and what was observed; ``message`` and ``traceback`` are set unless it is ok.

    Attributes:
        FILES: how the names of the files begin that hold such records.
        WORKER: the module of the process that runs their cases.
        OBSERVED: what such a process answers with.
    """

    FILES: ClassVar[str] = "records"
    WORKER: ClassVar[str] = "hybridbench.worker"
    OBSERVED: ClassVar[type] = Observed

    case: Case
    status: Status
    run_id: str
    started_at: str
    environment: Environment
    observed: Observed | None = None
    message: str | None = None
    traceback: str | None = None
    caveats: list[Caveat] = field(default_factory=list)
    schema: int = SCHEMA

    def to_json(self) -> str:
        """One line of JSON with the case's key in front, for people who grep."""
        return as_line(self, self.case.key)

    @property
    def started(self) -> datetime:
        """When the case began; a time without a zone is one of UTC.

        Raises:
            ValueError: ``started_at`` is no time.
        """
        return time_of(self.started_at)

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Read one line back.

        What a program said (a message, a traceback, a counter's error) may hold anything; control characters in it are
        spelled out.

        Raises:
            BadResults: not JSON, not a record of ours, from a newer schema, or a field that cannot be right, which the
                text names.
        """
        body = body_of(line, SCHEMA, "case")
        with stating_fields():
            record = _spelled_out(from_plain(cls, {**body, "case": _case(body["case"])}))
            check_values(record)
            _check_consistent(record)
            return record


def as_line(record: DataclassInstance, key: str) -> str:
    """A record as one line of JSON, with the key of its case in front."""
    body = {"key": key, **{f.name: to_plain(getattr(record, f.name)) for f in dataclasses.fields(record)}}
    return json.dumps(body, separators=(",", ":"), allow_nan=False)


def body_of(line: str, newest: int, *fields: str) -> dict[str, Any]:
    """The fields of a record's line, without its key.

    Args:
        newest: the newest schema of its kind that this version reads.
        fields: that a record of its kind has, beside ``schema``.

    Raises:
        BadResults: not JSON, not such a record, or from a newer schema.
    """
    try:
        body = from_json(line)
    except NotJson as exc:
        raise BadResults(f"not a JSON line ({exc.problem} at column {exc.column}): {line[:60]!r}") from exc
    except Damaged as exc:
        raise BadResults(f"the line {exc}: it was damaged or edited.") from exc
    if not isinstance(body, dict) or not {"schema", *fields} <= body.keys():
        named = " and ".join(f"'{name}'" for name in ("schema", *fields))
        raise BadResults(f"the line is JSON but not a hybridbench record: it has no {named}.")
    schema = body["schema"]
    if type(schema) is not int or schema < 1:
        raise BadResults(
            f"the record has schema {shown(schema)}, where a whole number from 1 to {newest} is due: it was edited."
        )
    if schema > newest:
        raise BadResults(f"the record has schema {schema}, this hybridbench reads up to {newest}: upgrade hybridbench.")
    body.pop("key", None)
    return body


@contextlib.contextmanager
def stating_fields() -> Iterator[None]:
    """What goes wrong while fields are read becomes a ``BadResults`` that says which."""
    try:
        yield
    except KeyError as exc:
        raise BadResults(f"the record lacks or misstates a field (it has no {exc}): it was cut or edited.") from exc
    except (TypeError, ValueError, AttributeError, OverflowError, BadInput) as exc:
        raise BadResults(f"the record lacks or misstates a field ({exc}): it was cut or edited.") from exc


def time_of(started_at: str) -> datetime:
    """The time that a record states; one without a zone is of UTC.

    Raises:
        ValueError: it is no time, which the text says.
    """
    try:
        time = datetime.fromisoformat(started_at)
    except ValueError as exc:
        raise ValueError(f"started_at is {shown(started_at)}, which is no time") from exc
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _case(body: object) -> Case:
    """The case in a record.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, BadInput: a field is missing, unknown or misstated.
    """
    if not isinstance(body, dict):
        raise ValueError(f"case: expected a table, not {shown(body)}")
    return Case.from_dict(body)


def _spelled_out(record: Record) -> Record:
    """A record whose free text can be shown."""
    seen = record.observed
    if seen is not None:
        counts = [replace(one, error=one.error and printable(one.error)) for one in seen.counts]
        seen = replace(seen, counts=counts)
    message, traceback = (text and printable(text) for text in (record.message, record.traceback))
    return replace(record, observed=seen, message=message, traceback=traceback)


def _check_consistent(record: Record) -> None:
    """Check what fields mean.

    Raises:
        ValueError: a time that is none, a step that took no time, or an observation without samples.
        BadInput: an unknown dtype.
    """
    for dtype in (record.case.execution.dtype, record.case.execution.state_dtype):
        if dtype is not None and dtype not in DTYPE_BYTES:
            raise unknown_name("dtype", dtype, DTYPE_BYTES)
    time_of(record.started_at)
    seen = record.observed
    if seen is None:
        return
    samples = [seen.samples_ns, *(part.samples_ns for part in seen.parts)]
    if any(ns <= 0 for some in samples for ns in some):
        raise ValueError("samples_ns holds a duration that is not above 0")
    if not any(samples):
        raise ValueError("samples_ns is empty")
