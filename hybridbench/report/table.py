"""table: a table as data, which every renderer shows with the same cells.

A cell holds a text for people and an SI value for machines. The text has three significant digits in the unit of the
heading. The value is the SI number in full, under the metric's own name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NO_VALUE = "-"
NOT_RUN = "not run"


@dataclass(frozen=True)
class TableCell:
    """One entry: ``text`` for people, ``value`` in SI for machines, and ``word``, a verdict that may be coloured."""

    text: str
    value: float | str | None = None
    word: str | None = None


@dataclass(frozen=True)
class Column:
    """One column: ``key`` is its name in CSV, ``wide`` omits it on the terminal, ``wraps`` allows line breaks.

    ``once`` leaves it out on the terminal in rows that agree with the row above in all such columns.
    """

    key: str
    heading: str
    numeric: bool = True
    wide: bool = False
    wraps: bool = False
    once: bool = False


@dataclass
class Table:
    """A table with footnotes, which cells refer to as ``[1]``, ``[2]``, and with remarks on the whole table below them.

    ``about`` says what all its numbers describe.
    """

    title: str
    columns: list[Column]
    about: str = ""
    rows: list[list[TableCell]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def full_title(self) -> str:
        """The title of a table that is shown alone."""
        return f"{self.about}: {self.title}" if self.about else self.title

    def note(self, sentence: str) -> str:
        """Return the marker of a footnote; add the footnote if the table does not have it yet."""
        if sentence not in self.notes:
            self.notes.append(sentence)
        return f"[{self.notes.index(sentence) + 1}]"

    def remark(self, sentence: str) -> None:
        """Add a sentence about the whole table, to which no cell refers."""
        if sentence not in self.remarks:
            self.remarks.append(sentence)

    def footnotes(self) -> list[str]:
        """The footnotes with their markers, then the remarks, which have no markers."""
        return [*(f"[{number}] {sentence}" for number, sentence in enumerate(self.notes, start=1)), *self.remarks]
