"""decode: one token per sequence at a fixed depth, and whole generations from a prompt.

At a fixed depth the caches are filled to the context with random values (no prefill), and every step decodes the token
at that same position: samples of one step are samples of one thing. A generation prefills its prompt and then decodes
token by token to its total length, feeding each step's token to the next.

In mode ``graph`` a step is one replay of a captured CUDA graph; positions, lengths and tokens live on the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hybridbench.model.cache import Cache
from hybridbench.model.language import LanguageModel
from hybridbench.suite import Case
from hybridbench.workload.prepared import Prepared, kept, random_tokens

CAPTURE_WARMUPS = 3


def captured(step: Callable[[], object]) -> Callable[[], object]:
    """A CUDA graph of ``step``; calling it replays the graph.

    Warm-up runs on a side stream first, as capture demands: lazy initialisation and autotuning must not be captured.
    """
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(CAPTURE_WARMUPS):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


class DecodeLoop:
    """A decode step with its own device state: the token to feed, the position, the caches.

    Args:
        capacity: tokens each sequence's cache has room for.
        advance: whether a step moves the position on.
    """

    def __init__(self, case: Case, model: LanguageModel, capacity: int, advance: bool) -> None:
        device = model.embedding_VD.device
        batch = case.workload.batch
        self.model = model
        self.advance = advance
        self.caches = model.new_caches(batch, capacity, case.execution.storage)
        self.token_B = random_tokens(case, batch, device=device)
        self.position_B = torch.zeros(batch, dtype=torch.int64, device=device)
        model.eval()
        decode = model.decode
        self._decode = torch.compile(decode, dynamic=False) if case.execution.mode == "compile" else decode

    def eager_step(self) -> None:
        """One token per sequence, without capture or compilation."""
        self._run(self.model.decode)

    def step(self) -> None:
        """One token per sequence in the case's mode, before capture."""
        self._run(self._decode)

    def _run(self, decode: Callable[[Tensor, Tensor, list[Cache | None]], Tensor]) -> None:
        with torch.no_grad():
            logits_BV = decode(self.token_B, self.position_B, self.caches)
            self.token_B.copy_(logits_BV.argmax(-1))
            if self.advance:
                self.position_B += 1


def prepare_decode(case: Case, model: LanguageModel) -> Prepared:
    """A step at depth ``context``: that many tokens cached, one more decoded."""
    depth = case.workload.context
    loop = DecodeLoop(case, model, depth + 1, advance=False)
    generator = torch.Generator(device=model.embedding_VD.device).manual_seed(case.execution.seed + 2)
    for cache in kept(loop.caches):
        cache.fill(generator)
    loop.position_B.fill_(depth)
    step = captured(loop.step) if case.execution.mode == "graph" else loop.step
    return Prepared(
        step,
        loop.eager_step,
        lambda token_B, position_B: model.decode(token_B, position_B, loop.caches),
        (loop.token_B, loop.position_B),
        caches=kept(loop.caches),
        capacity=depth + 1,
    )


def prepare_generate(case: Case, model: LanguageModel) -> Prepared:
    """A whole generation: prefill of ``prompt`` tokens, then one token at a time up to ``context`` in all."""
    work = case.workload
    loop = DecodeLoop(case, model, work.context, advance=True)
    token_BT = random_tokens(case, work.batch, work.prompt, device=model.embedding_VD.device, offset=1)
    steps = work.context - work.prompt

    def start() -> None:
        with torch.no_grad():
            loop.token_B.copy_(model.prefill(token_BT, loop.caches).argmax(-1))
            loop.position_B.fill_(work.prompt)

    start()
    one = captured(loop.step) if case.execution.mode == "graph" else loop.step

    def generate(step: Callable[[], object]) -> None:
        start()
        for _ in range(steps):
            step()

    def eager_step() -> None:
        start()
        loop.eager_step()

    return Prepared(
        lambda: generate(one),
        eager_step,
        lambda token_BT: model.prefill(token_BT, loop.caches),
        (token_BT,),
        steps_per_sample=steps,
        caches=kept(loop.caches),
        capacity=work.context,
    )
