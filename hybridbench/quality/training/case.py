"""case: one training run: which model learns from which corpus, for how long, how, and when it is judged."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from hybridbench import units
from hybridbench.arch import model as arch
from hybridbench.arch.model import ModelSpec
from hybridbench.plain import from_plain
from hybridbench.quality.training.recipe import LearnRecipe
from hybridbench.suite.case import COMPILE, GRAPH, Case, Execution
from hybridbench.suite.workloads import TRAIN, Workload

TUNING_SEED = 20_251_006
"""The seed of runs that only choose a learning rate: none of the seeds that are compared."""


@dataclass(frozen=True)
class Judging:
    """When and on what a model is judged.

    Args:
        evaluations: how often in the run, evenly; and once before the first step.
        sequences: of held-out text, evenly spread over it.
    """

    evaluations: int
    sequences: int


@dataclass(frozen=True)
class RunFiles:
    """Where a run reads and writes, which is no part of what it is.

    Args:
        corpus: the corpus's folder.
        out: the folder of results, below which checkpoints lie.
        resume: whether to go on from a checkpoint there.
        at_once: how many runs share the device.
    """

    corpus: str
    out: str
    resume: bool = False
    at_once: int = 1


@dataclass(frozen=True)
class LearnCase:
    """One training run.

    Args:
        model: with the corpus's vocabulary.
        corpus: key of the corpus (``Manifest.key``).
        context: tokens of a sequence; the first one it reads is BOS.
        batch: sequences of a step.
        steps: updates.
        execution: its seed is that of the weights and of the order of the data.
        sampling: when it is judged.
        place: where it runs; not part of its identity.
    """

    model: ModelSpec
    corpus: str
    context: int
    batch: int
    steps: int
    recipe: LearnRecipe
    execution: Execution
    sampling: Judging
    place: RunFiles
    limit_s: float = 3600.0

    @property
    def key(self) -> str:
        """Identity of the run: equal runs have equal keys."""
        return key_of(self._identity())

    @property
    def arm(self) -> str:
        """What runs of different seeds have in common: everything but the seed."""
        body = self._identity()
        del body["execution"]["seed"]
        return key_of(body)

    def _identity(self) -> dict[str, Any]:
        body = self.to_dict()
        del body["place"], body["limit_s"]
        return body

    @property
    def seed(self) -> int:
        """Of weights and data order."""
        return self.execution.seed

    @property
    def evaluations(self) -> int:
        """How often it is judged."""
        return self.sampling.evaluations

    @property
    def tuning(self) -> bool:
        """Whether it only helps to choose a learning rate."""
        return self.seed == TUNING_SEED

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one update learns from."""
        return self.batch * self.context

    @property
    def tokens(self) -> int:
        """Tokens in all."""
        return self.steps * self.tokens_per_step

    @property
    def flops_per_token(self) -> float:
        """Model FLOPs of a token's forward and backward, convention exact."""
        return arch.train_flops(self.model, self.context).total / self.context

    @property
    def step_case(self) -> Case:
        """The training step that sweeps measure at this size."""
        return Case(self.model, Workload(TRAIN, self.context, self.batch), self.execution)

    @property
    def graphed(self) -> bool:
        """Whether forward and backward are captured in a CUDA graph."""
        return self.execution.mode == GRAPH

    @property
    def device(self) -> str:
        """The kind of device that it runs on."""
        return self.execution.device

    @property
    def how(self) -> str:
        """How it is run, in a few words."""
        return f"{self.execution.device} {self.execution.dtype} {self.execution.mode}"

    @property
    def compiled(self) -> bool:
        """Whether its layers are compiled."""
        return self.execution.mode == COMPILE

    @property
    def label(self) -> str:
        """One line for progress and errors."""
        seed = "to choose a rate" if self.tuning else f"seed {self.seed}"
        tokens = units.format_tokens(self.tokens)
        return f"learn {self.model.label} {self.model.scale} {tokens} tokens lr {self.recipe.lr:.3g} {seed}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``from_dict`` gives an equal case back."""
        return {
            "model": self.model.to_dict(),
            "corpus": self.corpus,
            "context": self.context,
            "batch": self.batch,
            "steps": self.steps,
            "recipe": asdict(self.recipe),
            "execution": self.execution.to_dict(),
            "sampling": asdict(self.sampling),
            "place": asdict(self.place),
            "limit_s": self.limit_s,
        }

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> LearnCase:
        """Rebuilds a case.

        Raises:
            KeyError, TypeError, ValueError, BadInput: a field is missing, unknown or cannot be.
        """
        parts: dict[str, type[Any]] = {
            "recipe": LearnRecipe,
            "execution": Execution,
            "sampling": Judging,
            "place": RunFiles,
        }
        made = {name: from_plain(kind, body[name]) for name, kind in parts.items()}
        return cls(**{**body, **made, "model": ModelSpec.from_dict(body["model"])})


def key_of(body: dict[str, Any]) -> str:
    """Identity of what plain values describe: equal values have equal keys."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
