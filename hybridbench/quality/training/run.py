"""run: one training run from its case to what is observed: build, check, train, judge, keep.

The step is that of ``workload.train``: the model's own loss and its backward, with the kernels that the case resolves
to, verified and checked at the run's size before the first update. On a GPU forward and backward are one CUDA graph
(``step``), and batches are gathered on the device.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from hybridbench.bench import Bench, backend_uses
from hybridbench.errors import BadInput, Blocked
from hybridbench.measure.memory import observe_memory, reset_peaks
from hybridbench.measure.nvml import Watch
from hybridbench.model.build import Resolved, build_model, parameter_count, resolve_backends
from hybridbench.model.language import LanguageModel
from hybridbench.quality.corpus.manifest import HELD_OUT, TRAIN, Tokens, read_manifest
from hybridbench.quality.training.batches import Batches, bytes_of_tokens, spread_evenly
from hybridbench.quality.training.case import LearnCase
from hybridbench.quality.training.checkpoint import LearnProgress, load_checkpoint, save_checkpoint, save_weights
from hybridbench.quality.training.optimizer import MasterAdamW
from hybridbench.quality.training.place import checkpoint_path
from hybridbench.quality.training.record import Judged, LearnObserved
from hybridbench.quality.training.start import check_start
from hybridbench.quality.training.step import graphed, launched
from hybridbench.quality.training.trainer import Trainer
from hybridbench.quality.training.watch import ending
from hybridbench.record import Caveat, SizeCheck
from hybridbench.suite.case import COMPILE
from hybridbench.units import NS_PER_S, format_number, format_seconds
from hybridbench.workload.at_size import Checker


def run_learn(case: LearnCase, bench: Bench) -> tuple[LearnObserved, list[Caveat]]:
    """Runs one case and returns what was observed, with its caveats.

    Raises:
        Unsupported, WrongResult: before the first update.
        BadInput: the corpus is another one, or a checkpoint cannot be read or written.
        torch.OutOfMemoryError: the run does not fit.
    """
    now = bench.instruments.now
    bench.phase("ceilings")
    ceilings = bench.ceilings_for(case.execution.dtype)
    bench.phase("build")
    began = now()
    learner = Learner(case, bench)
    built = now()
    bench.phase("verify and check")
    sized, caveats = learner.check()
    start = check_start(learner.model)
    learner.begin()
    prepared = now()
    reset_peaks(bench.device)
    if case.place.at_once > 1:
        caveats = [*caveats, Caveat.AT_ONCE]
    watch = Watch(bench.gpu, now)
    with watch:
        if not learner.progress.curve:
            learner.judge()
        learner.train()
    done = learner.progress
    weights = save_weights(case, learner.model)
    memory = observe_memory(bench.device, learner.model)
    observed = LearnObserved(
        losses=done.losses,
        gradient_norms=done.norms,
        curve=done.curve,
        events=done.events,
        finished=done.step == case.steps and ending(done.events) is None,
        resumed_at=done.resumed_at,
        start=start,
        parameters=parameter_count(learner.model),
        memory=replace(memory, optimizer_bytes=learner.optimizer.nbytes),
        backends=backend_uses(learner.resolved, [], bench.proofs),
        sized=sized,
        build_ns=built - began,
        prepare_ns=prepared - built,
        weights=weights,
        ceilings=ceilings,
        gpu_before=watch.before,
        gpu_after=watch.after,
    )
    return observed, caveats


class Learner(Trainer):
    """A model that learns from a corpus and is judged on what is held out of it."""

    case: LearnCase
    progress: LearnProgress

    def __init__(self, case: LearnCase, bench: Bench) -> None:
        self.case, self.bench, self.device = case, bench, bench.device
        folder = Path(case.place.corpus)
        manifest = read_manifest(folder)
        if manifest.key != case.corpus:
            raise BadInput(f"{folder} holds another corpus ({manifest.key}) than the run's ({case.corpus}).")
        step_case = case.step_case
        self.resolved: list[Resolved] = resolve_backends(step_case)
        self.model: LanguageModel = build_model(step_case, self.resolved)
        self.model.allocate(self.device, case.seed)
        bos = manifest.vocabulary.bos
        train, held_out = (Tokens(folder, manifest.split(name), case.context) for name in (TRAIN, HELD_OUT))
        self.batches = Batches(train, bos, case.batch, case.seed, self.device)
        self.held_out = Batches(held_out, bos, case.batch, 0, self.device)
        self.judged_on = spread_evenly(case.sampling.sequences, len(held_out))
        self.token_bytes = bytes_of_tokens(folder, manifest, self.device)
        self.layers = self.model.compiled_layers() if case.execution.mode == COMPILE else {}
        self.progress = LearnProgress(energy_j=None if bench.gpu is None else 0.0)

    def check(self) -> tuple[list[SizeCheck], list[Caveat]]:
        """Verifies the kernels, and checks the forward and backward of the first batch at the run's size."""
        proofs = self.bench.proofs
        proofs.verify(self.resolved, self.device)
        known = _SIZED.get(self.case.arm)
        if known is None:
            checker = Checker(self.case.step_case, self.model, self.resolved, proofs.known, self.bench.instruments.now)
            self.model.train()
            checker.train(*self.batches.at(0))
            known = checker.checks, [Caveat.NOT_CHECKED] if checker.unchecked else []
            _SIZED[self.case.arm] = known
            self.model.zero_grad(set_to_none=True)
            self.model.allocate(self.device, self.case.seed)
        return known

    def begin(self) -> None:
        """Makes optimizer and step, and goes on from a checkpoint if the case asks for that and there is one.

        Raises:
            Blocked: there is one that cannot be used.
        """
        self.optimizer = MasterAdamW(self.model.named_parameters(), self.model.ops["adamw"], self.case.recipe)
        self.model.train()
        self.gradients = launched(self._loss, self.optimizer)
        if self.case.graphed:
            (self.gradients,) = graphed([(self.gradients, self.batches.at(0))])
        found = load_checkpoint(self.case, self.device) if self.case.place.resume else None
        if found is None:
            return
        tensors, progress = found
        try:
            self._put_back(tensors)
        except (RuntimeError, KeyError, IndexError) as exc:
            raise Blocked(
                f"{checkpoint_path(self.case)} has other tensors than this run ({exc}): remove it, or go on without "
                "--resume."
            ) from exc
        self.progress = progress
        self.progress.resumed_at.append(self.progress.step)

    def _put_back(self, tensors: dict[str, Tensor]) -> None:
        self.optimizer.load({name: tensor for name, tensor in tensors.items() if not name.startswith(_BUFFER)})
        buffers = dict(self.model.named_buffers())
        for name, tensor in tensors.items():
            if name.startswith(_BUFFER):
                buffers[name.removeprefix(_BUFFER)].copy_(tensor)

    def _loss(self, token_BT: Tensor, target_BT: Tensor) -> Tensor:
        """By the compiled sublayers, where there are any."""
        with self.model.compiling(self.layers):
            return self.model.loss(token_BT, target_BT)

    @override
    def gradients_of(self, step: int) -> tuple[Tensor, Tensor]:
        return self.gradients(*self.batches.at(step))

    @override
    @torch.no_grad()
    def judge(self) -> bool:
        """The loss on held-out text, which joins the curve. There is always more to learn."""
        self.model.eval()
        total, tokens = torch.zeros((), dtype=torch.float64, device=self.device), 0
        text_bytes = torch.zeros((), dtype=torch.int64, device=self.device)
        for first in range(0, len(self.judged_on), self.case.batch):
            token_BT, target_BT = self.held_out.rows(self.judged_on[first : first + self.case.batch])
            with self.model.compiling(self.layers if len(target_BT) == self.case.batch else {}):
                total += self.model.loss(token_BT, target_BT).double() * target_BT.numel()
            tokens += target_BT.numel()
            text_bytes += self.token_bytes[target_BT].sum()
        done = self.progress
        loss = float(total) / tokens
        done.curve.append(Judged(done.step, loss, tokens, int(text_bytes), done.train_ns, done.energy_j))
        return False

    @override
    def keep(self) -> None:
        """Writes a checkpoint."""
        buffers = {f"{_BUFFER}{name}": buffer for name, buffer in self.model.named_buffers()}
        save_checkpoint(self.case, {**self.optimizer.tensors(), **buffers}, self.progress)

    @override
    def said(self) -> str:
        """The progress in words: how far, the time left, and the held-out curve so far."""
        done, case = self.progress, self.case
        left_s = done.train_ns / NS_PER_S / done.step * (case.steps - done.step)
        loss = f"loss {format_number(done.losses[-1])}, " if done.losses else ""
        return (
            f"step {done.step:,} of {case.steps:,}, {loss}held out {format_number(done.curve[-1].loss)} "
            f"{sketch([point.loss for point in done.curve])}, {format_seconds(left_s)} of training left"
        )


_BUFFER = "buffer."
_SIZED: dict[str, tuple[list[SizeCheck], list[Caveat]]] = {}
"""What this process has checked at size, by arm: seeds differ in nothing that a kernel could get wrong."""


def sketch(losses: list[float]) -> str:
    """A curve in one line of characters, the highest loss tallest.

    >>> sketch([6.0, 4.0, 3.0, 2.5])
    '█▄▂▁'
    """
    low, high = min(losses), max(losses)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (loss - low) / (high - low)) if high > low else 0] for loss in losses[-20:])
