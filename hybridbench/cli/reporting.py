"""reporting: ``hybridbench report``: tables and charts from stored records."""

from __future__ import annotations

from pathlib import Path

import click

from hybridbench.cli.options import GIVEN_PATH, out_options
from hybridbench.cli.output import Plain
from hybridbench.cli.typed import Command


@click.command(cls=Command, short_help="Tables and charts from stored records.")
@click.argument("results", nargs=-1, required=True, type=GIVEN_PATH)
@out_options
def report(results: tuple[Path, ...], as_json: bool, out: Path | None) -> None:
    """Make tables and charts from stored records. RESULTS are folders or .jsonl files; several are merged.

    If a case was measured more than once on a machine, the newest record is shown. Without -o the report goes into the
    folder ``report`` beside the first of RESULTS.
    """
    from hybridbench.cli.rendering import render, render_kernels
    from hybridbench.kernel_suite.record import KernelRecord
    from hybridbench.record import Record
    from hybridbench.store import holds, load, newest

    warnings = Plain(stderr=True, soft_wrap=True)
    first = results[0]
    folder = out or (first if first.is_dir() else first.parent) / "report"

    def warn(text: str) -> None:
        warnings.print(f"warning: {text}", style="yellow")

    kernels = [path for path in results if path.exists() and holds([path], KernelRecord)]
    others = [path for path in results if path not in kernels or holds([path], Record)]
    if others:
        of_models: list[Record] = newest(load(others, warn))
        render(of_models, folder, as_json=as_json)
    if kernels and not (others and as_json):
        render_kernels(newest(load(kernels, warn, KernelRecord)), folder, as_json=as_json)
