"""decode: one token per sequence at a fixed context, and whole generations from a prompt.

For a decode the caches are filled to the context with random values (no prefill), and every step decodes the token at
that same position, so that all samples time the same work. A generation prefills its prompt and then decodes token by
token to its total length, feeding each step's token to the next.

In mode ``graph`` a step is one replay of a captured CUDA graph, with positions, lengths and tokens on the device. In
mode ``published`` it is the step of ``model.paper_decode``. A generation with ``depths`` is not run whole: its prefill
and its decode steps at these contexts are parts, timed one by one on caches as large as the whole generation needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybridbench.capture import captured
from hybridbench.kernels.verify import Check
from hybridbench.model.cache import Cache, growing, of_row, reach
from hybridbench.model.language import LanguageModel
from hybridbench.model.paper_decode import PaperDecode
from hybridbench.model.step import verify_step
from hybridbench.suite.case import COMPILE, EAGER, GRAPH, PUBLISHED, Case
from hybridbench.suite.workloads import Workload
from hybridbench.workload.at_size import Checker
from hybridbench.workload.compiled import verify_outputs
from hybridbench.workload.prepared import Prepared, TimedPart, present, random_tokens

if TYPE_CHECKING:
    from hybridbench.model.fused import FusedStep  # it needs triton


class DecodeLoop:
    """A decode step with its own device state: the token to feed, the position, the caches.

    Args:
        caches: of all layers, in the form that the mode needs.
        token_B, position_B: int64; a step reads and overwrites them.
        advance: whether a step adds 1 to the position.
        mode, streams: as in the case.
    """

    def __init__(
        self,
        model: LanguageModel,
        caches: list[Cache | None],
        token_B: Tensor,
        position_B: Tensor,
        *,
        advance: bool,
        mode: str,
        streams: int = 1,
    ) -> None:
        self.model = model
        self.caches = caches
        self.token_B = token_B
        self.position_B = position_B
        self.advance = advance
        self.mode = mode
        self.streams = streams
        self.plan: FusedStep | None = None
        self.checks: list[Check] = []
        self.logits_BV: Tensor | None = None
        model.eval()
        self._decode: Callable[[Tensor, Tensor, list[Cache | None]], Tensor] = model.decode
        if mode == PUBLISHED:
            capture = captured if token_B.is_cuda else None
            with torch.no_grad():
                self._decode = PaperDecode(model, token_B, position_B, caches, capture)
        elif mode == COMPILE:
            self._decode = torch.compile(model.decode, dynamic=False)

    @classmethod
    def of(cls, case: Case, model: LanguageModel, capacity: int, *, advance: bool) -> DecodeLoop:
        """A case's loop with new caches for ``capacity`` tokens a sequence."""
        device, batch, mode = model.embedding_VD.device, case.workload.batch, case.execution.mode
        grows = mode == PUBLISHED
        caches = model.new_caches(batch, 1 if grows else capacity, case.execution.storage)
        if grows:
            caches = [growing(cache, held=not advance) for cache in caches]
        token_B = random_tokens(case, model, batch)
        position_B = torch.zeros(batch, dtype=torch.int64, device=device)
        return cls(model, caches, token_B, position_B, advance=advance, mode=mode, streams=case.execution.streams)

    @property
    def grows(self) -> bool:
        """Whether the caches of attention grow by a token a step."""
        return self.mode == PUBLISHED

    def of_row(self, row: int) -> DecodeLoop:
        """The loop of one sequence alone, over slices of the same caches and in the same mode.

        Compiled code is not compiled again for a row; ``ready`` compares it with the modules.
        """
        return DecodeLoop(
            self.model,
            [None if cache is None else of_row(cache, row) for cache in self.caches],
            self.token_B[row : row + 1].clone(),
            self.position_B[row : row + 1].clone(),
            advance=self.advance,
            mode=EAGER if self.mode == COMPILE else self.mode,
            streams=self.streams,
        )

    def fill(self, seed: int, context: int) -> None:
        """Fills the caches with random values of a plausible size, with ``context`` tokens cached."""
        self._generator = torch.Generator(device=self.position_B.device).manual_seed(seed)
        for cache in present(self.caches):
            cache.fill(self._generator)
        self.reach(context)

    def reach(self, context: int) -> None:
        """Moves filled caches to a context: as many tokens are cached then."""
        self.position_B.fill_(context)
        for cache in present(self.caches):
            reach(cache, context, self._generator)

    def ready(self, *, verify: bool = True) -> Callable[[], object]:
        """The step as it is timed: fused where that was resolved, replayed from its captured graph in mode ``graph``.

        Args:
            verify: compare a fused or compiled step with the modules first. A row's step is compared elsewhere.

        All warm-ups of a capture run at the present position; otherwise a step that advances the position could leave
        the caches behind at the end of a generation.

        Raises:
            WrongResult: the step differs from the modules.
        """
        if self.model.fused_step is not None:
            inputs = (self.token_B, self.position_B)
            plan = self.model.fused_step(self.model, self.caches, *inputs, advance=self.advance, streams=self.streams)
            if verify:
                with torch.no_grad():
                    plain = lambda: self.model.decode(*inputs, self.caches)  # noqa: E731
                    check = verify_step(plain, plan, present(self.caches), inputs)
                    self.checks.append(replace(check, how=plan.tiled_by))
            self.plan = plan
        if self.mode == COMPILE and verify:
            self.checks.append(self._verify_compiled())
        if self.mode != GRAPH:
            return self.step
        position_B = self.position_B.clone()
        return captured(self.step, put_back=lambda: self.position_B.copy_(position_B), collect=verify)

    def _verify_compiled(self) -> Check:
        inputs = (self.token_B, self.position_B)
        plain, compiled = (partial(run, *inputs, self.caches) for run in (self.model.decode, self._decode))
        return verify_outputs(self.model, plain, compiled, present(self.caches), inputs)

    def eager_step(self) -> None:
        """Decodes one token per sequence, without capture or compilation."""
        self._run(self.model.decode)

    def step(self) -> None:
        """Decodes one token per sequence in the case's mode, before capture, and leaves the logits in ``logits_BV``."""
        if self.plan is None:
            self._run(self._decode)
            return
        with torch.no_grad():
            self.logits_BV = self.plan()

    def _run(self, decode: Callable[[Tensor, Tensor, list[Cache | None]], Tensor]) -> None:
        with torch.no_grad():
            self.logits_BV = decode(self.token_B, self.position_B, self.caches)
            self.token_B.copy_(self.model.pick(self.logits_BV))
            if self.advance:
                self.position_B += 1


def prepare_decode(case: Case, model: LanguageModel, checker: Checker | None = None) -> Prepared:
    """A step that decodes one token with ``context`` tokens cached."""
    context = case.workload.context
    loop = DecodeLoop.of(case, model, context + 1, advance=False)
    loop.fill(case.execution.seed + 2, context)
    return Prepared(
        loop.ready() if checker is None else checker.decode(loop, context),
        loop.eager_step,
        lambda token_B, position_B: model.decode(token_B, position_B, loop.caches),
        (loop.token_B, loop.position_B),
        caches=present(loop.caches),
        checks=loop.checks,
        capacity=context if loop.grows else context + 1,
        again=lambda: loop.ready(verify=False),
    )


def prepare_generate(case: Case, model: LanguageModel, checker: Checker | None = None) -> Prepared:
    """A generation: prefill of ``prompt`` tokens, then one token at a time up to ``context`` in all.

    With ``depths`` the caches are filled with random values and a step stays at its position, as in a decode. The step
    is checked at the last of these contexts.
    """
    work = case.workload
    loop = DecodeLoop.of(case, model, work.context, advance=not work.depths)
    token_BT = random_tokens(case, model, work.batch, work.prompt, offset=1)
    steps, storage = work.context - work.prompt, case.execution.storage

    def start() -> None:
        with torch.no_grad():
            loop.token_B.copy_(model.pick(model.prefill(token_BT, loop.caches)))
            loop.position_B.fill_(work.prompt)

    if checker is not None:
        loop.fill(case.execution.seed + 2, work.context - 1)
        one = checker.decode(loop, work.context - 1)
    if work.depths:
        loop.fill(case.execution.seed + 2, work.prompt)
    else:
        start()
    if checker is None:
        one = loop.ready()

    def generate(step: Callable[[], object]) -> None:
        start()
        for _ in range(steps):
            step()

    def eager_step() -> None:
        start()
        loop.eager_step()

    parts = _parts(work, loop, start, one) if work.depths else []
    return Prepared(
        partial(_each, parts) if parts else lambda: generate(one),
        eager_step,
        lambda token_BT: model.prefill(token_BT, loop.caches),
        (token_BT,),
        steps_per_sample=steps,
        caches=present(loop.caches),
        checks=loop.checks,
        capacity=work.context - 1 if loop.grows and work.depths else work.context,
        check_at_size=lambda checker: checker.prefill(token_BT, model.new_caches(work.batch, work.prompt, storage)),
        again=lambda: partial(generate, loop.ready(verify=False)),
        parts=parts,
    )


def _parts(
    work: Workload, loop: DecodeLoop, start: Callable[[], object], step: Callable[[], object]
) -> list[TimedPart]:
    """The prefill of a generation with ``depths``, and its decode step at each of these contexts.

    The longest context comes last, so that the caches end as they do in a whole generation.
    """

    def at(context: int) -> TimedPart:
        return TimedPart(context, lambda: loop.reach(context), step)

    return [TimedPart(None, lambda: None, start), *(at(context) for context in work.timed_contexts)]


def _each(parts: list[TimedPart]) -> None:
    """Runs all parts, one after the other."""
    for part in parts:
        part.enter()
        part.step()
