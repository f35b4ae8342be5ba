"""tables: a corpus as tables: its two splits, and what each source gave."""

from __future__ import annotations

from hybridbench.quality.corpus.manifest import HELD_OUT, TRAIN, Manifest
from hybridbench.report.table import Column, Table, TableCell


def tables(manifest: Manifest) -> list[Table]:
    """The splits and the sources of a corpus."""
    words = manifest.vocabulary
    splits = Table(
        "splits",
        [
            Column("split", "split", numeric=False),
            *(Column(key, key.replace("_", " ")) for key in ("documents", "tokens", "text_bytes", "shards")),
        ],
        f"vocabulary {words.kind}, {words.size:,} ids",
    )
    for name in (TRAIN, HELD_OUT):
        split = manifest.split(name)
        numbers = (split.documents, split.tokens, split.text_bytes, len(split.shards))
        splits.rows.append([TableCell(name, name), *(TableCell(f"{number:,}", number) for number in numbers)])
    sources = Table(
        "sources",
        [
            Column("source", "source", numeric=False),
            Column("documents", "documents"),
            Column("text_bytes", "text bytes"),
            Column("duplicates", "duplicates left out"),
            Column("passed_over", "passed over"),
            Column("licence", "licence", numeric=False, wraps=True),
        ],
    )
    for origin in manifest.sources:
        passed = sum(origin.passed_over.values())
        mark = ""
        if passed:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(origin.passed_over.items()))
            mark = f" {sources.note(f'{origin.name}, passed over: {reasons}')}"
        given = (origin.documents, origin.text_bytes, origin.duplicates)
        sources.rows.append(
            [
                TableCell(origin.name, origin.name),
                *(TableCell(f"{number:,}", number) for number in given),
                TableCell(f"{passed:,}{mark}", passed),
                TableCell(origin.licence, origin.licence),
            ]
        )
    return [splits, sources]
