r"""latex: tables as LaTeX with booktabs: numbers aligned at the point, units in headings, caveats as notes.

A paper takes a table by ``\input{tables/decode-throughput}`` after ``\usepackage{booktabs,graphicx,siunitx}``. A table
that is wider than the line is scaled down to it. Nothing of a name can become a command: every character that LaTeX
reads as one is written out, and one that its fonts lack is spelled by its number.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from hybridbench.report.table import Column, Table, TableCell
from hybridbench.text import printable

OPENING = "% A table of hybridbench: \\usepackage{booktabs,graphicx,siunitx}\n"
"""How each file begins."""
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r'\string"',  # babel gives it a meaning
    "`": r"\textasciigrave{}",
    "'": "'{}",
    "\u00d7": r"\texttimes{}",
    "\u00b1": r"\textpm{}",
    "\u00b5": r"\textmu{}",
    "\u00b0": r"\textdegree{}",
    "\u2013": r"\textendash{}",
    "\u2014": r"\textemdash{}",
    "\u2026": r"\textellipsis{}",
}
_LETTERS = set(map(chr, range(0xC0, 0x100))) - set("\u00d0\u00de\u00f0\u00fe\u00f7")
"""Latin letters that LaTeX prints in every encoding of fonts."""
_NUMBER = re.compile(r"-?(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?")
_MARKED = re.compile(r"(?P<text>.*?)\s*(?P<marks>(?:\[\d+\]\s*)*)", re.DOTALL)


def escape(text: str) -> str:
    """A text as LaTeX prints it unchanged, on one line."""
    words = unicodedata.normalize("NFC", printable(" ".join(text.split())))
    return "".join(map(_character, words)).replace("--", "-{}-{}")  # LaTeX would make one dash of them


def _character(one: str) -> str:
    if one in _SPECIAL:
        return _SPECIAL[one]
    known = " " <= one <= "~" or one in _LETTERS
    return one if known else f"(U+{ord(one):04X})"


def to_latex(table: Table, label: str) -> str:
    r"""A table in a float of its own, with the caption above it and notes below.

    Args:
        label: what ``\ref{tab:...}`` calls it: letters, digits and hyphens.
    """
    columns = [_column(column, [row[place] for row in table.rows]) for place, column in enumerate(table.columns)]
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape(table.full_title)}}}",
        rf"  \label{{tab:{label}}}",
        r"  \smallskip",
        r"  \sisetup{group-separator={,},group-minimum-digits=4}",
        rf"  \sbox0{{\begin{{tabular}}{{@{{}}{''.join(columns)}@{{}}}}",
        r"    \toprule",
        f"    {_row(f'{{{escape(column.heading)}}}' for column in table.columns)}",
        r"    \midrule",
        *(f"    {_row(map(_cell, table.columns, row))}" for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}}",
        r"  \ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
        *_notes(table),
        r"\end{table}",
    ]
    return OPENING + "\n".join(lines) + "\n"


def latex_files(tables: Mapping[str, Table], preview: str) -> dict[str, str]:
    """Tables as files, by name, and a document named ``preview`` that shows them all.

    ``pdflatex preview`` in their folder makes it.
    """
    files = {f"{name}.tex": to_latex(table, name) for name, table in tables.items()}
    return {**files, f"{preview}.tex": _preview(list(tables))}


def _preview(names: Sequence[str]) -> str:
    return "\n".join(
        [
            OPENING + r"\documentclass{article}",
            r"\usepackage{booktabs,graphicx,siunitx}",
            r"\usepackage[margin=2cm]{geometry}",
            r"\extrafloats{500}",
            r"\begin{document}",
            *(rf"\input{{{name}}}\clearpage" for name in names),
            "\\end{document}\n",
        ]
    )


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _column(column: Column, cells: Sequence[TableCell]) -> str:
    """The format of a column: of numbers, with the most digits before and after the point, else of text."""
    if not column.numeric:
        return "l"
    numbers = [found for cell in cells if (found := _number(_parts(cell.text)[0]))]
    if not numbers:
        return "r"
    parts = [number.removeprefix("-").split(".") for number in numbers]
    whole, decimals = (max(map(len, digits)) for digits in zip(*parts, strict=True))
    minus = "-" if any(number.startswith("-") for number in numbers) else ""
    widest = max((_marks(_parts(cell.text)[1]) for cell in cells), key=len)
    room = f",table-space-text-post={{{widest}}}" if widest else ""
    return f"S[table-format={minus}{whole}.{decimals}{room}]"


def _number(text: str) -> str:
    """The digits of a number around a point, without separators; empty if the text is no number."""
    if not _NUMBER.fullmatch(text):
        return ""
    whole, _, decimals = text.replace(",", "").partition(".")
    return f"{whole}.{decimals}"


def _parts(text: str) -> tuple[str, list[str]]:
    """A cell's text and the numbers of its footnotes."""
    found = _MARKED.fullmatch(text)
    assert found is not None  # both parts may be empty
    return found["text"], re.findall(r"\d+", found["marks"])


def _marks(notes: Sequence[str]) -> str:
    return rf"\textsuperscript{{{','.join(notes)}}}" if notes else ""


def _cell(column: Column, cell: TableCell) -> str:
    text, notes = _parts(cell.text)
    marks = _marks(notes)
    number = _number(text) if column.numeric else ""
    if number:
        return number.rstrip(".") + marks
    return f"{{{escape(text)}{marks}}}" if column.numeric else escape(text) + marks


def _notes(table: Table) -> list[str]:
    """Notes with the marks of their cells, then remarks, as a paragraph each."""
    said = [rf"\textsuperscript{{{number}}}\,{escape(note)}" for number, note in enumerate(table.notes, start=1)]
    said += [escape(remark) for remark in table.remarks]
    if not said:
        return []
    paragraphs = r"\par ".join(said)
    return [rf"  \par\smallskip\begin{{minipage}}{{\linewidth}}\footnotesize\raggedright {paragraphs}\end{{minipage}}"]
