"""worker: the process that runs cases on one device and answers with what it saw.

It reads one case per line of JSON from standard input and writes one line of JSON per answer to a pipe of its own.
Whatever libraries print goes to its log. It exits when the process that started it is gone, and after any failure that
may have left the device unusable.

    python -m hybridbench.worker [--ready FOLDER] ANSWER_FD

With ``--ready`` it makes each case ready and times nothing, so that kernels are compiled, each by one of the processes
that share the folder.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Protocol

import torch

from hybridbench.bench import Bench, make_ready, run_case
from hybridbench.early import SOON
from hybridbench.errors import (
    Blocked,
    DeviceFault,
    HybridbenchError,
    Unsupported,
    WrongResult,
    described,
    ran_out_of_memory,
    reason,
)
from hybridbench.joint import cases_of
from hybridbench.kernels import release
from hybridbench.kernels.once import compiled_once
from hybridbench.measure.environment import fingerprint
from hybridbench.model.build import resolve_backends
from hybridbench.plain import to_plain
from hybridbench.processes import end_with_starter
from hybridbench.record import Caveat, Status
from hybridbench.suite.case import Case
from hybridbench.team import Team
from hybridbench.units import format_bytes


class _Work(Protocol):
    """What a line asks for: a ``Case``, or cells of another suite."""

    @property
    def device(self) -> str: ...
    @property
    def compiled(self) -> bool: ...


Run = Callable[[Any, Bench], tuple[Any, list[Caveat]]]
"""Runs one case and returns what was observed, with its caveats."""
Work = Callable[[Any, Bench], Iterator[dict[str, Any]]]
"""Does one job and yields the messages about it: ``turn``, which of a joint job's cases it works at alone from now on
(``case`` is its place, None means all that are left), and one ``answer`` for each case, which names it likewise."""


def answer_for(case: Any, bench: Bench, run: Run = run_case) -> dict[str, Any]:
    """The case's answer as plain values. A failure becomes a status; ``fit`` is false where the process must exit."""
    try:
        observed, caveats = run(case, bench)
    except Exception as exc:  # noqa: BLE001  # the boundary of the process: whatever ends a case becomes its record
        return failure_of(exc)
    return success_of(observed, caveats)


def success_of(observed: Any, caveats: list[Caveat]) -> dict[str, Any]:
    """The answer of a case that worked."""
    return {"status": Status.OK, "observed": to_plain(observed), "caveats": to_plain(caveats), "fit": True}


def failure_of(exc: Exception) -> dict[str, Any]:
    """The answer of a case that an exception ended."""
    if isinstance(exc, WrongResult):
        return _failure(Status.WRONG, exc, fit=not isinstance(exc, DeviceFault))
    if isinstance(exc, Blocked):
        return _failure(Status.BLOCKED, exc)
    if isinstance(exc, HybridbenchError):
        return _failure(Status.UNSUPPORTED, exc)
    # The CPU allocator raises a plain RuntimeError. CUDA libraries raise errors of their own, after which the state of
    # the device is unknown.
    if isinstance(exc, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(exc):
        return _failure(Status.OOM, exc) | _of_host_memory(exc)
    if ran_out_of_memory(exc):
        return _failure(Status.OOM, exc, fit=False)
    return _failure(Status.CRASHED, exc, fit=False)


def _of_host_memory(exc: Exception) -> dict[str, str]:
    """The message in place of that of PyTorch's CPU allocator, which begins with a line of its source; else nothing."""
    asked = re.search(r"you tried to allocate (\d+) bytes", str(exc))
    if asked is None:
        return {}
    return {"message": f"memory for the CPU is used up: {format_bytes(int(asked[1]))} more were asked for."}


def one_answer(case: Any, bench: Bench, run: Run = run_case) -> Iterator[dict[str, Any]]:
    """What a worker says of one case: its answer."""
    yield {"kind": "answer", **answer_for(case, bench, run)}


def _failure(status: Status, exc: BaseException, fit: bool = True) -> dict[str, Any]:
    text = reason(exc) if isinstance(exc, HybridbenchError) else described(exc)
    full = None if isinstance(exc, HybridbenchError) else "".join(traceback.format_exception(exc))
    return {"status": status, "message": text, "traceback": full, "fit": fit}


def free_memory(case: _Work) -> None:
    """Frees the last case's memory, so that the next one starts from an empty device."""
    if case.compiled:  # in other modes only kernels were compiled, and the next case can use those
        torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    release()
    gc.collect()
    if torch.cuda.is_available():
        # cuBLAS keeps 32 MiB for every stream that ran a product, and each captured graph warms up on its own stream.
        # The next case's peak would include them all.
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()


def serve(
    cases: Iterable[str],
    answers: IO[str],
    open_bench: Callable[[str, Callable[[str], None]], Bench] = Bench.open,
    read: Callable[[dict[str, Any]], _Work] = Case.from_dict,
    work: Work = one_answer,
    team: Team | None = None,
) -> None:
    """Answers cases until there are none left or one may have left the device unusable.

    Args:
        cases: one line of JSON per case. A line may also name cases that will come (``early``), and has no answer.
        open_bench: makes the bench of a kind of device; its second argument is called with each phase.
        read: makes a case of a line's values.
        work: does one, and yields what is said of it.
        team: runs cases of several ranks; None in a process that is one of them.
    """

    def send(kind: str, **body: Any) -> None:
        answers.write(json.dumps({"kind": kind, **body}) + "\n")
        answers.flush()

    benches: dict[str, Bench] = {}
    gc.collect()
    gc.freeze()  # imported objects stay: searching them took 0.15 s per case, and sometimes as long within a sample
    send("hello", cuda=torch.cuda.is_available())
    for case in _asked(cases, read):
        if team is not None and isinstance(case, Case) and team.takes(case):
            for said in team.answers(case):
                send(**said)
            continue
        kind = case.device
        if kind == "cuda" and not torch.cuda.is_available():
            send("environment", environment=to_plain(fingerprint(torch.device("cpu"))))
            for place, _ in enumerate(cases_of(case)):
                send("answer", case=place, **failure_of(Unsupported(NO_CUDA)))
            continue
        if kind not in benches:
            benches[kind] = open_bench(kind, lambda name: send("phase", phase=name))
        bench = benches[kind]
        # Sent first, so that the record of a case that kills this process still has its environment.
        send("environment", environment=to_plain(bench.environment()))
        for said in work(case, bench):
            send(**said)
            if not said.get("fit", True):
                return
        free_memory(case)


def _asked(lines: Iterable[str], read: Callable[[dict[str, Any]], _Work]) -> Iterator[_Work]:
    """The cases of the lines. Where one names cases that will come, what they use is imported."""
    for line in lines:
        said = json.loads(line)
        if SOON in said:
            import_for([read(case) for case in said[SOON]])
        else:
            yield read(said)


def import_for(cases: Iterable[_Work]) -> None:
    """Imports what cases of one process will use. Whatever goes wrong is left to the case itself, which says so."""
    for case in cases:
        if isinstance(case, Case) and case.ranks == 1:
            with contextlib.suppress(Exception):
                resolve_backends(case)
    with contextlib.suppress(Exception):
        import_module("torch._inductor.compile_fx")  # and Dynamo, which custom operators import
    gc.collect()
    gc.freeze()


NO_CUDA = "PyTorch finds no CUDA device: install a CUDA build of torch and a driver, or measure with --device cpu"


def main(read: Callable[[dict[str, Any]], _Work] = Case.from_dict, work: Work = one_answer) -> None:
    """Entry point of the process; ``read`` and ``work`` as in ``serve``."""
    faulthandler.register(signal.SIGUSR1)  # the runner asks a hanging worker for its stacks before killing it
    end_with_starter()
    team = Team()
    try:
        with os.fdopen(int(sys.argv[-1]), "w", encoding="utf-8") as answers:
            serve(sys.stdin, answers, read=read, work=work, team=team)
    finally:
        team.end()


if __name__ == "__main__":
    if "--ready" in sys.argv:
        with compiled_once(Path(sys.argv[sys.argv.index("--ready") + 1])):
            main(work=partial(one_answer, run=make_ready))
    else:
        main()
