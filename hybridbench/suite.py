"""suite: workloads, execution, sampling and cases; flags or TOML in, cases out.

A case is one cell of a comparison: which model does which work, how. A sweep is the product of lists, written with the
same words as the command line's options. A suite is a named list of sweeps:

    name = "smoke"
    [defaults]
    scale = "tiny"
    [[sweep]]
    workload = "decode"
    arch = "transformer,mamba"
    ctx = "1k..4k"
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from hybridbench import units
from hybridbench.arch.block import DTYPE_BYTES, Block, Storage
from hybridbench.arch.families import (
    ARCHS,
    FUSION_DEFAULTS,
    MAMBA2,
    MIXED,
    RECURRENT,
    Options,
    build_spec,
    pattern_spec,
)
from hybridbench.arch.kinds import BLOCKS
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.pattern import parse_positions
from hybridbench.errors import BadInput, unknown_name

ALL_ARCHS = ",".join(ARCHS)
TRAIN, PREFILL, DECODE, GENERATE = "train", "prefill", "decode", "generate"
CORE, CORE_PARTS = "mamba2_core", ("conv1d", "ssd", "gate")
"""One kernel for all of Mamba-2 between its projections, or one for each of its parts."""
EAGER, COMPILE, GRAPH, PUBLISHED = "eager", "compile", "graph", "published"
MODES = (EAGER, COMPILE, GRAPH, PUBLISHED)
DEVICES = ("cpu", "cuda")
CHECKPOINTS = ("none", "selective", "full")
"""How much of the activations a training step keeps: all of them; all but what elementwise work makes of the rest
(``arch.terms.Term.cheap``); or the residual stream before each sublayer alone."""
DECODE_STEP = "decode_step"
"""Not one block's operation but all of a decode step: the modules one by one, or fused."""
OPS_OF_MODEL = ("add_rms_norm", "linear_cross_entropy", "adamw", DECODE_STEP)
"""Operations of a model as a whole."""
OPS = tuple(
    dict.fromkeys([*(op for kind in BLOCKS.values() for op in (*kind.sequence_ops, *kind.step_ops)), *OPS_OF_MODEL])
)
"""Every operation. All but the decode step are rows of ``kernels.operation``."""


@dataclass(frozen=True)
class Workload:
    """The work one step does.

    Args:
        kind: ``train`` (forward, loss, backward, AdamW), ``prefill`` (a prompt, last position through the head),
            ``decode`` (one token per sequence at a fixed depth) or ``generate`` (a prompt, then tokens one by one up to
            ``context`` in all: the paper's protocol).
        context: sequence length, prompt length, cached tokens, or total length.
        batch: sequences.
        prompt: prompt tokens of a generation, else 0.
        depths: 0 generates every token of a generation. Else its prefill and decode steps at this many depths are
            timed, and the time of the whole is integrated over them (``stats.sum_between``).
    """

    kind: str
    context: int
    batch: int
    prompt: int = 0
    depths: int = 0

    @property
    def tokens(self) -> int:
        """Tokens one sample processes (train, prefill) or yields (decode, generate), over the whole batch."""
        if self.kind in (TRAIN, PREFILL):
            return self.batch * self.context
        return self.batch * (self.context - self.prompt if self.kind == GENERATE else 1)

    @property
    def depth_points(self) -> tuple[int, ...]:
        """The depths at which an integrated generation is timed: evenly from its first decode step to its last.

        >>> Workload("generate", context=2048, batch=1, prompt=512, depths=5).depth_points
        (512, 895, 1279, 1663, 2047)
        """
        gaps, last = self.depths - 1, self.context - 1
        return tuple(self.prompt + (last - self.prompt) * index // gaps for index in range(self.depths))


@dataclass(frozen=True)
class Execution:
    """How the work is run.

    Args:
        device: ``cpu`` or ``cuda``.
        dtype: of weights, activations, KV and conv state.
        state_dtype: of the SSM state, None for ``dtype``.
        mode: ``eager``, ``compile`` (torch.compile), ``graph`` (a captured CUDA graph) or ``published`` (decoding as
            the source paper's figures suggest: attention eager with a growing cache, the rest in CUDA graphs).
        backends: the backend asked for per operation; an operation without an entry is ``auto``.
        seed: of weights and inputs.
        streams: CUDA streams a decode step's parallel branches run on: 1 (one after the other) or 2 (side by side).
        checkpoint: what a training step keeps of its activations: ``none`` is checkpointed, ``selective``, ``full``.
    """

    device: str
    dtype: str
    mode: str
    state_dtype: str | None = None
    backends: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    streams: int = 1
    checkpoint: str = "none"

    @property
    def storage(self) -> Storage:
        """Bytes per element this execution stores."""
        return Storage.of(self.dtype, self.state_dtype)


@dataclass(frozen=True)
class Sampling:
    """When to stop warming up and when to stop sampling.

    Sampling ends when the 95% interval of the median is within ``target_rel_ci``, after ``max_samples``, or when
    ``max_time_s`` of sampled time is spent; it takes at least ``min_samples`` unless steps are too long for that, and
    lasts at least ``min_time_s`` even where ``max_samples`` are in, for counters that tick slowly. With ``insist`` it
    takes ``min_samples`` however long they take.
    """

    warmup_max_s: float = 3.0
    warmup_min_steps: int = 2
    min_samples: int = 5
    max_samples: int = 200
    min_time_s: float = 0.0
    max_time_s: float = 5.0
    target_rel_ci: float = 0.02
    insist: bool = False

    @property
    def probes(self) -> bool:
        """Whether one sample is all that is wanted: that it runs is the question, so nothing is counted or profiled."""
        return self.max_samples == 1


@dataclass(frozen=True)
class Case:
    """One cell: which model does which work, how, and how long it may take."""

    model: ModelSpec
    workload: Workload
    execution: Execution
    sampling: Sampling = Sampling()
    limit_s: float = 600.0

    @property
    def key(self) -> str:
        """Identity of the case: equal for equal cases, whatever made them."""
        identity = self.to_dict()
        del identity["limit_s"]  # how long it may take does not change what it is
        canonical = json.dumps(_canonical(identity), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """One line for progress and errors."""
        work = self.workload
        context = units.format_tokens(work.context)
        more = f" at {work.depths} depths" if work.depths else ""
        if self.execution.checkpoint != "none":
            more += f", {self.execution.checkpoint} checkpointing"
        return f"{work.kind} {self.model.label} {self.model.scale} ctx {context} b{work.batch}{more}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``from_dict`` gives an equal case back."""
        return {
            "model": self.model.to_dict(),
            "workload": asdict(self.workload),
            "execution": asdict(self.execution),
            "sampling": asdict(self.sampling),
            "limit_s": self.limit_s,
        }

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Case:
        """Rebuilds a case.

        Raises:
            KeyError, TypeError, ValueError: a field is missing, unknown or of the wrong type.
            BadInput: the fields are there but do not make a model, or the workload is of an unknown kind.
        """
        workload = Workload(**body["workload"])
        if workload.kind not in WORKLOADS:
            raise unknown_name("workload", str(workload.kind), WORKLOADS)
        return cls(
            model=ModelSpec.from_dict(body["model"]),
            workload=workload,
            execution=Execution(**body["execution"]),
            sampling=Sampling(**body["sampling"]),
            limit_s=body["limit_s"],
        )


def _canonical(value: Any) -> Any:
    """JSON values with whole floats as integers: 5 and 5.0 seconds are equal, and so must their text be."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True)
class Sweep:
    """A product of lists, in the words of the command line; text where a person would type a list or a range.

    None takes the default of the device: scale 1b and bfloat16 on a GPU, tiny and float32 on a CPU; mode ``graph`` for
    decode and generation on a GPU, else ``eager``.
    """

    workload: str
    arch: str = ALL_ARCHS
    scale: str | None = None
    ctx: str | None = None
    batch: str | None = None
    ratio: str | None = None
    positions: str | None = None
    pattern: str | None = None
    recipe: str = "paper"
    fusion_norm: str | None = None
    fusion_scale: str | None = None
    fusion_op: str | None = None
    fusion_value: str | None = None
    fusion_out: str | None = None
    split: str | None = None
    moe: bool = False
    window: int | None = None
    sinks: int | None = None
    mixer: str = MAMBA2
    prompt: int = 512
    depths: int | None = None
    as_published: bool = False
    device: str | None = None
    dtype: str | None = None
    state_dtype: str | None = None
    mode: str | None = None
    backends: dict[str, str] = field(default_factory=dict)
    streams: int = 1
    checkpoint: str = "none"
    seed: int = 0
    max_time_s: float | None = None
    min_samples: int | None = None
    limit_s: float | None = None


DEFAULT_CTX = {
    # (workload, on a GPU): what one command measures when nobody says otherwise.
    (TRAIN, True): "8k",
    (TRAIN, False): "1k",
    (PREFILL, True): "4k..32k",
    (PREFILL, False): "1k..4k",
    (DECODE, True): "4k..128k",
    (DECODE, False): "4k..32k",
    (GENERATE, True): "2k..8k",
    (GENERATE, False): "640",
}
ENERGY_WINDOW_S = 1.1
"""Sampled time on a GPU, at least: ten ticks of its energy counter and a bit."""

PHASES = (TRAIN, PREFILL, DECODE)
"""Workloads of one phase, and so of one roofline and one step to count."""
WORKLOADS = (*PHASES, GENERATE)


def model_specs(
    *,
    arch: str,
    scale: str,
    ratio: str | None = None,
    positions: str | None = None,
    pattern: str | None = None,
    mixer: str = MAMBA2,
    **options: Any,
) -> list[ModelSpec]:
    """Every model that lists of archs, scales, ratios and mixers name, each once.

    A ratio (or positions, a recipe or a mixer) applies to the families that have one; asking for one with only families
    that do not is a mistake.

    Raises:
        BadInput: a name, ratio, pattern or option that does not fit.
    """
    made = Options(positions=parse_positions(positions) if positions else None, **options)
    scales, mixers = _split(scale, "scale"), _split(mixer, "mixer")
    if pattern is not None:
        if arch != ALL_ARCHS:
            raise BadInput(f"--pattern spells the model, and --arch '{arch}' names another: give one of them.")
        return [pattern_spec(pattern, one, replace(made, ratio=ratio, mixer=kind)) for one in scales for kind in mixers]
    archs = _split(arch, "arch")
    for name in archs:
        if name not in ARCHS:
            raise unknown_name("arch", name, ARCHS)
    ratios = _split(ratio, "ratio") if ratio else [None]
    specs = [
        build_spec(name, one, _fitting(replace(made, ratio=part, mixer=kind), name, archs))
        for one in scales
        for name in archs
        for kind in mixers
        for part in (ratios if name in MIXED or not set(MIXED) & set(archs) else [None])
    ]
    unique: list[ModelSpec] = []
    for spec in specs:
        # Two ratios may round to one stack, which is one model.
        if not any(replace(spec, ratio=known.ratio) == known for known in unique):
            unique.append(spec)
    return unique


def _fitting(options: Options, arch: str, archs: list[str]) -> Options:
    """The options without those that only other members of a list have a place for."""
    if arch != "swa" and "swa" in archs:
        options = replace(options, window=None, sinks=None)
    if arch not in MIXED and set(MIXED) & set(archs):
        options = replace(options, positions=None)
    if arch not in RECURRENT and set(RECURRENT) & set(archs):
        options = replace(options, mixer=MAMBA2)
    if arch != "intra" and "intra" in archs:
        options = replace(options, **FUSION_DEFAULTS)
    return options


def _split(text: str, what: str) -> list[str]:
    parts = [part.strip().lower() for part in text.split(",")]
    if not all(parts):
        raise BadInput(f"{what} '{text}' has an empty part: write names with single commas between them.")
    return list(dict.fromkeys(parts))


def cases(sweep: Sweep, *, has_gpu: bool) -> list[Case]:
    """The cases of a sweep, in the order contexts vary fastest and models slowest.

    Raises:
        BadInput: anything in the sweep that cannot be.
    """
    if sweep.workload not in WORKLOADS:
        raise unknown_name("workload", sweep.workload, WORKLOADS)
    device = sweep.device or ("cuda" if has_gpu else "cpu")
    if device not in DEVICES:
        raise unknown_name("device", device, DEVICES)
    on_gpu = device == "cuda"
    specs = model_specs(
        arch=sweep.arch,
        scale=_given(sweep.scale, "1b" if on_gpu else "tiny"),
        **{
            name: getattr(sweep, name)
            for name in (
                *("ratio", "positions", "pattern", "mixer", "recipe", "split", "moe", "window", "sinks"),
                *("fusion_norm", "fusion_scale", "fusion_op", "fusion_value", "fusion_out"),
            )
        },
    )
    contexts = units.parse_range(_given(sweep.ctx, DEFAULT_CTX[sweep.workload, on_gpu]), "context")
    batches = units.parse_range(_given(sweep.batch, "4" if on_gpu else "1"), "batch")
    prompt = depths = 0
    if sweep.depths is not None and sweep.workload != GENERATE:
        raise BadInput(f"depths for {sweep.workload}: only a generation is integrated over depths.")
    if sweep.workload == GENERATE:
        prompt = sweep.prompt
        if prompt < 1:
            raise BadInput(f"prompt {prompt}: a generation starts from 1 token or more.")
        short = [context for context in contexts if context <= prompt]
        if short:
            raise BadInput(f"context {short[0]} leaves nothing to generate after a prompt of {prompt}: give more.")
        depths = _depths(sweep.depths, min(contexts) - prompt)
    execution = _execution(sweep, device)
    sampling = _sampling(sweep, device)
    limit_s = Case.limit_s if sweep.limit_s is None else sweep.limit_s
    _check_seconds(limit_s, "limit", "to run")
    if not 0 <= sweep.seed < 2**62:
        raise BadInput(f"seed {sweep.seed}: give a whole number from 0 to {2**62 - 1}.")
    return [
        Case(
            model=spec,
            workload=Workload(sweep.workload, context, batch, prompt, depths),
            execution=_fitted(execution, spec, sweep.workload),
            sampling=sampling,
            limit_s=limit_s,
        )
        for spec, batch, context in itertools.product(specs, batches, contexts)
    ]


def _depths(asked: int | None, fewest_steps: int) -> int:
    """The depths of an integrated generation, 0 where every token is to be generated."""
    if asked is None:
        return 0
    if asked < 3 or asked % 2 == 0:
        # Every other one of an odd number is a coarser sum with the same ends: their difference is the error estimate.
        raise BadInput(
            f"depths {asked}: give an odd number from 3 on, such as 5, or leave it out to generate all tokens."
        )
    if asked > fewest_steps:
        raise BadInput(f"depths {asked} for a generation of {fewest_steps} tokens: leave it out to generate them all.")
    return asked


def block_uses(spec: ModelSpec) -> dict[tuple[Block, bool], int]:
    """How often a model has each block, branches too, and whether it borrows its value from another branch."""
    uses: Counter[tuple[Block, bool]] = Counter()
    for block, times in spec.uses:
        uses[block, False] += times
        for index, branch in enumerate(block.branches):
            uses[branch, index == block.borrower] += times
    return uses


def block_ops(block: Block, borrows: bool = False) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The operations a block may run over a sequence and in a decode step."""
    absent = block.absent_ops(borrows)
    sequence, step = (tuple(op for op in ops if op not in absent) for ops in (block.sequence_ops, block.step_ops))
    return sequence, step


def ops_of(spec: ModelSpec, workload: str) -> tuple[str, ...]:
    """The operations a model runs in a workload, those over sequences first."""
    ops: list[str] = []
    for block, borrows in block_uses(spec):
        sequence, step = block_ops(block, borrows)
        ops += sequence if workload != DECODE else ()
        ops += step if workload in (DECODE, GENERATE) else ()
    if workload in (DECODE, GENERATE):
        ops.append(DECODE_STEP)
    if workload != DECODE:
        ops.append("add_rms_norm")
    if workload == TRAIN:
        ops += ["linear_cross_entropy", "adamw"]
    return tuple(dict.fromkeys(ops))


def check_backends_used(asked: Iterable[str], made: Sequence[Case]) -> None:
    """Refuses a backend asked for an operation that none of the cases runs: it would be ignored in silence.

    Raises:
        BadInput: naming the operation and those that do run.
    """
    run = {op for case in made for op in ops_of(case.model, case.workload.kind)}
    for op in asked:
        if op not in run:
            raise BadInput(f"backend for {op}: no case here runs it; they run {', '.join(sorted(run))}.")


def _fitted(execution: Execution, spec: ModelSpec, workload: str) -> Execution:
    """The execution without what only other models of a list have a place for."""
    branches = any(block.branches for block, _ in spec.uses)
    streams = execution.streams if branches else 1
    return replace(execution, backends=_used(execution.backends, spec, workload), streams=streams)


def _used(backends: dict[str, str], spec: ModelSpec, workload: str) -> dict[str, str]:
    """Those of the backends asked for that this model runs; ``auto`` asks for nothing."""
    ops = ops_of(spec, workload)
    return {op: name for op, name in backends.items() if op in ops and name != "auto"}


def _given(text: str | None, default: str) -> str:
    """The default only where nothing was given: an empty text, as from an unset variable, is a mistake."""
    return default if text is None else text


def _execution(sweep: Sweep, device: str) -> Execution:
    dtype = sweep.dtype or ("bfloat16" if device == "cuda" else "float32")
    for name in (dtype, sweep.state_dtype):
        if name is not None and name not in DTYPE_BYTES:
            raise unknown_name("dtype", name, DTYPE_BYTES)
    decoding = sweep.workload in (DECODE, GENERATE)
    if sweep.as_published and sweep.mode not in (None, PUBLISHED):
        raise BadInput(f"as-published is a mode of its own, and mode {sweep.mode} another: give one of them.")
    mode = PUBLISHED if sweep.as_published else sweep.mode or (GRAPH if device == "cuda" and decoding else EAGER)
    if mode not in MODES:
        raise unknown_name("mode", mode, MODES)
    if mode == PUBLISHED and not decoding:
        raise BadInput(f"mode published for {sweep.workload}: only decode and generate can be run as published.")
    for op in ("attention_decode", DECODE_STEP):
        if mode == PUBLISHED and op in sweep.backends:
            raise BadInput(f"mode published has its own {op}, attention as plain eager code: leave its backend out.")
    if mode == "graph" and device != "cuda":
        raise BadInput("mode graph on the CPU: a CUDA graph needs a GPU; use --mode eager or compile.")
    if mode == "graph" and not decoding:
        raise BadInput(f"mode graph for {sweep.workload}: only decode and generate are captured; use eager or compile.")
    if sweep.state_dtype not in (None, dtype) and DTYPE_BYTES[sweep.state_dtype or dtype] <= DTYPE_BYTES[dtype]:
        raise BadInput(f"state_dtype {sweep.state_dtype} with {dtype} weights: give a wider one, or leave it out.")
    for op in sweep.backends:
        if op not in OPS:
            raise unknown_name("operation", op, OPS)
    parts = [op for op in CORE_PARTS if op in sweep.backends]
    if CORE in sweep.backends and parts:
        raise BadInput(f"backends for {CORE} and for {parts[0]}: the first runs the second itself, so ask for one.")
    if sweep.streams not in (1, 2):
        raise BadInput(f"streams {sweep.streams}: a parallel block has two branches, so give 1 or 2.")
    if sweep.streams == 2 and mode != GRAPH:
        raise BadInput(f"2 streams for {sweep.workload} in mode {mode}: only a decode step in mode graph has them.")
    if sweep.checkpoint not in CHECKPOINTS:
        raise unknown_name("checkpoint", sweep.checkpoint, CHECKPOINTS)
    if sweep.checkpoint != "none" and sweep.workload != TRAIN:
        raise BadInput(f"checkpoint {sweep.checkpoint} for {sweep.workload}: only training keeps activations.")
    if sweep.checkpoint == "selective" and mode == COMPILE:
        raise BadInput("checkpoint selective in mode compile: the compiler decides there; use full, or --mode eager.")
    return Execution(
        device,
        dtype,
        mode,
        sweep.state_dtype,
        dict(sweep.backends),
        sweep.seed,
        sweep.streams,
        sweep.checkpoint,
    )


LONGEST_S = 30 * 24 * 3600.0


def _check_seconds(seconds: float, name: str, purpose: str) -> None:
    if not math.isfinite(seconds) or seconds > LONGEST_S:
        raise BadInput(f"{name} {seconds} s: give seconds, at most {LONGEST_S:.0f} (30 days).")
    if seconds <= 0:
        raise BadInput(f"{name} {seconds} s leaves no time {purpose}: give more than 0.")


def _sampling(sweep: Sweep, device: str) -> Sampling:
    sampling = Sampling(min_time_s=ENERGY_WINDOW_S if device == "cuda" else 0.0)
    if sweep.max_time_s is not None:
        _check_seconds(sweep.max_time_s, "max_time", "to sample")
        sampling = replace(
            sampling,
            max_time_s=sweep.max_time_s,
            min_time_s=min(sampling.min_time_s, sweep.max_time_s),
            warmup_max_s=min(sampling.warmup_max_s, sweep.max_time_s),
        )
    if sweep.min_samples is not None:
        if sweep.min_samples < 1:
            raise BadInput(f"min_samples {sweep.min_samples}: give 1 or more.")
        most = max(sampling.max_samples, sweep.min_samples)
        sampling = replace(sampling, min_samples=sweep.min_samples, max_samples=most, insist=True)
    return sampling


@dataclass(frozen=True)
class Suite:
    """A named list of sweeps."""

    name: str
    sweeps: tuple[Sweep, ...]

    def cases(self, *, has_gpu: bool) -> list[Case]:
        """All cases, each once, in the order of the sweeps."""
        made = [case for sweep in self.sweeps for case in cases(sweep, has_gpu=has_gpu)]
        check_backends_used([op for sweep in self.sweeps for op in sweep.backends], made)
        return list({case.key: case for case in made}.values())


def as_published(suite: Suite) -> Suite:
    """The suite's decode and generate sweeps in mode published; training and prefill have no such mode.

    Raises:
        BadInput: the suite decodes nothing.
    """
    sweeps = tuple(replace(sweep, as_published=True) for sweep in suite.sweeps if sweep.workload in (DECODE, GENERATE))
    if not sweeps:
        raise BadInput(f"suite {suite.name} neither decodes nor generates: nothing in it can be run as published.")
    return Suite(f"{suite.name}-as-published", sweeps)


def load_suite(path: Path) -> Suite:
    """A suite from a TOML file.

    Raises:
        BadInput: no such file, not TOML, an unknown table or key (named), a value of the wrong type.
    """
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise BadInput(f"no suite at {path}: give the path of a TOML file such as suites/smoke.toml.") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise BadInput(f"{path} cannot be read as a suite ({exc}): give the path of a TOML file.") from exc
    except tomllib.TOMLDecodeError as exc:
        raise BadInput(f"{path} is not TOML: {exc}.") from exc
    for key in body:
        if key not in ("name", "defaults", "sweep"):
            raise BadInput(f"{path}: unknown key '{key}' at the top: known are name, [defaults] and [[sweep]].")
    tables = body.get("sweep", [])
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise BadInput(f"{path} has no [[sweep]] table: a suite needs at least one.")
    name = body.get("name", path.stem)
    if not isinstance(name, str):
        raise BadInput(f"{path}: name is {name!r}, not text.")
    if not name or Path(name).name != name:
        raise BadInput(f"{path}: name is {name!r}, but a folder is named after it: give one word.")
    defaults = _checked(body.get("defaults", {}), path, "[defaults]")
    made = []
    for index, table in enumerate(tables, start=1):
        merged = {**defaults, **_checked(table, path, f"[[sweep]] {index}")}
        if "workload" not in merged:
            raise BadInput(f"{path}: [[sweep]] {index} has no workload: give one of {', '.join(WORKLOADS)}.")
        made.append(Sweep(**merged))
    return Suite(name, tuple(made))


_TYPE_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table"}
_SWEEP_TYPES: dict[str, tuple[type, ...]] = {
    **{f.name: (str,) for f in fields(Sweep)},
    **dict.fromkeys(("window", "sinks", "prompt", "depths", "streams", "seed", "min_samples"), (int,)),
    **dict.fromkeys(("max_time_s", "limit_s"), (int, float)),
    **dict.fromkeys(("moe", "as_published"), (bool,)),
    "backends": (dict,),
}
_NUMBERS = ("ctx", "batch", "positions")


def _checked(table: Any, path: Path, where: str) -> dict[str, Any]:
    """A table's values with lists and plain numbers turned into the text a person would type."""
    if not isinstance(table, dict):
        raise BadInput(f"{path}: {where} is {table!r}, not a table.")
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _SWEEP_TYPES:
            raise BadInput(f"{path}: {where}: {unknown_name('key', key, _SWEEP_TYPES)}")
        if key in _NUMBERS and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, list) and _SWEEP_TYPES[key] == (str,):
            if not value:
                raise BadInput(f"{path}: {where}: {key} is an empty list: give at least one value, or leave it out.")
            value = ",".join(str(item) for item in value)
        types = _SWEEP_TYPES[key]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            wanted = " or ".join(_TYPE_WORDS[t] for t in types)
            raise BadInput(f"{path}: {where}: {key} is {value!r}, where {wanted} is expected.")
        if isinstance(value, dict) and not all(isinstance(name, str) for name in value.values()):
            raise BadInput(f"{path}: {where}: backends is {value!r}, where each operation names a backend as text.")
        values[key] = value
    return values
