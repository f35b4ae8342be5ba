"""trainer: the updates of a training run between two pauses, timed, watched, and judged when that is due.

What is learned from, how it is judged and what is kept differ from one kind of run to another: subclasses say so.
Losses stay on the device and are read at pauses, so a GPU never waits for Python. Time and energy are those of the
updates alone, between two synchronisations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from hybridbench.bench import Bench
from hybridbench.model.language import LanguageModel
from hybridbench.quality.training.optimizer import MasterAdamW
from hybridbench.quality.training.recipe import LearnRecipe
from hybridbench.quality.training.record import Event, Mark
from hybridbench.quality.training.watch import ending, new_events
from hybridbench.units import NS_PER_S

PAUSES = 50
"""How often in a run losses are read, at least: after so many parts of it."""
CHECKPOINT_S = 60.0
"""Seconds of training after which a checkpoint is written, beside those at each judgement."""


class Run(Protocol):
    """What the updates need to know of a case."""

    @property
    def steps(self) -> int:
        """Updates in all."""

    @property
    def evaluations(self) -> int:
        """How often in the run it is judged, evenly."""

    @property
    def recipe(self) -> LearnRecipe:
        """The rate of each update."""


class Done(Protocol):
    """How far a run is; the attributes are those of ``checkpoint.Progress``."""

    step: int
    train_ns: int
    energy_j: float | None
    losses: list[float]
    norms: list[float]
    events: list[Event]


class Trainer:
    """A model in training: what changes from step to step, and the steps.

    Subclasses set the attributes.

    Attributes:
        case: how often the model is judged, and the rate of each update.
        progress: how far it is, which the updates change.
        optimizer: of the weights as they are to begin with.
    """

    case: Run
    progress: Done
    bench: Bench
    model: LanguageModel
    optimizer: MasterAdamW

    def gradients_of(self, step: int) -> tuple[Tensor, Tensor]:
        """The loss of a step's batch, and the norm of its gradients, whose clipped values the optimizer then holds."""
        raise NotImplementedError

    def kinds(self, stop: int) -> Sequence[int]:
        """The kind of batch that each step before ``stop`` had: the watch compares only losses of one kind."""
        return [0] * stop

    def judge(self) -> bool:
        """Judges the model as it is; whether there is nothing left to learn."""
        raise NotImplementedError

    def keep(self) -> None:
        """Writes what an interrupted run needs to go on."""

    def said(self) -> str:
        """The progress in words."""
        raise NotImplementedError

    def train(self) -> None:
        """All steps that are left, with pauses. It ends early where the run goes wrong or has learned all."""
        done, case = self.progress, self.case
        judged_at = {case.steps * (n + 1) // case.evaluations for n in range(case.evaluations)}
        saved_ns = done.train_ns
        for stop in stops_of(case.steps, case.evaluations, done.step):
            self.steps_until(stop)
            ended = ending(done.events) is not None
            learned = stop in judged_at and not ended and self.judge()
            if ended or stop in judged_at or done.train_ns - saved_ns > CHECKPOINT_S * NS_PER_S:
                self.keep()
                saved_ns = done.train_ns
            self.bench.phase(self.said())
            if ended or learned:
                return

    def steps_until(self, stop: int) -> None:
        """Updates up to ``stop``, then waits for them and reads their losses."""
        done, bench = self.progress, self.bench
        losses, norms = [], []
        with self._energy():
            began = bench.instruments.now()
            for step in range(done.step, stop):
                loss, norm = self.step(step)
                losses.append(loss)
                norms.append(norm)
            told = torch.stack([torch.stack(losses).float(), torch.stack(norms)]).tolist()  # waits for the device
            done.train_ns += bench.instruments.now() - began
        first = done.step
        events = new_events(done.losses + told[0], done.norms + told[1], self.kinds(stop), first, done.events)
        good = next((event.step for event in events if event.mark is Mark.NOT_A_NUMBER), stop)
        done.losses += told[0][: good - first]
        done.norms += told[1][: good - first]
        done.events += events
        done.step = stop

    def step(self, step: int) -> tuple[Tensor, Tensor]:
        """One update; its loss and the norm of its gradients, still on the device."""
        self.model.train()
        loss, norm = self.gradients_of(step)
        self.optimizer.update(self.case.recipe.rate(step, self.case.steps))
        self.model.balance_experts()
        return loss, norm

    @contextlib.contextmanager
    def _energy(self) -> Iterator[None]:
        """Adds the energy of what runs inside; unknown once it is unknown."""
        gpu = self.bench.gpu
        before = gpu.total_energy_j() if gpu else None
        yield
        after = gpu.total_energy_j() if gpu else None
        known = self.progress.energy_j
        if known is not None:
            self.progress.energy_j = None if before is None or after is None else known + after - before


def stops_of(steps: int, evaluations: int, done: int) -> list[int]:
    """The steps after ``done`` at which a run pauses: ``PAUSES`` even parts, and every judgement."""
    parts = min(PAUSES, steps)
    stops = {steps * (n + 1) // parts for n in range(parts)}
    stops |= {steps * (n + 1) // evaluations for n in range(evaluations)}
    return sorted(stop for stop in stops if stop > done)
