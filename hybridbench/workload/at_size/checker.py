"""checker: one case's work checked at its own size: what is compared, what it is called, and what it took before.

A check ends before anything is timed. Where nothing can be compared, because the parts do not fit beside the batch or a
mixer cannot continue from its cache, the case is timed and its record has a caveat.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybridbench.errors import DeviceFault, Unsupported
from hybridbench.model.build import Resolved
from hybridbench.model.cache import Cache
from hybridbench.model.language import LanguageModel
from hybridbench.record import SizeCheck
from hybridbench.suite.case import Case
from hybridbench.suite.ops import DECODE_STEP
from hybridbench.workload.at_size.alternatives import Alternatives
from hybridbench.workload.at_size.decode import Beside, Overwritten, StepOutcome, compare_reads, replayed, routed
from hybridbench.workload.at_size.errors import SHORT, Errors, SizeComparison, Worst, judged
from hybridbench.workload.at_size.gradients import Backward
from hybridbench.workload.at_size.sequence import PartsDoNotFit, Walk, piece_count
from hybridbench.workload.prepared import present

if TYPE_CHECKING:
    from hybridbench.workload.decode import DecodeLoop

ROWS, PIECES = "each row alone", "the same sequence in pieces"
MODULES, REFERENCE = "the same step module by module", "the reference implementations"


@dataclass
class Known:
    """Errors at ``SHORT`` tokens, which a process measures once for all contexts of a case."""

    worst: dict[str, Worst] = field(default_factory=dict)


class Checker:
    """The checks of one case.

    Args:
        resolved: its operations.
        known: errors from earlier cases of the process.
        now: the clock for ``spent_ns``; ns.

    Attributes:
        checks: the comparisons that passed.
        unchecked: sentences about what could not be compared.
        spent_ns: how long the checks took; ns.
    """

    def __init__(
        self,
        case: Case,
        model: LanguageModel,
        resolved: Sequence[Resolved],
        known: Known,
        now: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.case = case
        self.model = model
        self.resolved = resolved
        self.checks: list[SizeCheck] = []
        self.unchecked: list[str] = []
        self.spent_ns = 0
        self._known = known
        self._now = now
        self._symbols = case.model.layers

    def prefill(self, token_BT: Tensor, caches: list[Cache | None]) -> None:
        """Checks a prefill by its rows alone or in pieces: outputs, keys, values, states and logits.

        Raises:
            WrongResult: they differ; the text names the layer.
            DeviceFault: a kernel broke the device.
        """
        length, layers = token_BT.shape[1], self.model.layers
        in_pieces = len(token_BT) == 1 or any(piece_count(layer, length) > 2 for layer in layers)
        alternatives = Alternatives(self.model, self.resolved, attention=in_pieces)
        asked = self._asked("prefill", ROWS if len(token_BT) > 1 else PIECES, length)

        def errors(tokens: int) -> Errors:
            found = Errors()
            with alternatives.installed(), torch.no_grad():
                Walk(self.model, self._symbols, token_BT[:, :tokens], alternatives, found, caches).run()
            return found

        self._judge(asked, errors, length)

    def train(self, token_BT: Tensor, target_BT: Tensor) -> None:
        """Checks a training step's forward and backward: outputs, the loss and all gradients.

        It is compared with its rows alone, or, where there is one row, with other implementations.

        Raises:
            WrongResult, DeviceFault: as ``prefill``.
        """
        several = len(token_BT) > 1
        alternatives = Alternatives(self.model, self.resolved, every=not several)
        asked = self._asked("training", ROWS if several else REFERENCE, token_BT.shape[1])

        def errors(tokens: int) -> Errors:
            found = Errors()
            with alternatives.installed():
                tokens_BT, targets_BT = token_BT[:, :tokens], target_BT[:, :tokens]
                Backward(self.model, self._symbols, tokens_BT, alternatives, found, targets_BT).run()
            return found

        self._judge(asked, errors, token_BT.shape[1], may_be_short=several)

    def decode(self, loop: DecodeLoop, context: int) -> Callable[[], object]:
        """Checks a decode step with ``context`` tokens cached, and returns the step as it is timed.

        Rows run alone first, so that the memory of their graphs is free before the batch's graph is captured.

        Args:
            loop: filled to the context. Afterwards it has the states that the steps of the check left.

        Raises:
            WrongResult, DeviceFault: as ``prefill``.
        """
        batch = len(loop.token_B)
        rows = sorted({0, batch - 1})
        contexts = [context] if loop.grows or context <= SHORT else [SHORT - 1, context]
        lone: dict[tuple[int, int], StepOutcome] = {}
        before = Overwritten(present(loop.caches), loop.token_B, rows, contexts)
        with self._guarded():
            routes = routed(self.model, loop.eager_step)
            for row in rows if batch > 1 else []:
                one = loop.of_row(row)
                with replayed(routes, row):
                    step = one.ready(verify=False)
                    for at in contexts:
                        before.put_back()
                        one.token_B.copy_(loop.token_B[row : row + 1])
                        one.position_B.fill_(at)
                        step()
                        assert one.logits_BV is not None
                        lone[row, at] = StepOutcome.of(one.logits_BV, present(one.caches), 0)
                del one, step
            before.put_back()
            started = self._now()
            step = loop.ready()
            self.spent_ns -= self._now() - started  # the timed step itself is not part of the check
            found = {at: self._step(loop, step, at, before, lone) for at in contexts}
        asked = self._asked("a decode step", ROWS if batch > 1 else MODULES if loop.plan else REFERENCE, context)
        if found[context].found:
            short = found[contexts[0]].worst() if len(contexts) > 1 else {}
            self.checks.append(judged(asked, found[context], short))
        else:  # one sequence without attention, fused: the loop's own check has compared it with the modules
            (check,) = loop.checks
            what = SizeCheck(asked.what, MODULES, batch, context, 1, "logits and states", check.error, check.bound)
            self.checks.append(what)
        return step

    def _step(
        self,
        loop: DecodeLoop,
        step: Callable[[], object],
        context: int,
        before: Overwritten,
        lone: dict[tuple[int, int], StepOutcome],
    ) -> Errors:
        """The errors of one step at a context: in what it leaves of each row, and in what its attentions read."""
        errors, rows = Errors(), sorted({0, len(loop.token_B) - 1})
        before.put_back()
        loop.position_B.fill_(context)
        step()
        assert loop.logits_BV is not None
        for row in rows if lone else []:
            left = StepOutcome.of(loop.logits_BV, present(loop.caches), row)
            left.compare(lone[row, context], f"row {row + 1}", errors)
        if loop.plan is not None:
            compare_reads(loop.plan, rows, errors)
        else:
            before.put_back()
            functions = [item.function for item in self.resolved if item.op != DECODE_STEP]
            loop.position_B.fill_(context)
            Beside(functions, rows, errors, every=len(loop.token_B) == 1).run(self.model, loop.eager_step)
        loop.position_B.fill_(context)
        return errors

    def _asked(self, what: str, against: str, context: int) -> SizeComparison:
        execution = self.case.execution
        return SizeComparison(what, against, self.case.workload.batch, context, execution.dtype, self._hint())

    def _hint(self) -> str:
        ran = sorted({f"{item.op}={item.backend.name}" for item in self.resolved if item.op != DECODE_STEP})
        return f"what ran: {', '.join(ran)}. Name another backend with --backend, or take a smaller batch or context"

    def _judge(
        self, asked: SizeComparison, errors: Callable[[int], Errors], length: int, *, may_be_short: bool = True
    ) -> None:
        # a kernel that is compiled per length would be compiled for ``SHORT`` tokens too
        compiled = any(item.backend.compiles_per_length for item in self.resolved)
        try:
            with self._guarded():
                short: Worst = {}
                if length > SHORT and may_be_short and not compiled:
                    key = self._key(asked.what)
                    if key not in self._known.worst:
                        self._known.worst[key] = errors(SHORT).worst()
                    short = self._known.worst[key]
                found = errors(length)
                self.checks.append(judged(asked, found, short))
        except PartsDoNotFit as exc:
            self.unchecked.append(f"{asked.what}: parts of it do not fit beside the batch ({exc})")
        except Unsupported as exc:
            self.unchecked.append(f"{asked.what}: {exc}")

    def _key(self, what: str) -> str:
        """What errors at ``SHORT`` tokens depend on: everything in a case except its context."""
        work = replace(self.case.workload, context=SHORT)
        ran = sorted((item.op, item.backend.name) for item in self.resolved)
        return f"{what} {replace(self.case, workload=work).key} {ran}"

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turns a CUDA error inside into a ``DeviceFault``: a kernel is wrong, and the device is unusable after it."""
        started = self._now()
        try:
            yield
            if self.model.embedding_VD.is_cuda:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            self.spent_ns += self._now() - started
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as exc:
            if "CUDA error" not in str(exc):
                raise
            raise DeviceFault(
                f"a kernel broke the device in the check of {self.case.label} ({str(exc).splitlines()[0]}); "
                f"{self._hint()}."
            ) from exc
