"""observing: the state that the steps of an audit share, and the first step: all cases observed without a profiler.

If the observing process ends early, its current case is lost, and another process continues with the next one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hybridbench.audit.exchange import Observation
from hybridbench.processes import last_line, run_program
from hybridbench.suite.case import Case

Progress = Callable[[str], object]


class AuditRun:
    """The cases of an audit, and one time limit for all of them.

    Args:
        cases: the cases to audit.
        folder: an empty folder where processes exchange files.
        limit_s: the longest time for all cases together, from now on; seconds.
        progress: called with a line of text whenever a case was observed, or its kernels were counted.
    """

    def __init__(self, cases: Sequence[Case], folder: Path, limit_s: float, progress: Progress) -> None:
        self.cases = cases
        self.folder = folder
        self.limit_s = limit_s
        self._ends_at = time.monotonic() + limit_s
        self._progress = progress

    def left_s(self) -> float:
        """Seconds that are left; negative once the limit has passed."""
        return self._ends_at - time.monotonic()

    def tell(self, place: int, what: str, why_not: str | None) -> None:
        """Report a line about one case: what was done, or why not."""
        label = self.cases[place].label
        more = f"{what} {label}" if why_not is None else f"not {what} {label}: {why_not}"
        self._progress(f"{place + 1}/{len(self.cases)} {more}")

    @staticmethod
    def program(module: str, *files: Path) -> list[str]:
        """The command that starts one of this package's programs; the program ends itself when its starter is gone."""
        return [sys.executable, "-m", f"hybridbench.audit.observe.{module}", *map(str, files)]


def observe_all(run: AuditRun, found: list[Observation]) -> None:
    """Add the observation of each case, or why there is none."""
    while len(found) < len(run.cases):
        _observe_more(run, found)


def _observe_more(run: AuditRun, found: list[Observation]) -> None:
    """Add what one process observed of the missing cases, and why it ended early, if it did."""
    start = len(found)
    waiting = run.cases[start:]
    asked, seen = run.folder / f"cases-{start}.json", run.folder / f"seen-{start}.jsonl"
    asked.write_text(json.dumps([case.to_dict() for case in waiting]), encoding="utf-8")

    def add(one: Observation) -> None:
        run.tell(len(found), "observed", one.why_not)
        found.append(one)

    def read() -> None:
        for line in _lines(seen)[len(found) - start :]:
            add(Observation.from_dict(json.loads(line)))

    missing = 1
    try:
        code, _, errors = run_program(run.program("counters", asked, seen), run.left_s(), read)
        why = f"the process that counts ended early (exit code {code}): {last_line(errors)}"
    except subprocess.TimeoutExpired:
        why = f"counting had not finished after {run.limit_s:g} s: give more with --limit"
        missing = len(waiting)
    read()
    for _ in run.cases[len(found) : len(found) + missing]:
        add(Observation(why_not=why))


def _lines(path: Path) -> list[str]:
    """The complete lines of a file, which may not exist or may end within a line."""
    return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
