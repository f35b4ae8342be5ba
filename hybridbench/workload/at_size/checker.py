"""checker: one case's work checked at its own size: what is compared, what it is called, and what it took before.

A check ends before anything is timed. Where nothing can be compared, because the parts do not fit beside the batch or a
mixer cannot go on from its cache, it says so: the case is timed and carries a caveat.
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
from hybridbench.workload.at_size.decode import Beside, Kept, Left, compare_reads, replayed, routed
from hybridbench.workload.at_size.errors import SHORT, Comparison, Errors, Worst, judged
from hybridbench.workload.at_size.gradients import Backward
from hybridbench.workload.at_size.sequence import PartsDoNotFit, Walk, piece_count
from hybridbench.workload.prepared import kept

if TYPE_CHECKING:
    from hybridbench.workload.decode import DecodeLoop

ROWS, PIECES = "each row alone", "the same sequence in pieces"
MODULES, REFERENCE = "the same step module by module", "the reference implementations"


@dataclass
class Known:
    """Errors at ``SHORT`` tokens, which a process takes once for all contexts of a case."""

    worst: dict[str, Worst] = field(default_factory=dict)


class Checker:
    """The checks of one case.

    Args:
        resolved: its operations.
        known: what earlier cases of the process have shown.
        now: the clock that says how long it took; ns.

    Attributes:
        checks: what was compared.
        unchecked: sentences about what could not be.
        spent_ns: how long it took.
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
        """A prefill: outputs, keys, values, states and logits, of rows alone or in pieces.

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
                Walk(self.model, self._symbols, token_BT[:, :tokens], caches, alternatives, found).run()
            return found

        self._judge(asked, errors, length)

    def train(self, token_BT: Tensor, target_BT: Tensor) -> None:
        """A training step's forward and backward: outputs, the loss and all gradients, of rows alone, or by other
        implementations where there is one row.

        Raises:
            WrongResult, DeviceFault: as ``prefill``.
        """
        several = len(token_BT) > 1
        alternatives = Alternatives(self.model, self.resolved, every=not several)
        asked = self._asked("training", ROWS if several else REFERENCE, token_BT.shape[1])

        def errors(tokens: int) -> Errors:
            found = Errors()
            with alternatives.installed():
                parts = token_BT[:, :tokens], target_BT[:, :tokens]
                Backward(self.model, self._symbols, *parts, alternatives, found).run()
            return found

        self._judge(asked, errors, token_BT.shape[1], may_be_short=several)

    def decode(self, loop: DecodeLoop, context: int) -> Callable[[], object]:
        """The step of a decode loop as it is timed, once it was checked with ``context`` tokens cached.

        Lone rows come first, so that their graphs are gone before the batch's takes its memory.

        Args:
            loop: filled to the context. Afterwards its states are those of the steps that were taken.

        Raises:
            WrongResult, DeviceFault: as ``prefill``.
        """
        batch = len(loop.token_B)
        rows = sorted({0, batch - 1})
        contexts = [context] if loop.grows or context <= SHORT else [SHORT - 1, context]
        lone: dict[tuple[int, int], Left] = {}
        before = Kept(kept(loop.caches), loop.token_B, rows, contexts)
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
                        lone[row, at] = Left.of(one.logits_BV, kept(one.caches), 0)
                del one, step
            before.put_back()
            started = self._now()
            step = loop.ready()
            self.spent_ns -= self._now() - started  # it is there to be timed
            found = {at: self._step(loop, step, at, before, lone) for at in contexts}
        asked = self._asked("a decode step", ROWS if batch > 1 else MODULES if loop.plan else REFERENCE, context)
        if found[context].found:
            short = found[contexts[0]].worst() if len(contexts) > 1 else {}
            self.checks.append(judged(asked, found[context], short))
        else:  # one sequence without attention, fused: what it was held to is in the loop's own check
            (check,) = loop.checks
            what = SizeCheck(asked.what, MODULES, batch, context, 1, "logits and states", check.error, check.bound)
            self.checks.append(what)
        return step

    def _step(
        self,
        loop: DecodeLoop,
        step: Callable[[], object],
        context: int,
        before: Kept,
        lone: dict[tuple[int, int], Left],
    ) -> Errors:
        """One step at a context: what it leaves of each row, and what its attentions read."""
        errors, rows = Errors(), sorted({0, len(loop.token_B) - 1})
        before.put_back()
        loop.position_B.fill_(context)
        step()
        assert loop.logits_BV is not None
        for row in rows if lone else []:
            left = Left.of(loop.logits_BV, kept(loop.caches), row)
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

    def _asked(self, what: str, against: str, context: int) -> Comparison:
        execution = self.case.execution
        return Comparison(what, against, self.case.workload.batch, context, execution.dtype, self._hint())

    def _hint(self) -> str:
        ran = sorted({f"{item.op}={item.backend.name}" for item in self.resolved if item.op != DECODE_STEP})
        return f"what ran: {', '.join(ran)}. Name another backend with --backend, or take a smaller batch or context"

    def _judge(
        self, asked: Comparison, errors: Callable[[int], Errors], length: int, *, may_be_short: bool = True
    ) -> None:
        compiled = any(item.backend.compiles_per_length for item in self.resolved)  # and would for the short ones
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
        """What errors at ``SHORT`` tokens depend on: all of a case but its context."""
        work = replace(self.case.workload, context=SHORT)
        ran = sorted((item.op, item.backend.name) for item in self.resolved)
        return f"{what} {replace(self.case, workload=work).key} {ran}"

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """A kernel that breaks the device in a check is wrong, and nothing on the device can be trusted after it."""
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
