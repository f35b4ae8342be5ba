"""Committed results are records, pages, and the pictures and tables that a page shows; ``hybridbench report`` makes the
rest. Every link of a page leads somewhere.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hybridbench.kernel_suite.record import KernelRecord
from hybridbench.record import Record
from hybridbench.record.traced import TraceRecord
from hybridbench.store import load

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "results").rglob("*.md")])
ALWAYS = {".jsonl", ".ndjson", ".md", ".json", ".csv", ".txt"}
"""Records and figures; pictures are kept where somebody looks at them."""


def linked(page: Path) -> set[Path]:
    """The files of this repository that a page links to or shows."""
    found = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    return {(page.parent / target).resolve() for target in found if "://" not in target}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert [str(target) for target in linked(page) if not target.exists()] == []


@pytest.mark.parametrize("kind", [Record, TraceRecord, KernelRecord])
def test_every_committed_record_is_read(kind: type) -> None:
    said: list[str] = []
    assert load([ROOT / "results"], said.append, said.append, kind)
    assert said == []


def test_every_picture_is_shown_by_a_page() -> None:
    shown = set().union(*(linked(page) for page in PAGES))
    files = {path for path in (ROOT / "results" / "nvidia-h200").rglob("*") if path.is_file()}
    assert {path for path in files if path.suffix not in ALWAYS} <= shown
