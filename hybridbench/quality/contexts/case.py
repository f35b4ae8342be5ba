"""case: one trained model at long contexts: which weights, how far beyond its training, and on how much text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from hybridbench import units
from hybridbench.arch.model import ModelSpec
from hybridbench.plain import from_plain
from hybridbench.quality.training.case import key_of
from hybridbench.suite.case import EAGER, Case, Execution
from hybridbench.suite.workloads import GENERATE, PREFILL, Workload

ANSWER = 20
"""Tokens that are generated after a prompt with a needle (arXiv 2510.04800, section on NIAH)."""
BUCKETS = 8
"""Parts of the trained length that losses are averaged over: the paper's 1k of 8k."""


@dataclass(frozen=True)
class Beyond:
    """How far and how much.

    Args:
        times: how many times the trained length documents are read to.
        documents: that are read, at most; drawn at random from those that are long enough.
        lengths: of prompts with a needle, in tokens.
        depths: where needles stand, in percent of the text before and after them.
        trials: prompts for each length and depth.
    """

    times: int
    documents: int
    lengths: tuple[int, ...]
    depths: tuple[int, ...]
    trials: int

    @property
    def prompts(self) -> int:
        """Prompts of one length, of all depths together."""
        return len(self.depths) * self.trials


@dataclass(frozen=True)
class There:
    """Where a run reads, which is no part of what it is."""

    corpus: str
    weights: str


@dataclass(frozen=True)
class ContextCase:
    """One trained model at long contexts.

    Args:
        model: as trained.
        learned: key of the training run (``LearnCase.key``).
        corpus: key of the corpus whose held-out part is read.
        trained: tokens of a sequence in training.
        seed: of the training run; documents and needles are the same for all.
        tokens: that it learned from.
        batch: prompts that are read and continued at once, of any length; documents, which are longer, take no more
            tokens at once. Where there are no prompts, documents.
        arm, lr: of the training run: what it has in common with those of other seeds (``LearnCase.arm``), and its
            learning rate. They follow from ``learned``; earlier records do not tell them.
        execution: how it is run. Documents and prompts are read eagerly in either mode; in mode ``graph`` the decode
            step of a continuation is a captured CUDA graph, as in ``decode``.
    """

    model: ModelSpec
    learned: str
    corpus: str
    trained: int
    seed: int
    tokens: int
    beyond: Beyond
    batch: int
    execution: Execution
    place: There
    limit_s: float = 3600.0
    arm: str = ""
    lr: float | None = None

    @property
    def key(self) -> str:
        """Identity of the run: equal runs have equal keys. How it is batched and whether steps are captured is no part
        of it: the same tokens are read, and earlier records, whose steps were eager, are of the same runs.
        """
        body = replace(self, execution=replace(self.execution, mode=EAGER)).to_dict()
        del body["place"], body["limit_s"], body["batch"], body["arm"], body["lr"]
        return key_of(body)

    @property
    def span(self) -> int:
        """Tokens that are read of a document."""
        return self.beyond.times * self.trained

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt; 0 where there are none."""
        return max(self.beyond.lengths, default=0)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that is read."""
        return max(self.span, self.longest_prompt, 1)

    @property
    def documents_at_once(self) -> int:
        """Documents that are read at once: no more tokens than those of a batch of the longest prompts."""
        fit = max(1, self.batch * self.longest_prompt // self.span) if self.longest_prompt else self.batch
        return min(fit, self.beyond.documents)

    @property
    def tokens_read(self) -> int:
        """Tokens that go through the model, if there are as many documents as asked: those of documents; those of
        prompts twice, to go on after them and to judge the answer; and those that follow a prompt.
        """
        beyond = self.beyond
        of_prompts = sum(2 * length + ANSWER for length in beyond.lengths) * beyond.prompts
        return beyond.documents * self.span + of_prompts

    @property
    def work(self) -> Case:
        """A generation after the longest sequence, of as many tokens at once as are read: its operations are those
        that run.
        """
        batch = max(1, self.batch * self.longest_prompt // self.longest) if self.longest_prompt else self.batch
        return Case(self.model, Workload(GENERATE, self.longest + ANSWER, batch, prompt=self.longest), self.execution)

    def reading(self, documents: int) -> Case:
        """What a batch of so many documents is to the check at size."""
        return Case(self.model, Workload(PREFILL, self.span, documents), self.execution)

    @property
    def continuing(self) -> Case:
        """What a batch of the longest prompts and what follows them is to the check at size."""
        prompt = self.longest_prompt
        return Case(self.model, Workload(GENERATE, prompt + ANSWER, self.batch, prompt=prompt), self.execution)

    @property
    def device(self) -> str:
        """The kind of device that it runs on."""
        return self.execution.device

    @property
    def compiled(self) -> bool:
        """Nothing is compiled: each length would be compiled anew."""
        return False

    @property
    def how(self) -> str:
        """How it is run, in a few words."""
        return f"{self.execution.device} {self.execution.dtype}"

    @property
    def label(self) -> str:
        """One line for progress and errors."""
        longest = units.format_tokens(self.longest)
        return f"contexts {self.model.label} {self.model.scale} to {longest} tokens, seed {self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``from_dict`` gives an equal case back."""
        return {
            "model": self.model.to_dict(),
            "learned": self.learned,
            "corpus": self.corpus,
            "trained": self.trained,
            "seed": self.seed,
            "tokens": self.tokens,
            "beyond": {**asdict(self.beyond), "lengths": list(self.beyond.lengths), "depths": list(self.beyond.depths)},
            "batch": self.batch,
            "execution": self.execution.to_dict(),
            "place": asdict(self.place),
            "limit_s": self.limit_s,
            "arm": self.arm,
            "lr": self.lr,
        }

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> ContextCase:
        """Rebuilds a case.

        Raises:
            KeyError, TypeError, ValueError, BadInput: a field is missing, unknown or cannot be.
        """
        beyond = dict(body["beyond"])
        for name in ("lengths", "depths"):
            beyond[name] = tuple(int(one) for one in beyond[name])
        made = {
            "beyond": Beyond(**beyond),
            "execution": from_plain(Execution, body["execution"]),
            "place": from_plain(There, body["place"]),
        }
        return cls(**{**body, **made, "model": ModelSpec.from_dict(body["model"])})
