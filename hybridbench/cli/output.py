"""output: the terminal as commands write to it: text is printed as it stands, whatever is in it.

rich reads ``[red]`` and ``:smile:`` in what it prints. A folder may be called that, so a ``Plain`` console reads
neither. What has a style is a ``Text`` or is printed with one.
"""

from __future__ import annotations

from rich.console import Console


class Plain(Console):
    """A console that prints text as it stands.

    Args:
        stderr: whether it writes to stderr, so that stdout stays free for results.
        soft_wrap: whether the terminal breaks long lines, so that a path in one can be copied; not for tables.
    """

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = False) -> None:
        super().__init__(stderr=stderr, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)
