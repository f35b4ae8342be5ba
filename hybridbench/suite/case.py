"""case: one cell of a comparison: which model does which work, how it is run, and how long it is sampled.

A case's key is its identity: equal cases have equal keys, however they were made, and records are found by it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from hybridbench import units
from hybridbench.arch.block import Storage
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.stored import Dtypes
from hybridbench.arch.weights import Quantised
from hybridbench.plain import from_plain
from hybridbench.suite.workloads import Workload
from hybridbench.text import shown

EAGER, COMPILE, GRAPH, PUBLISHED = "eager", "compile", "graph", "published"
MODES = (EAGER, COMPILE, GRAPH, PUBLISHED)
CHECKPOINTS = ("none", "selective", "full")
"""Which activations a training step keeps: ``none`` all of them; ``selective`` all but those that elementwise work can
recompute from the others (``arch.terms.Term.cheap``); ``full`` only the residual stream before each sublayer."""


@dataclass(frozen=True)
class Execution:
    """How the work is run.

    Args:
        device: ``cpu`` or ``cuda``.
        dtype: of activations and conv state, and of weights, keys and values that are not quantised.
        state_dtype: of the SSM state, None for ``dtype``.
        mode: ``eager``, ``compile`` (torch.compile), ``graph`` (a captured CUDA graph) or ``published`` (decoding as
            the source paper's figures suggest: attention eager with a growing cache, the rest in CUDA graphs).
        backends: the backend asked for per operation; an operation without an entry is ``auto``.
        seed: of weights and inputs.
        streams: CUDA streams a decode step's parallel branches run on: 1 (one after the other) or 2 (side by side).
        checkpoint: which activations a training step keeps: one of ``CHECKPOINTS``.
        gpus: ranks that a training step's sequences are divided over (FSDP2), one GPU each; on a CPU processes.
        tp: ranks that every sublayer's heads and columns are divided over (tensor parallel), one GPU each.
        weight_dtype: the scheme in which weights of products are stored (``arch.weights.RUN_SCHEMES``); None for none.
        kv_dtype: the format of keys and values (``arch.stored.RUN_KV``); None for ``dtype``.
    """

    device: str
    dtype: str
    mode: str
    state_dtype: str | None = None
    backends: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    streams: int = 1
    checkpoint: str = "none"
    gpus: int = 1
    tp: int = 1
    weight_dtype: str | None = None
    kv_dtype: str | None = None

    @property
    def ranks(self) -> int:
        """Processes that run the case together, each with a GPU of its own."""
        return self.gpus * self.tp

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the fields that later versions added where they say nothing: a case that does not
        use them keeps its key.
        """
        body = asdict(self)
        for name, plain in _LATER.items():
            if body[name] == plain:
                del body[name]
        return body

    def stored_in(self, dtypes: Dtypes) -> Execution:
        """The same, storing everything in these dtypes."""
        return replace(
            self,
            dtype=dtypes.weights,
            state_dtype=None if dtypes.state == dtypes.weights else dtypes.state,
            weight_dtype=None if dtypes.quantised is None else dtypes.quantised.scheme.name,
            kv_dtype=None if dtypes.kv == dtypes.weights else dtypes.kv,
        )

    @property
    def quantises(self) -> bool:
        """Whether anything is stored in fewer bits than it is computed with."""
        return self.weight_dtype is not None or self.kv_dtype is not None

    @property
    def dtypes(self) -> Dtypes:
        """The dtype of everything that is stored."""
        plain = Dtypes.of(self.dtype, self.state_dtype, self.kv_dtype)
        return plain if self.weight_dtype is None else replace(plain, quantised=Quantised.asked(self.weight_dtype))

    @property
    def storage(self) -> Storage:
        """Bytes per element this execution stores."""
        return self.dtypes.storage


_LATER = {"gpus": 1, "tp": 1, "weight_dtype": None, "kv_dtype": None}
"""Fields of an execution that older records lack, with what they mean there."""


def stored_text(execution: Execution) -> dict[str, str]:
    """What is stored in another dtype than the execution's, in a few words each.

    >>> list(stored_text(Execution("cuda", "bfloat16", "graph", kv_dtype="fp8")).values())
    ['', '', 'KV cache fp8']
    """
    named = {
        "state": ("SSM state", execution.state_dtype),
        "weights": ("weights", execution.weight_dtype),
        "kv": ("KV cache", execution.kv_dtype),
    }
    return {name: f"{words} {dtype}" if dtype else "" for name, (words, dtype) in named.items()}


def spread_text(execution: Execution) -> str:
    """How a case is spread over several ranks, in a few words; empty for one.

    >>> spread_text(Execution("cuda", "bfloat16", "eager", gpus=2))
    'FSDP2 on 2 GPUs'
    """
    what = "GPUs" if execution.device == "cuda" else "processes"
    if execution.gpus > 1:
        return f"FSDP2 on {execution.gpus} {what}"
    return f"tensor parallel on {execution.tp} {what}" if execution.tp > 1 else ""


@dataclass(frozen=True)
class Sampling:
    """When to stop warming up and when to stop sampling.

    Sampling ends when the 95% interval of the median is within ``target_rel_ci``, after ``max_samples``, or after
    ``max_time_s`` of sampled time. It takes at least ``min_samples`` unless ``max_time_s`` ends first; with ``insist``
    it takes them in any case. It lasts at least ``min_time_s``, even past ``max_samples``, because some counters (of
    energy, for one) tick slowly.
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
        """Whether the case only asks if the work runs at all: one sample, with nothing counted or profiled."""
        return self.max_samples == 1


@dataclass(frozen=True)
class Case:
    """One cell: which model does which work, how, and how long it may take.

    Args:
        ratios: all the ratios that were asked for and make this model, where they are several; the first is the
            model's own. Not part of which case it is.
    """

    model: ModelSpec
    workload: Workload
    execution: Execution
    sampling: Sampling = Sampling()
    limit_s: float = 600.0
    ratios: tuple[str, ...] = ()

    @cached_property
    def key(self) -> str:
        """Identity of the case: equal cases have equal keys, however they were made."""
        identity = self.to_dict()
        del identity["limit_s"]  # sampling and time limits do not change which case it is
        identity.pop("ratios", None)
        canonical = json.dumps(_canonical(identity), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def device(self) -> str:
        """The kind of device that it runs on."""
        return self.execution.device

    @property
    def ranks(self) -> int:
        """Processes that run it together, each with a GPU of its own."""
        return self.execution.ranks

    @property
    def how(self) -> str:
        """How it is run, in a few words."""
        return f"{self.execution.device} {self.execution.dtype} {self.execution.mode}"

    @property
    def compiled(self) -> bool:
        """Whether its layers are compiled, so that what was compiled is dropped after it."""
        return self.execution.mode == COMPILE

    @property
    def label(self) -> str:
        """One line for progress and errors."""
        work = self.workload
        context = units.format_tokens(work.context)
        more = f" at {work.depths} depths" if work.depths else ""
        if self.execution.checkpoint != "none":
            more += f", {self.execution.checkpoint} checkpointing"
        if self.ranks > 1:
            more += f", {spread_text(self.execution)}"
        stored = stored_text(self.execution)
        more += "".join(f", {stored[name]}" for name in ("weights", "kv") if stored[name])
        return f"{work.kind} {self.model.label} {self.model.scale} ctx {context} b{work.batch}{more}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``from_dict`` gives an equal case back."""
        return {
            "model": self.model.to_dict(),
            "workload": asdict(self.workload),
            "execution": self.execution.to_dict(),
            "sampling": asdict(self.sampling),
            "limit_s": self.limit_s,
            **({"ratios": list(self.ratios)} if self.ratios else {}),
        }

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Case:
        """Rebuilds a case.

        Raises:
            KeyError, TypeError, ValueError: a field is missing, unknown or of the wrong type.
            BadInput: the fields are there but do not make a model, or the workload is of an unknown kind.
        """
        return cls(
            model=ModelSpec.from_dict(body["model"]),
            workload=from_plain(Workload, body["workload"]),
            execution=from_plain(Execution, body["execution"]),
            sampling=from_plain(Sampling, body["sampling"]),
            limit_s=body["limit_s"],
            ratios=_texts(body.get("ratios", ())),
        )


def _texts(found: object) -> tuple[str, ...]:
    """A list of texts as a tuple.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(found, list | tuple) or not all(isinstance(one, str) for one in found):
        raise TypeError(f"ratios: expected a list of texts, not {shown(found)}")
    return tuple(found)


def _canonical(value: Any) -> Any:
    """JSON values with whole floats as integers: 5 and 5.0 seconds are equal, so their text must be equal too."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
