"""table: a table as data, which every renderer shows with the same cells.

A cell holds the text people read and the SI value machines read. Text has three significant digits in a unit that the
heading names; values are SI numbers in full, under the metric's own name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NO_VALUE = "-"
NOT_RUN = "not run"


@dataclass(frozen=True)
class Cell:
    """One entry: ``text`` for people, ``value`` in SI for machines, ``word`` the verdict that may be coloured."""

    text: str
    value: float | str | None = None
    word: str | None = None


@dataclass(frozen=True)
class Column:
    """One column: ``key`` names it in CSV, ``wide`` keeps it out of the terminal, ``wraps`` lets its text break."""

    key: str
    heading: str
    numeric: bool = True
    wide: bool = False
    wraps: bool = False


@dataclass
class Table:
    """A table with footnotes, which cells refer to as ``[1]``, ``[2]``, and remarks on all of it below them.

    ``about`` is what all its numbers are of.
    """

    title: str
    columns: list[Column]
    about: str = ""
    rows: list[list[Cell]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def full_title(self) -> str:
        """The title for a table that stands alone."""
        return f"{self.about}: {self.title}" if self.about else self.title

    def note(self, sentence: str) -> str:
        """The marker of a footnote, which is added unless it is there."""
        if sentence not in self.notes:
            self.notes.append(sentence)
        return f"[{self.notes.index(sentence) + 1}]"

    def remark(self, sentence: str) -> None:
        """A sentence about the whole table, which no cell refers to."""
        if sentence not in self.remarks:
            self.remarks.append(sentence)

    def footnotes(self) -> list[str]:
        """The footnotes with their markers, then the remarks, which have none."""
        return [*(f"[{number}] {sentence}" for number, sentence in enumerate(self.notes, start=1)), *self.remarks]
