"""page: what in an output folder is hybridbench's to replace: pages that open as it opens them, and what they name."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path

from hybridbench.errors import BadInput

OPENINGS = {
    "report.md": "# hybridbench report\n\n## Findings\n",
    "index.html": "<!doctype html>\n<!-- a page of hybridbench -->\n",
    "cost.md": "# Predicted cost\n\n### predicted cost of ",
    "compare.md": "# Comparison\n\nThe ratio of medians cell by cell",
    "kernels.md": "# Kernels\n\nOperations timed by themselves.\n",
    "learn.md": "# Learning\n\nModels trained on a corpus and judged on text held out of it.\n",
    "solve.md": "# Tasks\n\nModels trained on synthetic tasks and judged on sizes beyond them too.\n",
    "contexts.md": "# Long contexts\n\nTrained models beyond the length that they were trained at.\n",
    "pareto.md": "# Quality and cost\n\nWhich stacks no other beats in both",
    "price.md": "# Predicted price\n\n### predicted, nothing was run: ",
    "audit.md": "# Audit\n\nFLOPs of one step as conventions and counters see them",
}
"""How each page begins, by its name; no page that a person writes begins so."""


def own_page(folder: Path, name: str) -> Path:
    """Where the page of a name goes in a folder, which need not exist.

    Raises:
        BadInput: a file of that name is there, and hybridbench did not write it; or no folder can have that name.
    """
    path, opening = folder / name, OPENINGS[name]
    try:
        with path.open(encoding="utf-8", errors="replace") as page:
            found = page.read(len(opening))
    except OSError as exc:  # nothing is there, or what writing it will say
        if exc.errno == errno.ENAMETOOLONG:
            raise BadInput(f"{folder} cannot be a folder ({exc.strerror}): choose another with --out.") from exc
        return path
    if found not in ("", opening):
        raise BadInput(f"{path} is not a page of hybridbench and would be lost: move it, or name another --out.")
    return path


def clear_earlier(page: Path, targets: Iterable[Path]) -> None:
    """Remove what an earlier page names in the folders of what is to be written: not all of it may be overwritten.

    Args:
        page: where the new page goes, and where the earlier one may be.
        targets: every table and chart that is to be written.

    Raises:
        BadInput: one of them is there, and no earlier page names it; nothing was removed.
    """
    before = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    wanted = set(targets)
    folders = [folder for name in ("tables", "charts") if (folder := page.parent / name).is_dir()]
    there = [path for folder in folders for path in sorted(folder.iterdir())]
    named = {path for path in there if _names(before, path)}
    for path in there:
        if path in wanted - named:
            raise BadInput(
                f"{path} is not of a report of hybridbench and would be lost: move it, or name another --out."
            )
    for path in named:
        path.unlink()


def _names(page: str, path: Path) -> bool:
    """Whether a page names a file: a picture stands for its other formats."""
    if path.suffix == ".tex":
        return f"`{path.parent.name}/{path.name}`" in page
    return path.suffix in (".csv", ".png", ".svg", ".pdf") and f"({path.parent.name}/{path.stem}." in page
