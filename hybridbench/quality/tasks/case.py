"""case: one run: which model learns which task, at which setting, how, and when it is judged."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from hybridbench.arch import model as arch
from hybridbench.arch.model import ModelSpec
from hybridbench.errors import BadInput
from hybridbench.plain import from_plain, to_plain
from hybridbench.quality.tasks.examples import ExamplePart
from hybridbench.quality.tasks.task import Setting
from hybridbench.quality.training.case import key_of
from hybridbench.quality.training.recipe import LearnRecipe
from hybridbench.suite.case import COMPILE, GRAPH, Case, Execution
from hybridbench.suite.workloads import TRAIN, Workload


@dataclass(frozen=True)
class Cosine(LearnRecipe):
    """The schedule of zoology and MAD: half a cosine from the rate down to ``least``, without a warm-up."""

    beta2: float = 0.999
    least: float = 0.0

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step ``step`` (from 0) of ``steps``.

        >>> [round(Cosine(1.0, least=0.2).rate(step, 4), 3) for step in range(4)]
        [1.0, 0.883, 0.6, 0.317]
        """
        return self.least + (self.lr - self.least) * (1 + math.cos(math.pi * step / steps)) / 2


@dataclass(frozen=True)
class TaskCase:
    """One run.

    Args:
        model: with the task's vocabulary.
        task: its name.
        size: ``full`` or ``toy``: which of the task's settings ``setting`` began as.
        setting: what is learned and judged, and the recipe.
        execution: its seed is that of the weights, of the training examples and of their order.
        evaluations: how often it is judged, evenly; and once before the first step.
        positions: whether a vector of each position is learned and added to the embedding.
    """

    model: ModelSpec
    task: str
    size: str
    setting: Setting
    execution: Execution
    evaluations: int
    limit_s: float = 3600.0
    positions: bool = False

    def __post_init__(self) -> None:
        if not self.steps:
            raise BadInput(f"--batch {self.setting.batch} is more than {self.task} has examples: give a smaller one.")

    @property
    def key(self) -> str:
        """Identity of the run: equal runs have equal keys."""
        body = self.to_dict()
        del body["limit_s"]
        return key_of(body)

    @property
    def arm(self) -> str:
        """What runs of different seeds have in common."""
        return replace(self, execution=replace(self.execution, seed=0)).key

    @property
    def seed(self) -> int:
        """Of weights, examples and their order."""
        return self.execution.seed

    @property
    def steps(self) -> int:
        """Updates, unless the task is solved before."""
        return self.setting.epochs * self.setting.steps_per_epoch

    @property
    def recipe(self) -> LearnRecipe:
        """The rate of each update, and the optimizer's numbers."""
        setting = self.setting
        return Cosine(setting.lr, weight_decay=setting.weight_decay, least=min(setting.least_lr, setting.lr))

    @property
    def step_case(self) -> Case:
        """The largest training step."""
        return Case(self.model, Workload(TRAIN, self.setting.context, self.setting.batch), self.execution)

    @property
    def flops(self) -> float:
        """Model FLOPs of all updates, convention exact; the head's for every position, though few are asked for."""
        per_epoch = sum(
            arch.train_flops(self.model, part.length).total * (part.examples // self.setting.batch) * self.setting.batch
            for part in self.setting.train
        )
        return self.setting.epochs * per_epoch

    @property
    def graphed(self) -> bool:
        """Whether forward and backward are captured in CUDA graphs."""
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
        size = "" if self.size == "full" else f" at {self.size} size"
        return f"{self.task}{size} {self.model.label} {self.model.scale} lr {self.setting.lr:.3g} seed {self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``from_dict`` gives an equal case back."""
        return {
            "model": self.model.to_dict(),
            "task": self.task,
            "size": self.size,
            "setting": to_plain(self.setting),
            "execution": self.execution.to_dict(),
            "evaluations": self.evaluations,
            "limit_s": self.limit_s,
            "positions": self.positions,
        }

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> TaskCase:
        """Rebuilds a case.

        Raises:
            KeyError, TypeError, ValueError, BadInput: a field is missing, unknown or cannot be.
        """
        setting = dict(body["setting"])
        for side in ("train", "test"):
            setting[side] = tuple(from_plain(ExamplePart, part) for part in setting[side])
        made = {"setting": Setting(**setting), "execution": from_plain(Execution, body["execution"])}
        return cls(**{**body, **made, "model": ModelSpec.from_dict(body["model"])})
