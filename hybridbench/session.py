"""session: a case made ready on a device, for all that times or counts it: resolve, build, verify, prepare, check.

Before a case may be timed, every kernel is verified against its reference implementation and the work itself is checked
at its own size. Verified kernels and errors at short lengths are remembered for the whole process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from hybridbench.kernels import Check, Problem, release, verify
from hybridbench.kernels.tuning import side_by_side
from hybridbench.model.build import Resolved, build_model, resolve_backends
from hybridbench.model.language import LanguageModel
from hybridbench.ranks.place import RankPlace, place_of
from hybridbench.record import SizeCheck
from hybridbench.suite.case import Case
from hybridbench.suite.ops import DECODE_STEP
from hybridbench.workload import Checker, Prepared, prepare
from hybridbench.workload.at_size.checker import Known
from hybridbench.workload.at_size.quantised import quantise_as

VERIFY_SEED = 20_251_006


@dataclass
class Proofs:
    """What a process has verified so far: kernels against reference implementations, and errors at short lengths."""

    checks: dict[tuple[str, str, Problem], Check] = field(default_factory=dict)
    known: Known = field(default_factory=Known)

    def verify(self, resolved: list[Resolved], device: torch.device) -> None:
        """Verifies every kernel, once per process and kind of problem.

        Raises:
            WrongResult: a kernel disagrees with its reference implementation.
        """
        unproved = {_known(item): item for item in resolved if item.op != DECODE_STEP}.items()
        for known, item in [one for one in unproved if one[0] not in self.checks]:
            self.checks[known] = verify(item.backend, item.problem.any_size(), device=device, seed=VERIFY_SEED)
        release()  # else the first case's peak memory would include what kernels keep for these small shapes

    def of(self, item: Resolved) -> Check | None:
        """The verification of an operation's kernel; None where there was none."""
        return self.checks.get(_known(item))


def _known(item: Resolved) -> tuple[str, str, Problem]:
    """What decides the result of a verification: all of a problem but its length and batch."""
    return item.op, item.backend.ran, item.problem.any_size()


@dataclass
class Session:
    """A case that is ready to be timed.

    Attributes:
        case: what this process runs: of a case of several ranks, its part.
        place: of this process among several ranks; None where it runs the whole case.
        resolved: its operations and their kernels.
        sized: the comparisons made at its own size.
        unchecked: sentences about what could not be compared.
        build_ns: time to build the model; ns.
        prepare_ns: time to verify, prepare and check; ns.
        check_ns: the part of ``prepare_ns`` that the check at size took; ns.
    """

    case: Case
    resolved: list[Resolved]
    model: LanguageModel
    work: Prepared
    sized: list[SizeCheck]
    unchecked: list[str]
    build_ns: int
    prepare_ns: int
    check_ns: int
    place: RankPlace | None = None


def device_for(kind: str) -> torch.device:
    """The first visible device of a kind, ``cpu`` or ``cuda``."""
    return torch.device("cuda", 0) if kind == "cuda" else torch.device("cpu")


def open_session(
    case: Case,
    device: torch.device,
    proofs: Proofs | None,
    phase: Callable[[str], None] = lambda _name: None,
    now: Callable[[], int] = time.perf_counter_ns,
) -> Session:
    """Makes a case ready; of a case of several ranks the part of this one, which must be in their process group.

    Args:
        proofs: what this process has verified; this case adds to it. With None nothing is verified and the case must
            not be timed: another process has checked it.
        phase: called with the name of each phase as it begins.
        now: the clock for ``build_ns``, ``prepare_ns`` and ``check_ns``; ns.

    Raises:
        Unsupported: an operation cannot run here as asked; nothing was allocated.
        WrongResult: a kernel, compiled layers or the work at its own size is wrong.
    """
    with side_by_side():  # kernels tune themselves at their first run, which is here
        started = now()
        phase("build")
        place = place_of(case)
        case = case if place is None else place.part
        resolved = resolve_backends(case)
        model = build_model(case, resolved)
        if place is None:
            model.allocate(device, case.execution.seed)
        else:
            place.allocate(model, resolved, device)
        coded = quantise_as(case, model, compare=proofs is not None)
        built = now()

        checker = None
        if proofs is not None:
            phase("verify")
            proofs.verify(resolved, device)
            checker = Checker(case, model, resolved, proofs.known, now)

        phase("prepare and check")
        work = prepare(case, model, checker)
        if checker is not None and work.verify is not None:
            work.checks.append(work.verify())
        ended = now()
    return Session(
        case,
        resolved,
        model,
        work,
        sized=coded + ([] if checker is None else checker.checks),
        unchecked=[] if checker is None else checker.unchecked,
        build_ns=built - started,
        prepare_ns=ended - built,
        check_ns=0 if checker is None else checker.spent_ns,
        place=place,
    )
