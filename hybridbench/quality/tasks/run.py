"""run: one task from its case to what is observed: draw, build, check, train, judge.

The step is that of ``workload.train`` with one difference: the head and the loss see only positions at which something
is asked. Kernels are verified, and forward and backward are checked at the size of the largest training step. On a GPU
forward and backward are one CUDA graph for each part of the training set, whose sequences are of one length, and gather
their batch by its numbers there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from hybridbench.bench import Bench, backend_uses
from hybridbench.measure.memory import observe_memory, reset_peaks
from hybridbench.measure.nvml import Watch
from hybridbench.model.build import Resolved, build_model, parameter_count, resolve_backends
from hybridbench.model.language import LanguageModel
from hybridbench.quality.tasks.case import TaskCase
from hybridbench.quality.tasks.examples import IGNORED, Examples
from hybridbench.quality.tasks.pooled import Decoder
from hybridbench.quality.tasks.positions import Positions
from hybridbench.quality.tasks.record import Scored, TaskObserved
from hybridbench.quality.tasks.task import TASKS
from hybridbench.quality.training.optimizer import MasterAdamW
from hybridbench.quality.training.record import Event
from hybridbench.quality.training.start import check_start
from hybridbench.quality.training.step import Gradients, graphed, launched
from hybridbench.quality.training.trainer import Trainer
from hybridbench.quality.training.watch import ending
from hybridbench.record import Caveat, SizeCheck
from hybridbench.units import NS_PER_S, format_number, format_seconds
from hybridbench.workload.at_size import Checker


def run_task(case: TaskCase, bench: Bench) -> tuple[TaskObserved, list[Caveat]]:
    """Runs one case and returns what was observed, with its caveats.

    Raises:
        Unsupported, WrongResult: before the first update.
        torch.OutOfMemoryError: the run does not fit.
    """
    now = bench.instruments.now
    bench.phase("draw and build")
    began = now()
    learner = TaskLearner(case, bench)
    built = now()
    bench.phase("verify and check")
    sized, caveats = learner.check()
    start = check_start(learner.model)
    learner.begin()
    prepared = now()
    reset_peaks(bench.device)
    watch = Watch(bench.gpu, now)
    with watch:
        learner.judge()
        learner.train()
    done = learner.progress
    memory = observe_memory(bench.device, learner.model)
    observed = TaskObserved(
        losses=done.means,
        curve=done.curve,
        events=done.events,
        finished=ending(done.events) is None,
        start=start,
        parameters=parameter_count(learner.model),
        memory=replace(memory, optimizer_bytes=learner.optimizer.nbytes),
        backends=backend_uses(learner.resolved, [], bench.proofs),
        sized=sized,
        build_ns=built - began,
        prepare_ns=prepared - built,
        gpu_before=watch.before,
        gpu_after=watch.after,
    )
    return observed, caveats


@dataclass
class Reached:
    """How far a run is; the first attributes are those of ``training.checkpoint.Progress``.

    Attributes:
        means: of the losses between two pauses.
    """

    step: int = 0
    train_ns: int = 0
    energy_j: float | None = None
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    curve: list[Scored] = field(default_factory=list)
    means: list[float] = field(default_factory=list)


class AskedExamples:
    """Examples on a device, with the places at which something is asked.

    Every sequence to train on has equally many of them, so that no step waits to count them, and all batches of a part
    are of one shape.
    """

    def __init__(self, examples: Examples, device: torch.device) -> None:
        self._token_NT = torch.from_numpy(examples.token_NT).to(device)
        self._target_NT = torch.from_numpy(examples.target_NT).to(device)
        counts = (examples.target_NT != IGNORED).sum(1)
        places = np.nonzero(examples.target_NT != IGNORED)[1]
        equal = bool((counts == counts[0]).all())
        self._place_NA = torch.from_numpy(places.reshape(len(counts), -1)).to(device) if equal else None

    def __len__(self) -> int:
        return len(self._token_NT)

    def rows(self, number_B: Tensor | slice) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, T) of some sequences; the flat places in them at which something is asked (A), and what (A)."""
        token_BT, target_BT = self._token_NT[number_B], self._target_NT[number_B]
        if self._place_NA is None:
            place_A = (target_BT.flatten() != IGNORED).nonzero()[:, 0]
        else:
            first_B1 = torch.arange(len(token_BT), device=token_BT.device)[:, None] * token_BT.shape[1]
            place_A = (first_B1 + self._place_NA[number_B]).flatten()
        return token_BT, place_A, target_BT.flatten()[place_A]


class TaskLearner(Trainer):
    """A model that learns a task and is judged on examples of several sizes."""

    case: TaskCase
    progress: Reached

    def __init__(self, case: TaskCase, bench: Bench) -> None:
        self.case, self.bench, self.device = case, bench, bench.device
        self.resolved: list[Resolved] = resolve_backends(case.step_case)
        self.model: LanguageModel = build_model(case.step_case, self.resolved)
        self.model.allocate(self.device, case.seed)
        task, setting = TASKS[case.task], case.setting
        self.decoder = Decoder(self.model, setting.context, case.seed) if task.pooled else None
        self.positions = Positions(self.model, setting.longest, case.seed) if case.positions else None
        self.parts = [AskedExamples(part, self.device) for part in task.train(setting, case.seed)]
        self.tests = [AskedExamples(part, self.device) for part in task.test(setting)]
        self.progress = Reached(energy_j=None if bench.gpu is None else 0.0)
        self._batches: list[tuple[int, Tensor]] = []
        self._epoch = -1
        self._kinds: list[int] = []

    def check(self) -> tuple[list[SizeCheck], list[Caveat]]:
        """Verifies the kernels, and checks forward and backward on a batch of the longest sequences to train on."""
        proofs, case = self.bench.proofs, self.case
        proofs.verify(self.resolved, self.device)
        checker = Checker(case.step_case, self.model, self.resolved, proofs.known, self.bench.instruments.now)
        token_BT = max((part.rows(slice(case.setting.batch))[0] for part in self.parts), key=lambda one: one.shape[1])
        self.model.train()
        checker.train(token_BT, token_BT.roll(-1, 1))
        self.model.zero_grad(set_to_none=True)
        self.model.allocate(self.device, case.seed)
        return checker.checks, [Caveat.NOT_CHECKED] if checker.unchecked else []

    def begin(self) -> None:
        """Makes the optimizer and the steps, one for each part that a batch can be of."""
        modules = (self.model, self.decoder, self.positions)
        named = [one for module in modules if module is not None for one in module.named_parameters()]
        self.optimizer = MasterAdamW(named, self.model.ops["adamw"], self.case.recipe)
        self.model.train()
        batch, train = self.case.setting.batch, self.case.setting.train
        parts = [number for number, part in enumerate(train) if part.examples >= batch]
        parts.sort(key=lambda number: (-train[number].length, -train[number].pairs))  # the others fit in its memory
        steps = [launched(partial(self.loss_of, part), self.optimizer) for part in parts]
        if self.case.graphed:
            first_B = torch.arange(batch, device=self.device)
            steps = graphed([(step, (first_B,)) for step in steps])
        self.gradients: dict[int, Gradients] = dict(zip(parts, steps, strict=True))

    def _asked_of(self, asked: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """What the head reads at the places that are asked (A, D), and what is asked (A)."""
        token_BT, place_A, target_A = asked
        position_TD = None if self.positions is None else self.positions(token_BT)
        hidden_BTD = self.model.hidden(token_BT, position_TD=position_TD)
        if self.decoder is not None:
            hidden_BTD = self.decoder(hidden_BTD[:, -1])
        return hidden_BTD.flatten(0, 1).index_select(0, place_A), target_A

    def loss_of(self, part: int, number_B: Tensor) -> Tensor:
        """The mean loss of what is asked in some sequences of a part."""
        hidden_AD, target_A = self._asked_of(self.parts[part].rows(number_B))
        loss: Tensor = self.model.ops["linear_cross_entropy"](hidden_AD, self.model.embedding_VD, target_A)
        return loss

    @override
    def gradients_of(self, step: int) -> tuple[Tensor, Tensor]:
        part, number_B = self._batch(step)
        return self.gradients[part](number_B)

    def _batch(self, step: int) -> tuple[int, Tensor]:
        """The part that a step's sequences are of, and their numbers (B). Epochs are read one after the other."""
        epoch, place = divmod(step, self.case.setting.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, list(self._order(epoch))
            self._kinds += [part for part, _ in self._batches]
        return self._batches[place]

    @override
    def kinds(self, stop: int) -> Sequence[int]:
        """A kind of batch is a part of the training set: longer sequences with more pairs have higher losses."""
        return self._kinds[:stop]

    def _order(self, epoch: int) -> Iterator[tuple[int, Tensor]]:
        """An epoch's batches: each of sequences of one part, all of them in an order of seed and epoch alone."""
        rng, batch = np.random.default_rng([self.case.seed, epoch]), self.case.setting.batch
        numbers = [torch.from_numpy(rng.permutation(len(part))).to(self.device) for part in self.parts]
        whole = [(part, first) for part, one in enumerate(numbers) for first in range(0, len(one) - batch + 1, batch)]
        for at in rng.permutation(len(whole)):
            part, first = whole[at]
            yield part, numbers[part][first : first + batch]

    @override
    @torch.no_grad()
    def judge(self) -> bool:
        """The share of right answers on each part, which joins the curve; whether all that was trained on is solved."""
        self.model.eval()
        done, setting = self.progress, self.case.setting
        correct = [self._correct(part) for part in self.tests]
        done.curve.append(Scored(done.step, correct, done.train_ns, done.energy_j))
        trained = [one for one, part in zip(correct, setting.test, strict=True) if setting.within(part)]
        return min(trained, default=0.0) >= setting.solved

    def _correct(self, part: AskedExamples) -> float:
        setting = self.case.setting
        rows = max(1, setting.batch * setting.context // part.rows(slice(1))[0].shape[1])
        right, asked = torch.zeros((), dtype=torch.int64, device=self.device), 0
        for first in range(0, len(part), rows):
            hidden_AD, target_A = self._asked_of(part.rows(slice(first, first + rows)))
            for hidden, target in zip(hidden_AD.split(_ROWS), target_A.split(_ROWS), strict=True):
                right += (F.linear(hidden, self.model.embedding_VD).argmax(-1) == target).sum()
            asked += len(target_A)
        return int(right) / asked

    @override
    def steps_until(self, stop: int) -> None:
        before = len(self.progress.losses)
        super().steps_until(stop)
        new = self.progress.losses[before:]
        if new:
            self.progress.means.append(sum(new) / len(new))

    @override
    def said(self) -> str:
        done, case = self.progress, self.case
        left_s = done.train_ns / NS_PER_S / done.step * (case.steps - done.step)
        loss = f"loss {format_number(done.means[-1])}, " if done.means else ""
        right = " ".join(f"{one:.2f}" for one in done.curve[-1].correct_frac)
        return f"step {done.step:,} of {case.steps:,}, {loss}right {right}, {format_seconds(left_s)} of training left"


_ROWS = 16_384
"""Rows of logits that exist at once while a model is judged."""
