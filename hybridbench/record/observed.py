"""observed: what is seen while a case runs: samples, memory, clocks, counts, kernels and the machine."""

from __future__ import annotations

from dataclasses import dataclass, field


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
class Links:
    """Rates of large transfers between the ranks of a case, measured in the processes that ran it.

    Each is what a rank must send, over the time that the collective took: (n - 1)/n of the gathered or scattered bytes,
    and twice that for an all-reduce, of n ranks. ``small_all_reduce_s`` is the time of an all-reduce of 16 KiB.
    """

    all_gather_bytes_per_s: float
    reduce_scatter_bytes_per_s: float
    all_reduce_bytes_per_s: float
    small_all_reduce_s: float


@dataclass(frozen=True)
class RankObserved:
    """What one rank saw of itself.

    Attributes:
        samples_ns: its own durations of the timed steps, in order; those of the case are the longest of all ranks.
        memory: on its device.
    """

    rank: int
    samples_ns: list[int]
    memory: Memory


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
class CompiledKernel:
    """A Triton kernel that compiled or tuned itself while a case was made ready; what lay on disk did neither.

    Args:
        variants: compilations of it, for other shapes, dtypes or tiles.
        compile_ns: time in the compiler, added up over threads; ns.
        tune_ns: time in which its autotuner timed configurations; ns.
    """

    kernel: str
    variants: int
    compile_ns: int
    tune_ns: int


@dataclass(frozen=True)
class Observed:
    """What was seen while a case ran.

    ``samples_ns`` are durations of single steps in order (of whole generations for a generate workload, each of which
    decodes ``steps_per_sample`` tokens per sequence). They are empty where ``parts`` were timed in place of the whole.
    Of a case of several ranks a step's duration is that of its slowest rank, ``silent_ns`` are durations of the same
    step without what the ranks transfer, and everything that is not in ``ranks`` is the first rank's. ``waited_frac``
    is the share of the time that this process's threads waited for a processor while it was timed on a CPU, and
    ``canary_ns`` how long a fixed loop took between samples there (``measure.cpu``).
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
    ranks: list[RankObserved] = field(default_factory=list)
    links: Links | None = None
    silent_ns: list[int] = field(default_factory=list)
    compiled: list[CompiledKernel] | None = None
    waited_frac: float | None = None
    canary_ns: list[int] = field(default_factory=list)
