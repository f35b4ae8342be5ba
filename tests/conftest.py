"""One thread for every test: their tensors are tiny, and waiting threads cost more than they give.

And Ctrl-C for every process that a test starts: what a shell starts in the background ignores it, and so would they.
Inductor and AOTAutograd are imported whole before the first test: where a test that fails or is ended cut their import
short, a second one raised "already registered" in every later test that compiles (torch 2.13). The process that only
hands tests out to others imports no torch.

What collecting the tests made, 700,000 objects that live until the end, is kept from the garbage collector: each case
collects garbage before it is measured, and would go through all of them.
"""

from __future__ import annotations

import gc
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SAMPLED = 4
"""Of how many sets of a sampled test's parameters one is quick."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--rewrite-golden``, which writes the files of ``tests/golden/expected`` anew."""
    parser.addoption("--rewrite-golden", action="store_true", help="Write the golden files anew before comparing.")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Imports Inductor and AOTAutograd where tests run: not in the process that hands them to others (pytest-xdist)."""
    if hasattr(session.config, "workerinput") or not session.config.getoption("numprocesses", None):
        import functorch.compile  # noqa: F401
        import torch._inductor.codecache  # noqa: F401


@pytest.hookimpl(tryfirst=True)  # before -m is looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Makes three of four sets of parameters slow where a test is ``sampled``."""
    seen = Counter[str]()
    for item in items:
        if item.get_closest_marker("sampled"):
            test = item.nodeid.partition("[")[0]
            if seen[test] % SAMPLED:
                item.add_marker(pytest.mark.slow)
            seen[test] += 1


def pytest_collection_finish() -> None:
    """Leaves to the garbage collector what tests make."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Restores the number of threads afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def blank_charts(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Charts of reports are empty files, but for those whose names a test adds: drawing one takes 0.3 s of a core."""
    from hybridbench.report.render import charts, folder

    drawn: set[str] = set()

    def save(definition: dict[str, Any], stem: Path) -> tuple[Path, ...]:
        if stem.name in drawn:
            return charts.save(definition, stem)
        files = charts.chart_files(stem)
        for file in files:
            file.touch()
        return files

    monkeypatch.setattr(folder, "save", save)
    return drawn
