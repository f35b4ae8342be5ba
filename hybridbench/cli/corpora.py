"""corpora: ``hybridbench corpus``: text made into packed token shards, and such shards checked."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hybridbench.cli.options import out_options
from hybridbench.cli.output import Plain
from hybridbench.cli.typed import Command
from hybridbench.errors import BadInput, unknown_name
from hybridbench.plain import to_plain

if TYPE_CHECKING:
    from hybridbench.quality.corpus.manifest import Manifest

ACTIONS = ("build", "check")


@click.command(cls=Command)
@click.argument("action", metavar="build|check")
@click.option(
    "--from",
    "sources",
    multiple=True,
    metavar="SOURCE",
    help="A file or folder, python, packages, docs, man or hf:NAME; repeatable.",
)
@click.option(
    "--vocab", "vocabulary", help="bytes, bpe (4,096 tokens, trained on the text) or a tokenizer.json.  [bytes]"
)
@click.option("--field", "column", help="The field of JSON Lines, Parquet and data sets that holds the text.  [text]")
@click.option("--held-out", "held_out_percent", type=float, help="Percent of the documents to hold out.  [1]")
@click.option("--max-size", help="Text after which no more is read, such as 10m bytes.  [all]")
@click.option("--licence", help="What the manifest says of the licence of your own files.  [not given]")
@out_options
def corpus(
    action: str,
    sources: tuple[str, ...],
    vocabulary: str | None,
    column: str | None,
    held_out_percent: float | None,
    max_size: str | None,
    licence: str | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Make text into token shards to train on, in the folder -o, or check such a folder.

    build reads every SOURCE, leaves out documents that are there twice, holds some out by document, and writes shards
    with a manifest. Several --from add up. A tokenizer.json must give text back. check holds every file to the hash and
    the numbers in the manifest.
    """
    if action not in ACTIONS:
        raise unknown_name("action", action, ACTIONS)
    if out is None:
        raise BadInput(f"corpus {action} without -o: name the corpus's folder, such as -o corpus/python.")
    given = (vocabulary, column, held_out_percent, max_size, licence, *sources)
    if action == "check" and any(one is not None for one in given):
        raise BadInput("corpus check takes -o only: it reads what is there.")
    if action == "check":
        from hybridbench.quality.corpus.manifest import check_files, read_manifest

        manifest = read_manifest(out)
        check_files(out, manifest)
    else:
        manifest = _build(out, sources, vocabulary, column, held_out_percent, max_size, licence)
    if as_json:
        click.echo(json.dumps({"folder": str(out), "key": manifest.key, **to_plain(manifest)}))
        return
    _show(manifest, out)


def _build(
    out: Path,
    sources: tuple[str, ...],
    vocabulary: str | None,
    column: str | None,
    held_out_percent: float | None,
    max_size: str | None,
    licence: str | None,
) -> Manifest:
    from hybridbench.quality.corpus.build import HELD_OUT_FRAC, CorpusPlan, build
    from hybridbench.quality.corpus.sources import named_source
    from hybridbench.quality.corpus.vocabulary import BYTES
    from hybridbench.units import parse_count

    if not sources:
        raise BadInput("corpus build without --from: name a file or folder, python, packages, docs, man or hf:NAME.")
    plan = CorpusPlan(
        vocabulary or BYTES,
        HELD_OUT_FRAC if held_out_percent is None else held_out_percent / 100,
        None if max_size is None else parse_count(max_size, "--max-size"),
    )
    named = [named_source(name, column or "text", licence) for name in dict.fromkeys(sources)]
    with _progress() as tell:
        return build(named, out, plan, tell)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A line on a terminal that says what is read; a log needs none."""
    console = Plain(stderr=True, soft_wrap=True)
    if not console.is_terminal:
        yield lambda _sentence: None
        return
    with console.status("reading") as status:
        yield status.update


def _show(manifest: Manifest, folder: Path) -> None:
    from hybridbench.quality.corpus.tables import tables
    from hybridbench.report.render.terminal import print_table

    console = Plain()
    for table in tables(manifest):
        print_table(table, console)
    console.print(f"Corpus {manifest.key}: {folder}", soft_wrap=True)
