"""exporting: ``hybridbench export``: stored records as one Parquet or CSV file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from hybridbench.cli.options import GIVEN_PATH
from hybridbench.cli.output import Plain
from hybridbench.cli.stored import all_records
from hybridbench.cli.typed import Command
from hybridbench.errors import BadInput
from hybridbench.record import Record

ENDINGS = (".parquet", ".csv")


@click.command(cls=Command)
@click.argument("results", nargs=-1, required=True, type=GIVEN_PATH)
@click.option(
    "-o", "--out", type=GIVEN_PATH, required=True, help="The file, .parquet or .csv; an earlier one is replaced."
)
def export(results: tuple[Path, ...], out: Path) -> None:
    """Write every record of RESULTS, folders or .jsonl files, as a row with its identity and every metric.

    Columns are those of hybridbench.load in Python: SI, with the unit at the end of the name. Parquet keeps their types
    and needs pyarrow. What is damaged is named and left out, and the exit code is 2.
    """
    if out.suffix not in ENDINGS:
        raise BadInput(f"--out {out} ends in neither {' nor '.join(ENDINGS)}: name a file that does.")
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise BadInput(f"--out {out} needs pyarrow, which is not installed: pip install pyarrow, or write a .csv.")
    from hybridbench.frames import record_frame

    frame = record_frame(all_records(results, Record))
    try:
        if out.suffix == ".parquet":
            frame.to_parquet(out, index=False)
        else:
            frame.to_csv(out, index=False, lineterminator="\n")
    except OSError as exc:
        raise BadInput(f"{out} cannot be written ({exc.strerror or exc}): choose another with --out.") from exc
    Plain().print(f"{len(frame):,} records, {len(frame.columns)} columns: {out}", soft_wrap=True)
