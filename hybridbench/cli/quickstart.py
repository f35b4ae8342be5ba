"""quickstart: one command that measures a little of everything and predicts the rest."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click
from rich.console import Console

from hybridbench.arch.block import Storage
from hybridbench.arch.families import ARCHS
from hybridbench.cli.measuring import RESULTS, measure_cases
from hybridbench.cli.options import GivenPath
from hybridbench.cli.predicting import predict
from hybridbench.machine import visible_gpus
from hybridbench.suite import DECODE, PREFILL, TRAIN, Suite, Sweep, model_specs


def suite_for(on_gpu: bool) -> Suite:
    """A few contexts of every workload, at the scale that fits: 100m on a GPU, tiny on a CPU."""
    if on_gpu:
        contexts = {TRAIN: "2k..8k", PREFILL: "4k..16k", DECODE: "4k..64k*4"}
        common = {"scale": "100m", "batch": "4", "max_time_s": 1.0}
    else:
        # Sampling ends as soon as a median is known to 2%, on an idle machine after a fraction of this time. Steps too
        # long for five samples in it would have no place here.
        contexts = {TRAIN: "128,256", PREFILL: "512,2k", DECODE: "1k..16k*4"}
        common = {"scale": "tiny", "batch": "1", "max_time_s": 1.5}
    sweeps = [Sweep(workload=kind, ctx=ctx, **common) for kind, ctx in contexts.items()]  # type: ignore[arg-type]
    return Suite("quickstart", tuple(sweeps))


@click.command(short_help="A little of everything, in a minute.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else.")
@click.option("-o", "--out", type=GivenPath(), help="Folder for records, tables and charts.")
def quickstart(as_json: bool, out: Path | None) -> None:
    """Measure all five architectures at a size that fits this machine, and predict them at 1B."""
    gpus = visible_gpus()
    folder = out or RESULTS / f"quickstart-{datetime.now():%Y%m%d-%H%M%S}"
    planned = suite_for(bool(gpus)).cases(has_gpu=bool(gpus))
    measure_cases(planned, "quickstart", gpus, as_json=as_json, out=folder, brief=True)
    if as_json:
        return
    from hybridbench.report.tables import cost_table, print_table
    from hybridbench.report.write import write_cost

    console = Console()
    specs = model_specs(arch=",".join(ARCHS), scale="1b")
    rows = predict(specs, (8192, 131072), (1,), "exact", Storage())
    console.print("\n[bold]Predicted at 1B, bfloat16[/bold] (nothing was run for this table)", highlight=False)
    print_table(cost_table(rows), console)
    predicted = write_cost(rows, folder / "predicted-1b")
    scale = "1b" if gpus else "tiny"
    console.print(
        f"""Records    {folder}
Measured   {folder}/report/report.md (tables as CSV and charts beside it)
Predicted  {predicted.page}

Try next
  hybridbench cost --scale 1b --ctx 4k..128k            what each architecture must cost at 1B
  hybridbench decode --ctx 4k..128k                     decoding against context, here at scale {scale}
  hybridbench train-throughput --arch inter --ratio 1:1,1:5
  hybridbench backends                                  which kernels run here, and why not""",
        highlight=False,
        soft_wrap=True,
    )
