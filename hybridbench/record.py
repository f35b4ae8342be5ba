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

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from hybridbench.errors import BadInput, BadResults
from hybridbench.suite.case import Case

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

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Read one line back.

        Raises:
            BadResults: not JSON, not a record of ours, or from a newer schema.
        """
        try:
            body = json.loads(line)
        except json.JSONDecodeError as exc:
            raise BadResults(f"not a JSON line ({exc.msg} at column {exc.colno}): {line[:60]!r}") from exc
        if not isinstance(body, dict) or "schema" not in body or "case" not in body:
            raise BadResults("the line is JSON but not a hybridbench record: it has no 'schema' and 'case'.")
        if type(body["schema"]) is not int or not 1 <= body["schema"] <= SCHEMA:
            raise BadResults(
                f"the record has schema {body['schema']}, this hybridbench reads up to {SCHEMA}: upgrade hybridbench."
            )
        body.pop("key", None)
        try:
            case = Case.from_dict(body.pop("case"))
            for part in (case.workload, case.execution, case.sampling):
                from_plain(type(part), dataclasses.asdict(part))  # Case.from_dict takes their fields as they come
            record = from_plain(cls, {**body, "case": case})
            _check_samples(record)
            return record
        except (KeyError, TypeError, ValueError, AttributeError, BadInput) as exc:
            raise BadResults(f"the record lacks or misstates a field ({exc}): it was cut or edited.") from exc


def as_line(record: DataclassInstance, key: str) -> str:
    """A record as one line of JSON, with the key of its case in front."""
    body = {"key": key, **{f.name: to_plain(getattr(record, f.name)) for f in dataclasses.fields(record)}}
    return json.dumps(body, separators=(",", ":"), allow_nan=False)


def _check_samples(record: Record) -> None:
    """Raise ValueError for a step that took no time, and for a case that is ok without samples."""
    seen = record.observed
    if seen is None:
        return
    samples = [seen.samples_ns, *(part.samples_ns for part in seen.parts)]
    if any(ns <= 0 for some in samples for ns in some):
        raise ValueError("samples_ns holds a duration that is not above 0")
    if not any(samples):
        raise ValueError("samples_ns is empty")


def to_plain(value: Any) -> Any:
    """A dataclass tree as JSON-ready dicts, lists and scalars."""
    if isinstance(value, Case):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    if isinstance(value, StrEnum):
        return value.value
    return value


_T = TypeVar("_T", bound="DataclassInstance")


def from_plain(cls: type[_T], body: dict[str, Any]) -> _T:
    """A dataclass from the dict ``to_plain`` made of it.

    Raises:
        KeyError, TypeError, ValueError: a missing, unknown or ill-typed field.
    """
    if not isinstance(body, dict):
        raise ValueError(f"expected the fields of {cls.__name__}, not {body!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = set(body) - set(fields)
    if unknown:
        raise ValueError(f"unknown field {sorted(unknown)[0]!r}")
    return cls(**{name: _typed(hints[name], value) for name, value in body.items()})


def _typed(hint: Any, value: Any) -> Any:
    """A plain value converted to a field's type.

    Raises:
        ValueError: the value does not fit the type.
    """
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if value is None else _typed(options[0], value)
    if origin is list:
        return _typed_list(hint, value)
    if origin is dict:
        return _typed_dict(hint, value)
    return _typed_scalar(hint, value) if isinstance(hint, type) else value


def _typed_list(hint: Any, value: Any) -> list[Any]:
    (inner,) = typing.get_args(hint)
    if not isinstance(value, list):
        raise ValueError(f"expected a list, not {value!r}")
    return [_typed(inner, item) for item in value]


def _typed_dict(hint: Any, value: Any) -> dict[Any, Any]:
    of_key, of_value = typing.get_args(hint)
    if not isinstance(value, dict):
        raise ValueError(f"expected a table, not {value!r}")
    return {_typed(of_key, key): _typed(of_value, item) for key, item in value.items()}


def _typed_scalar(hint: type, value: Any) -> Any:
    if isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    if dataclasses.is_dataclass(hint):
        return from_plain(hint, value)
    if issubclass(hint, StrEnum):
        return hint(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    raise ValueError(f"expected {hint.__name__}, not {value!r}")
