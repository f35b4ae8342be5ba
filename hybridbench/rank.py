"""rank: the program of one rank of a case: it answers cases as a worker does, of which it runs its part.

python -m hybridbench.rank ANSWER_FD
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from hybridbench.bench import Bench
from hybridbench.processes import end_with_starter
from hybridbench.ranks.group import join
from hybridbench.ranks.watch import watch
from hybridbench.standing import Standing
from hybridbench.worker import serve


def main() -> None:
    """Entry point of the process."""
    faulthandler.register(signal.SIGUSR1)  # the worker asks a hanging rank for its stacks
    end_with_starter()
    standing = Standing.here()
    pipe = int(sys.argv[-1])

    def open_bench(kind: str, phase: Callable[[str], None]) -> Bench:
        if standing.count > 1:
            phase("join")
            join(standing, kind == "cuda")
        return Bench.open(kind, phase)

    def tell(kind: str, **body: Any) -> None:
        # The rank itself writes nothing meanwhile: it waits.
        os.write(pipe, (json.dumps({"kind": kind, **body}) + "\n").encode())

    watch(standing, tell)
    with os.fdopen(pipe, "w", encoding="utf-8") as answers:
        serve(sys.stdin, answers, open_bench=open_bench, team=None)


if __name__ == "__main__":
    main()
