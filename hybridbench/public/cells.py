"""cells: one cell of a comparison, from our case to a row for each way in which the public library runs it.

Whatever ends a way becomes its row with the reason: memory, a package that is missing, a compiler's error.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from hybridbench.bench import compilations, timed_operations
from hybridbench.errors import WrongResult, portable
from hybridbench.measure.clock import Timer, timer_for
from hybridbench.measure.nvml import Gpu
from hybridbench.model.build import parameter_count
from hybridbench.public.rounds import Rounds, Steps, take_turns
from hybridbench.public.row import PublicRow
from hybridbench.public.theirs import PROMPT, STEPS, PublicModel
from hybridbench.public.ways import Way, ways
from hybridbench.record import Status
from hybridbench.session import Proofs, Session, open_session
from hybridbench.sizes import TRAIN_BATCHES
from hybridbench.suite.case import Case
from hybridbench.suite.workloads import TRAIN
from hybridbench.worker import failure_of, free_memory
from hybridbench.workload.at_size.errors import STEP, cap, of_whole
from hybridbench.workload.prepared import random_tokens


@dataclass
class Venue:
    """The device on which both run, and what is remembered between cells."""

    device: torch.device
    rounds: Rounds = field(default_factory=Rounds)
    proofs: Proofs = field(default_factory=Proofs)
    timer: Callable[[torch.device], Timer] = timer_for


@dataclass
class Attempt:
    """A way that is being tried, and what is known of it so far."""

    row: PublicRow

    def note(self, **fields: Any) -> None:
        """Adds what was found out."""
        self.row = replace(self.row, **fields)


def compare_cell(case: Case, venue: Venue) -> Iterator[PublicRow]:
    """A row for each way, as it is done."""
    found = ways(case.workload.kind, case.model.arch, case.device)
    rows = [_planned(case, way) for way in found]
    try:
        session = open_session(case, venue.device, venue.proofs)
    except Exception as exc:  # noqa: BLE001  # whatever ends a cell becomes its rows
        yield from (_failed(row, exc, "ours: ") for row in rows)
    else:
        for row, way in zip(rows, found, strict=True):
            attempt = Attempt(_with_ours(row, session))
            try:
                _compare(attempt, session, way, venue)
            except Exception as exc:  # noqa: BLE001
                attempt.row = _failed(attempt.row, exc)
            yield attempt.row
            _free_theirs()
        del session
    free_memory(case)


def _planned(case: Case, way: Way) -> PublicRow:
    library, work, how = way.model.library, case.workload, case.execution
    try:
        version = metadata.version(library.replace("_", "-"))
    except metadata.PackageNotFoundError:
        version = None
    return PublicRow(
        workload=work.kind,
        arch=case.model.arch,
        scale=case.model.scale,
        context=work.context,
        batch=work.batch,
        device=how.device,
        dtype=how.dtype,
        mode=how.mode,
        library=library,
        library_version=version,
        way=way.words,
    )


def _failed(row: PublicRow, exc: Exception, whose: str = "") -> PublicRow:
    answer = failure_of(exc)
    stack = None if answer["traceback"] is None else portable(answer["traceback"])
    return row.failed(Status(answer["status"]), whose + answer["message"], stack)


def _with_ours(row: PublicRow, session: Session) -> PublicRow:
    timed = timed_operations(session.resolved, session.case)
    kernels = {item.op: item.backend.ran for item in timed}
    return replace(row, parameters=parameter_count(session.model), kernels=kernels)


def _compare(attempt: Attempt, session: Session, way: Way, venue: Venue) -> None:
    """Builds theirs, checks it and times both.

    Raises:
        WrongResult: their model is not ours, or its logits are not.
    """
    case, trains = session.case, session.case.workload.kind == TRAIN
    theirs = way.model(case, venue.device)
    attempt.note(their_parameters=theirs.parameters)
    theirs.give(session.model)
    error = _sequence_error(session, theirs) if trains else _decode_error(session, theirs)
    bound = cap(STEP, case.execution.dtype)
    attempt.note(weights="ours", logits_error=error, logits_bound=bound)
    if not error <= bound:  # NaN is not <= anything
        raise WrongResult(
            f"logits of a prompt of {PROMPT + STEPS} tokens differ by {error:.3g} of their norm, and the bound is "
            f"{bound:.3g}: these are not the same model, so it is not timed."
        )
    sides = [Steps(session.work.step), _ready(session, theirs)]
    for side in sides:
        side.put_back()
        side.step()
    gpu = Gpu.open(venue.device)
    attempt.note(before=gpu.state() if gpu else None)
    graphs = compilations()
    ours_ns, theirs_ns = take_turns(sides, venue.timer(venue.device), venue.rounds)
    again = ["something was compiled while steps were timed"] * (compilations() > graphs)
    after = gpu.state() if gpu else None
    attempt.note(ours_ns=ours_ns, theirs_ns=theirs_ns, notes=theirs.doubts() + again, after=after)


def _ready(session: Session, theirs: PublicModel) -> Steps:
    case, device = session.case, theirs.device
    if case.workload.kind == TRAIN:
        shape = (TRAIN_BATCHES, case.workload.batch, case.workload.context + 1)
        theirs.begin_training(random_tokens(case, session.model, *shape))
        return Steps(theirs.train)
    theirs.fill(torch.Generator(device=device).manual_seed(case.execution.seed + 2))
    return Steps(theirs.step, theirs.put_back)


def _prompt(session: Session, batch: int) -> Tensor:
    return random_tokens(session.case, session.model, batch, PROMPT + STEPS, offset=1)


def _decode_error(session: Session, theirs: PublicModel) -> float:
    """The largest error of the logits of their decode step, from those of our modules token by token.

    Our step as it is timed was compared with our modules when the session was opened.
    """
    model, batch = session.model, session.case.workload.batch
    token_BT = _prompt(session, batch)
    caches = model.new_caches(batch, PROMPT + STEPS, session.case.execution.storage)
    position_B = torch.zeros(batch, dtype=torch.int64, device=theirs.device)
    theirs.begin(token_BT[:, :PROMPT])
    errors = []
    for at in range(PROMPT + STEPS):
        with torch.no_grad():
            expected_BV = model.decode(token_BT[:, at], position_B + at, caches)
        if at >= PROMPT:
            theirs.token_B1.copy_(token_BT[:, at : at + 1])
            errors.append(float(of_whole(theirs.decode(), expected_BV)))
    return max(errors, key=_nan_first)


def _sequence_error(session: Session, theirs: PublicModel) -> float:
    """The error of the logits of two short sequences."""
    token_BT = _prompt(session, min(2, session.case.workload.batch))
    with torch.no_grad():
        return float(of_whole(theirs.logits(token_BT), session.model(token_BT)))


def _nan_first(error: float) -> tuple[bool, float]:
    return error != error, error


def _free_theirs() -> None:
    """Frees what a way left, its compiled code too. What our kernels keep stays: our captured step reads it."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
