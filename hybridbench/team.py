"""team: the processes of a case's ranks, started by a worker, watched together, and one answer made of theirs.

The worker itself runs no part of such a case. Whatever happens to a rank ends the case with that said, and its
processes, so that the next case starts with new ones: a rank that dies, fails or runs out of memory, and one that does
not come to a collective in which the others wait. Ranks of cases that worked are kept for the next case.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hybridbench.machine import usable_cores, visible_gpus
from hybridbench.plain import from_plain, to_plain
from hybridbench.processes import Answering, alive
from hybridbench.record import Energy, Observed, Status
from hybridbench.standing import ASK, Standing
from hybridbench.suite.case import Case

PROGRAM = "hybridbench.rank"
START_LIMIT_S = 180.0
GRACE_S = 2.0
"""How long to wait, once a rank has failed, for what the others say of it; seconds."""
PATIENCE_S = 150.0
"""How long a rank may wait for another in a collective; seconds. Kernels are compiled meanwhile."""
SHARE_OF_LIMIT = 0.9
"""After this share of a case's time limit the ranks are asked where they are, before their worker is ended."""
FOLDER = "hybridbench-ranks-"
"""How the names of folders begin in which ranks meet and log; the worker's process id follows."""
RECORDED = 512
"""Collectives that PyTorch's flight recorder keeps of each rank."""


@dataclass
class _RankState:
    """One rank's process and what it has said of the current case."""

    number: int
    process: Answering
    greeted: bool = False
    phase: str = "start"
    answer: dict[str, Any] | None = None
    ended: str | None = None
    stuck: dict[str, Any] | None = None
    at: dict[str, Any] | None = None

    def begin(self) -> None:
        """Forgets the case before."""
        self.phase, self.answer, self.stuck, self.at = "start", None, None, None

    @property
    def failed(self) -> bool:
        """Whether the case cannot go on after what it did."""
        return self.ended is not None or (self.answer is not None and self.answer["status"] != Status.OK)


@dataclass
class Team:
    """The rank processes of a worker.

    Args:
        program: the module that each of them runs.
        patience_s: how long a rank may wait for another in a collective; seconds.
    """

    program: str = PROGRAM
    patience_s: float = PATIENCE_S
    _ranks: list[_RankState] = field(default_factory=list)
    _kind: tuple[str, int] = ("", 0)
    _folder: Path | None = None

    def takes(self, case: Case) -> bool:
        """Whether a case runs in processes of ranks: where it has several, and on a GPU also where others have.

        A worker that has several GPUs uses none itself, or its memory there would be missing when all of them are used.
        """
        shared = "," in os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return case.ranks > 1 or (case.device == "cuda" and shared)

    def answers(self, case: Case) -> Iterator[dict[str, Any]]:
        """Runs a case and yields what a worker says of it: its environment, its phases, its answer."""
        started = time.monotonic()
        gpus = visible_gpus() if case.device == "cuda" else []
        if case.device == "cuda" and len(gpus) < case.ranks:
            text = f"{case.ranks} ranks need a GPU each, and this worker sees {len(gpus)}"
            yield _answer(Status.UNSUPPORTED, text)
            return
        if self._kind != (case.device, case.ranks):
            self.end()
            self._start(case, gpus)
        for rank in self._ranks:
            rank.begin()
            rank.process.ask(json.dumps(case.to_dict()))
        deadline = started + SHARE_OF_LIMIT * case.limit_s
        with selectors.DefaultSelector() as selector:
            for rank in self._ranks:
                selector.register(rank.process, selectors.EVENT_READ, rank)
            yield from self._listen(selector, deadline)
            yield {"kind": "answer", **self._judged(selector, case)}

    def end(self) -> None:
        """Ends all processes."""
        for rank in self._ranks:
            rank.process.end()
        self._ranks, self._kind = [], ("", 0)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _start(self, case: Case, gpus: Sequence[str]) -> None:
        _clear_away()
        folder = self._folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-"))
        patience_s = min(self.patience_s, case.limit_s / 3)
        for number in range(case.ranks):
            standing = Standing(number, case.ranks, folder / "meeting", patience_s)
            environment = standing.to_environment() | _settings(case.ranks, gpus, number)
            words = [sys.executable, "-m", self.program]
            self._ranks.append(_RankState(number, Answering(words, folder / f"rank-{number}.log", environment)))
        self._kind = case.device, case.ranks

    def _listen(self, selector: selectors.BaseSelector, deadline: float) -> Iterator[dict[str, Any]]:
        """Hears the ranks until all have answered, one has failed or hangs, or the time is over."""
        while not all(rank.answer for rank in self._ranks):
            troubled = any(rank.failed or rank.stuck for rank in self._ranks)
            left = GRACE_S if troubled else deadline - time.monotonic()
            heard = False
            for key, _ in selector.select(max(0.0, left)):
                heard = True
                yield from self._hear(selector, key.data)
            if not heard:
                return

    def _hear(self, selector: selectors.BaseSelector, rank: _RankState) -> Iterator[dict[str, Any]]:
        lines = rank.process.lines()
        if lines is None:
            selector.unregister(rank.process)
            code = rank.process.exit_code()
            rank.ended = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else ""
            rank.ended = rank.ended or f"ended with code {code}"
            return
        for line in lines:
            message = json.loads(line)
            kind = message["kind"]
            if kind == "phase":
                rank.phase = message["phase"]
            elif kind == "answer":
                rank.answer = message
            elif kind == "stuck":
                rank.stuck = message
            elif kind == "at":
                rank.at = message
            if rank.number == 0 and kind in ("phase", "environment"):
                yield message

    def _judged(self, selector: selectors.BaseSelector, case: Case) -> dict[str, Any]:
        """The answer of the case; ends the processes where it failed."""
        answers = [rank.answer for rank in self._ranks if rank.answer is not None]
        if len(answers) == case.ranks and all(answer["status"] == Status.OK for answer in answers):
            return _merged(answers)
        culprit = _first_to_fail(self._ranks)
        try:
            return self._hung(selector, case) if culprit is None else self._failed(culprit)
        finally:
            self.end()

    def _failed(self, culprit: _RankState) -> dict[str, Any]:
        count = len(self._ranks)
        name = f"rank {culprit.number} of {count}" if count > 1 else "the process"
        logs = "\n\n".join(
            f"rank {rank.number}:\n{text}"
            for rank in self._ranks
            if (text := (rank.answer or {}).get("traceback") or rank.process.tail())
        )
        if culprit.ended is not None:
            hint = "; the system may have run out of memory" if "SIGKILL" in culprit.ended else ""
            how = f"{name} {culprit.ended} while it was in phase '{culprit.phase}'{hint}"
            return _answer(Status.CRASHED, how, logs)
        assert culprit.answer is not None
        status, said = Status(culprit.answer["status"]), culprit.answer["message"]
        if all(rank.answer is not None and rank.answer["status"] == status for rank in self._ranks):
            return _answer(status, said, logs)  # what all of them say is of the case, not of one rank
        return _answer(status, f"{name}: {said}", logs)

    def _hung(self, selector: selectors.BaseSelector, case: Case) -> dict[str, Any]:
        """What is said of ranks that did not finish: which does not come to which collective, and all their stacks."""
        assert self._folder is not None
        waited = next((rank.stuck["for_s"] for rank in self._ranks if rank.stuck), None)
        (self._folder / ASK).touch()
        until = time.monotonic() + 2 * GRACE_S
        while time.monotonic() < until and not all(rank.at for rank in self._ranks):
            for key, _ in selector.select(0.2):
                for _ in self._hear(selector, key.data):
                    pass
        where = _who_waits({rank.number: rank.at for rank in self._ranks if rank.at}, len(self._ranks))
        stacks = "\n\n".join(f"rank {rank.number}:\n{rank.process.stacks()}" for rank in self._ranks if not rank.ended)
        phases = ", ".join(f"rank {rank.number} in phase '{rank.phase}'" for rank in self._ranks)
        if waited is None:
            limit = f"not finished after {SHARE_OF_LIMIT * case.limit_s:.0f} s"
            return _answer(Status.TIMED_OUT, f"{limit}, {phases}{where}: raise --limit or shrink the case", stacks)
        return _answer(Status.TIMED_OUT, f"a collective has hung for {waited:.0f} s, {phases}{where}", stacks)


def _clear_away() -> None:
    """Removes the folders of workers that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        pid = folder.name.removeprefix(FOLDER).partition("-")[0]
        if pid.isdecimal() and not alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _first_to_fail(ranks: Sequence[_RankState]) -> _RankState | None:
    """The rank that began it: others fail because it is gone, so that a dead one comes first, and a crash last."""
    order = [Status.OOM, Status.WRONG, Status.BLOCKED, Status.UNSUPPORTED, Status.TIMED_OUT, Status.CRASHED]
    failed = [rank for rank in ranks if rank.failed]
    if any(rank.stuck for rank in ranks) and not any(rank.ended for rank in failed):
        failed = [rank for rank in failed if rank.answer and rank.answer["status"] != Status.CRASHED]

    def place(rank: _RankState) -> tuple[bool, int]:
        return rank.ended is None, order.index(Status(rank.answer["status"])) if rank.answer else 0

    return min(failed, key=place, default=None)


def _who_waits(at: Mapping[int, dict[str, Any]], count: int) -> str:
    """Which ranks have not come to the collective in which others wait, in words with a colon in front."""
    if len(at) < 2:
        return ""
    last = max(one["begun"] for one in at.values())
    ahead = [rank for rank, one in at.items() if one["begun"] == last]
    behind = [rank for rank in at if rank not in ahead]
    op = at[ahead[0]]["op"] or "a collective"
    if behind:
        return f": {_ranks(behind)} of {count} did not come to {op}, number {last}, where {_ranks(ahead)} waits"
    if all(one["begun"] > one["done"] for one in at.values()):
        ops = sorted({str(one["op"]) for one in at.values()})
        return f": all ranks are in collective number {last} ({', '.join(ops)}), which does not end"
    return ""


def _ranks(numbers: Sequence[int]) -> str:
    return f"rank{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _answer(status: Status, message: str, traceback: str | None = None) -> dict[str, Any]:
    return {"kind": "answer", "status": status, "message": message, "traceback": traceback or None, "fit": True}


def _settings(count: int, gpus: Sequence[str], number: int) -> dict[str, str]:
    """Variables of a rank: its own GPU is the first that it sees, and it sees those of the others."""
    found = {
        "OMP_NUM_THREADS": str(max(1, (usable_cores() - 1) // count)),
        "TORCH_FR_BUFFER_SIZE": str(RECORDED),
        "TORCH_NCCL_TRACE_BUFFER_SIZE": str(RECORDED),  # the same before torch 2.9
    }
    if gpus:
        mine = list(gpus[:count])
        found["CUDA_VISIBLE_DEVICES"] = ",".join([*mine[number:], *mine[:number]])
    return found


def _merged(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One answer of the ranks': the first one's, with what each observed of itself."""
    seen = [from_plain(Observed, answer["observed"]) for answer in answers]
    losses = [one.loss for one in seen if one.loss is not None]
    if len(seen) == 1:
        return dict(answers[0])
    observed = replace(
        seen[0],
        ranks=[rank for one in seen for rank in one.ranks],
        loss=sum(losses) / len(losses) if losses else None,
        energy=_energy([one.energy for one in seen]),
    )
    caveats = list(dict.fromkeys(caveat for answer in answers for caveat in answer["caveats"]))
    return {"status": Status.OK, "observed": to_plain(observed), "caveats": caveats, "fit": True}


def _energy(parts: Sequence[Energy | None]) -> Energy | None:
    """The energy of all GPUs; None where one of them does not tell."""
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    idle = [part.idle_power_w for part in known if part.idle_power_w is not None]
    return replace(
        known[0],
        energy_j=sum(part.energy_j for part in known),
        idle_power_w=sum(idle) if len(idle) == len(known) else None,
    )
