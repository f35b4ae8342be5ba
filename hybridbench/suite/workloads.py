"""workloads: the table of workloads, one row each: what a step is made of, and the words for it.

A step is one or more passes over tokens. There are three kinds of passes: training and prefill process a sequence in
parallel, decoding goes token by token. A step's cost, memory and operations follow from its passes, so a new workload
is one row here and one builder in ``hybridbench.workload``:

    >>> Workload("generate", context=2048, batch=4, prompt=512).passes
    (Pass(kind='prefill', start=0, stop=512), Pass(kind='decode', start=512, stop=2048))
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

from hybridbench.errors import BadInput, unknown_name

TRAIN, PREFILL, DECODE, GENERATE = "train", "prefill", "decode", "generate"
PASSES = (TRAIN, PREFILL, DECODE)
"""Kinds of passes. Each is also the name of the workload that is this one pass."""


@dataclass(frozen=True)
class Pass:
    """A part of a step that goes over the tokens ``start`` to ``stop - 1`` of each sequence.

    Args:
        kind: one of ``PASSES``. Decoding takes a step for each token, and at the first one ``start`` tokens are cached.
    """

    kind: str
    start: int
    stop: int

    @property
    def tokens(self) -> int:
        """Tokens of one sequence that the pass goes over."""
        return self.stop - self.start


@dataclass(frozen=True)
class WorkloadRow:
    """One kind of workload.

    Args:
        name: as in data, options and TOML.
        word: as in running text.
        command: the subcommand that measures it.
        about: the subcommand's help.
        passes: kinds of the passes of a step, in order.
        edges: where the passes begin and end, in tokens of one sequence: one more than there are passes.
        ctx_on_gpu, ctx_on_cpu: the contexts measured when none are given.
        utilisation: the metric of how much of the machine a step used: of the resource that bounds the step.
        prompted: whether a step begins with a prompt of its own length, which ``Workload.prompt`` gives.
    """

    name: str
    word: str
    command: str
    about: str
    passes: tuple[str, ...]
    edges: Callable[[Workload], tuple[int, ...]]
    ctx_on_gpu: str
    ctx_on_cpu: str
    utilisation: str
    prompted: bool = False

    @property
    def trains(self) -> bool:
        """Whether a step has a backward pass and an optimizer; if not, it keeps caches."""
        return TRAIN in self.passes

    @property
    def over_sequences(self) -> bool:
        """Whether a step runs operations over whole sequences."""
        return any(kind != DECODE for kind in self.passes)

    @property
    def decodes(self) -> bool:
        """Whether a step runs decode steps."""
        return DECODE in self.passes


WORKLOADS: dict[str, WorkloadRow] = {
    row.name: row
    for row in (
        WorkloadRow(
            TRAIN,
            word="training",
            command="train-throughput",
            about="Training steps: forward, loss, backward and AdamW over sequences of --ctx tokens.",
            passes=(TRAIN,),
            edges=lambda work: (0, work.context),
            ctx_on_gpu="8k",
            ctx_on_cpu="1k",
            utilisation="mfu_frac",
        ),
        WorkloadRow(
            PREFILL,
            word="prefill",
            command="prefill",
            about="Prefill of a prompt of --ctx tokens: time to first token. Only the last position meets the head.",
            passes=(PREFILL,),
            edges=lambda work: (0, work.context),
            ctx_on_gpu="4k..32k",
            ctx_on_cpu="1k..4k",
            utilisation="mfu_frac",
        ),
        WorkloadRow(
            DECODE,
            word="decode",
            command="decode",
            about="Decode steps at a fixed context: --ctx tokens are cached and one token per sequence is decoded, "
            "again and again at the same context. On a GPU a step is one replay of a captured CUDA graph.",
            passes=(DECODE,),
            edges=lambda work: (work.context, work.context + 1),
            ctx_on_gpu="4k..128k",
            ctx_on_cpu="4k..32k",
            utilisation="mbu_frac",
        ),
        WorkloadRow(
            GENERATE,
            word="generation",
            command="generate",
            about="Whole generations: a prompt of --prompt tokens, then token by token to --ctx tokens in all, as the "
            "paper measures decoding.",
            passes=(PREFILL, DECODE),
            edges=lambda work: (0, work.prompt, work.context),
            ctx_on_gpu="2k..8k",
            ctx_on_cpu="640",
            utilisation="mbu_frac",
            prompted=True,
        ),
    )
}
"""Every workload, by name, in the order in which commands and reports list them."""


def workload_row(kind: str) -> WorkloadRow:
    """The row of a kind of workload.

    Raises:
        BadInput: an unknown kind; the text names the known ones.
    """
    if kind not in WORKLOADS:
        raise unknown_name("workload", str(kind), WORKLOADS)
    return WORKLOADS[kind]


def one_pass() -> tuple[str, ...]:
    """The workloads of one pass: they have one roofline, and one step that can be counted."""
    return tuple(name for name, row in WORKLOADS.items() if len(row.passes) == 1)


def check_one_pass(kind: str, name: str = "workload") -> None:
    """Check that a workload is one of ``one_pass()``.

    Args:
        kind: the workload.
        name: the option that gave it, for the message.

    Raises:
        BadInput: a generation, which is two workloads, or an unknown name.
    """
    if kind in one_pass():
        return
    if kind in WORKLOADS:
        parts = " and ".join(WORKLOADS[kind].passes)
        raise BadInput(f"{name} {kind} is {parts} in one: give one of {', '.join(one_pass())}.")
    raise unknown_name("workload", kind, one_pass())


def names_where(holds: Callable[[WorkloadRow], bool]) -> str:
    """The names of the workloads for which ``holds`` is true, for a message."""
    return " and ".join(name for name, row in WORKLOADS.items() if holds(row))


@dataclass(frozen=True)
class Workload:
    """The work one step does.

    Args:
        kind: a name in ``WORKLOADS``: ``train`` (forward, loss, backward, AdamW), ``prefill`` (a prompt, last position
            through the head), ``decode`` (one token per sequence at a fixed context) or ``generate`` (a prompt, then
            tokens one by one up to ``context`` in all: the paper's protocol).
        context: sequence length, prompt length, cached tokens, or total length.
        batch: sequences.
        prompt: prompt tokens of a generation, else 0.
        depths: 0 generates every token of a generation. Else its prefill and its decode steps at this many contexts
            are timed, and the time of the whole is integrated over them (``stats.sum_between``).

    Raises:
        BadInput: an unknown kind.
    """

    kind: str
    context: int
    batch: int
    prompt: int = 0
    depths: int = 0

    def __post_init__(self) -> None:
        workload_row(self.kind)

    @property
    def row(self) -> WorkloadRow:
        """What is known of this kind of workload."""
        return workload_row(self.kind)

    @functools.cached_property
    def passes(self) -> tuple[Pass, ...]:
        """What a step goes over, one pass after the other."""
        row = self.row
        return tuple(
            Pass(kind, start, stop)
            for kind, (start, stop) in zip(row.passes, itertools.pairwise(row.edges(self)), strict=True)
        )

    @property
    def tokens(self) -> int:
        """Tokens one sample processes (train, prefill) or yields (decode, generate), over the whole batch."""
        return self.batch * self.passes[-1].tokens

    @property
    def cache_tokens(self) -> int:
        """Tokens each sequence's cache must have room for; 0 in training, which keeps none."""
        return 0 if self.row.trains else self.passes[-1].stop

    @property
    def sequence_tokens(self) -> int:
        """Tokens that operations over a sequence meet at once; the context where there are none."""
        return next((one.stop for one in self.passes if one.kind != DECODE), self.context)

    @property
    def first_steps(self) -> tuple[Workload, ...]:
        """For each pass the workload of that pass alone, of decoding its first step."""
        return tuple(
            Workload(one.kind, one.start if one.kind == DECODE else one.stop, self.batch) for one in self.passes
        )

    @property
    def timed_contexts(self) -> tuple[int, ...]:
        """The contexts at which an integrated generation is timed: evenly from its first decode step to its last.

        >>> Workload("generate", context=2048, batch=1, prompt=512, depths=5).timed_contexts
        (512, 895, 1279, 1663, 2047)
        """
        gaps, last = self.depths - 1, self.context - 1
        return tuple(self.prompt + (last - self.prompt) * index // gaps for index in range(self.depths))
