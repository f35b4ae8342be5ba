"""workers: a process for each side, both alive at once, and one question after the other to either."""

from __future__ import annotations

import json
import re
import selectors
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from hybridbench.errors import BadInput, HybridbenchError
from hybridbench.gate.sides import Setup, check_package
from hybridbench.processes import Answering

START = Path(__file__).parent / "side" / "start.py"
START_LIMIT_S = 180.0
QUOTED_LINES = 4
"""Of the end of a log, where a side does not start."""


class Died(HybridbenchError):
    """A side's process ended or gave no answer in time; the text says how."""


class Asking(Protocol):
    """One side's process, or what a test puts in its place."""

    @property
    def hello(self) -> Mapping[str, Any]:
        """What it says of itself when it is first asked."""
        ...

    def ask(self, request: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        """Its answer to one request; raises ``Died``."""
        ...

    def pause(self) -> None:
        """Stops it until ``resume``."""
        ...

    def resume(self) -> None:
        """Lets it go on."""
        ...

    def end(self) -> None:
        """Ends it."""
        ...


def settings(device: str, gpu: str | None) -> dict[str, str]:
    """Variables of a side's process: on a CPU one thread, as the other cores belong to others; on a GPU which one."""
    if device == "cuda":
        return {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return one | {"CUDA_VISIBLE_DEVICES": ""}


class SideWorker:
    """A fresh process of one side.

    Args:
        side: where its code comes from.
        environment: variables to add to those of this process.
        log: the file of its output.
        modules: what it imports before it is asked anything.

    Raises:
        BadInput: it does not start: it does not import, or imports another package than it should.
    """

    def __init__(self, side: Setup, environment: Mapping[str, str], log: Path, modules: Sequence[str] = ()) -> None:
        self._side = side
        path = {"PYTHONPATH": ":".join(side.path)}
        words = [side.python, "-P", str(START), *modules]
        try:
            self._process = Answering(words, log, {**environment, **path}, side.folder)
        except OSError as exc:
            raise BadInput(f"the {side.name} cannot be started: {exc.strerror} ({exc.filename}).") from exc
        self._lines: list[str] = []
        self._hello: dict[str, Any] | None = None

    @property
    def hello(self) -> dict[str, Any]:
        """What the process says of itself, waited for; raises as the constructor does."""
        if self._hello is None:
            self._process.ask(json.dumps({"do": "hello"}))
            try:
                self._hello = self._answer(START_LIMIT_S)
            except Died as exc:
                last = "\n".join(self._process.tail().splitlines()[-QUOTED_LINES:])
                raise BadInput(f"the {self._side.name} does not start: {exc}. It said:\n{last}{_hint(last)}") from exc
            check_package(self._side, self._hello["package"])
        return self._hello

    def ask(self, request: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            Died: it ended, or gave none in time. Then it is of no further use.
        """
        self._process.ask(json.dumps(request))
        return self._answer(limit_s)

    def pause(self) -> None:
        """Stops the process, whatever it is doing, until ``resume``."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets the process go on."""
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.end()

    def _answer(self, limit_s: float) -> dict[str, Any]:
        ends = time.monotonic() + limit_s
        while not self._lines:
            with selectors.DefaultSelector() as selector:
                selector.register(self._process, selectors.EVENT_READ)
                if not selector.select(max(0.0, ends - time.monotonic())):
                    raise Died(f"it gave no answer for {limit_s:.0f} s")
            lines = self._process.lines()
            if lines is None:
                code = self._process.exit_code()
                raise Died(f"its process was killed by signal {-code}" if code < 0 else f"its process ended ({code})")
            self._lines += lines
        found: dict[str, Any] = json.loads(self._lines.pop(0))
        return found


def _hint(said: str) -> str:
    """What to do where a side lacks a part of this package: it is older than what times it."""
    if not re.search(r"^(ImportError|ModuleNotFoundError): .*hybridbench", said, re.MULTILINE):
        return ""
    return (
        "\nIt may be older than the program that times both sides: take a later revision, or name a kernel's old and "
        "new function with --base-kernel and --kernel."
    )
