"""capture: work recorded once as a CUDA graph, so that running it again costs the host one launch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch

WARMUPS = 3


def captured_together(steps: Sequence[Callable[[], object]]) -> list[Callable[[], object]]:
    """A CUDA graph of each step, of which one at a time runs: they share memory, and take least with the largest first.

    What a replay leaves in memory that the graphs share is lost at the next replay of any of them: copy it before. They
    share a stream too, since cuBLAS keeps memory for each one.

    Args:
        steps: as of ``captured``.

    Raises:
        RuntimeError: a step cannot be captured.
    """
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
    return [captured(step, collect=place == 0, stream=stream, pool=pool) for place, step in enumerate(steps)]


def captured(
    step: Callable[[], object],
    *,
    put_back: Callable[[], object] = lambda: None,
    collect: bool = True,
    stream: torch.cuda.Stream | None = None,
    pool: Any = None,
) -> Callable[[], object]:
    """A CUDA graph of ``step``; calling it replays the graph.

    Args:
        put_back: called after each warm-up run of the step, to undo what it changed.
        collect: free older graphs first, which takes 0.2 s. It can be left out where one capture follows another.
        stream: where the step is warmed up and captured; None takes a stream of its own. A backward runs on its
            forward's stream, so the stream must be that one where the forward is not captured with it.
        pool: of memory that graphs share (``torch.cuda.graph_pool_handle``); None for memory of its own.

    Warm-up runs on a side stream first, as capture requires: lazy initialisation and autotuning must not be captured.
    Python's garbage collector is off during the capture, which fails if an older graph is freed meanwhile.

    Raises:
        RuntimeError: the step cannot be captured, since it waits for the GPU for example.
    """
    side = stream or torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARMUPS):
            step()
            put_back()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    if collect:
        gc.collect()
    gc.disable()
    try:
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        memory = torch.cuda.graph_pool_handle() if pool is None else pool
        with _copied(generator), _given_back(memory), torch.cuda.graph(graph, memory, stream, _errors_of()):
            step()
    finally:
        gc.enable()
    return graph.replay


def _errors_of() -> str:
    """Whose CUDA calls end a capture: of this thread only where NCCL's watchdog asks for events meanwhile."""
    return "thread_local" if torch.distributed.is_available() and torch.distributed.is_initialized() else "global"


@contextmanager
def _copied(generator: torch.Generator) -> Iterator[None]:
    """The generator works on a copy of its state, and afterwards on the state that it had.

    A capture that fails leaves its generator marked as being captured (torch 2.11), and every later random draw of the
    process then raises "Offset increment outside graph capture encountered unexpectedly".
    """
    state = generator.graphsafe_get_state()
    generator.graphsafe_set_state(state.clone_state())
    try:
        yield
    finally:
        generator.graphsafe_set_state(state)


@contextmanager
def _given_back(pool: tuple[int, int]) -> Iterator[None]:
    """After a capture that fails, the current stream is the one before, and memory is no longer taken from its pool.

    torch 2.11 leaves the stream as it is. Its allocator believes that the capture goes on: it takes all memory from the
    pool of the capture and frees no cached block, so that 2 GiB of tensors fill a GPU of 140 GiB.
    """
    device, stream = torch.cuda.current_device(), torch.cuda.current_stream()
    try:
        yield
    except BaseException:
        torch.cuda.set_stream(stream)
        with suppress(RuntimeError):  # it is ended already, as later versions do; the pool is the graph's then
            torch._C._cuda_endAllocateToPool(device, pool)
            torch._C._cuda_releasePool(device, pool)
        raise
