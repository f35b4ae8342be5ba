"""page: which pages in an output folder are hybridbench's to replace: those that open as it opens them."""

from __future__ import annotations

import errno
from pathlib import Path

from hybridbench.errors import BadInput

OPENINGS = {
    "report.md": "# hybridbench report\n\n## Findings\n",
    "index.html": "<!doctype html>\n<!-- a page of hybridbench -->\n",
    "cost.md": "# Predicted cost\n\n### predicted cost of ",
    "compare.md": "# Comparison\n\nThe ratio of medians cell by cell",
    "kernels.md": "# Kernels\n\nOperations timed by themselves.\n",
    "learn.md": "# Learning\n\nModels trained on a corpus and judged on text held out of it.\n",
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
