"""quickstart: one command that measures a little of everything and predicts the rest."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import click
from rich.text import Text

from hybridbench.arch.families import ARCHS
from hybridbench.arch.stored import StorageOptions
from hybridbench.cli.measuring import measure_cases
from hybridbench.cli.options import GIVEN_PATH, RESULTS
from hybridbench.cli.output import Plain
from hybridbench.cli.predicting import predict
from hybridbench.cli.typed import Command
from hybridbench.machine import visible_gpus
from hybridbench.report.render.page import own_page
from hybridbench.suite.case import Case
from hybridbench.suite.file import Suite
from hybridbench.suite.models import model_specs
from hybridbench.suite.sweep import Sweep
from hybridbench.suite.workloads import DECODE, PREFILL, TRAIN


def suite_for(on_gpu: bool) -> Suite:
    """A few contexts of every workload, at the scale that fits: 100m on a GPU, tiny on a CPU."""
    if on_gpu:
        contexts = {TRAIN: "4k", PREFILL: "8k", DECODE: "4k,64k"}
        scale, batch = "100m", "4"
    else:
        # Short enough that a step gives five samples in max_time_s.
        contexts = {TRAIN: "64,256", PREFILL: "256,1k", DECODE: "1k,16k"}
        scale, batch = "tiny", "1"
    sweeps = (Sweep(kind, scale=scale, ctx=ctx, batch=batch, max_time_s=TIME_S) for kind, ctx in contexts.items())
    return Suite("quickstart", tuple(sweeps))


TIME_S = 1.1
"""Sampling of a case. A GPU's energy counter needs a whole second, and the last step may not fit into what is left."""
TARGET = 0.05
"""Relative half-width at which the interval of a median is narrow enough here; elsewhere it is 2%.

One second does not hold 2%. At its power limit an H200 slows by up to 25% for 0.2 s in about every second, in training
and in prefill: the half-widths of 1 s were 2 to 4%. On two idle virtual cores a product of 384 x 384 that was repeated
took up to 1.6 times its median for seconds at a time, and a sum in plain Python did the same. The differences that
quickstart shows are larger, and its records state the target."""


def cases_for(on_gpu: bool) -> list[Case]:
    """The suite's cases, with the target that a second can reach."""
    planned = suite_for(on_gpu).cases(has_gpu=on_gpu)
    return [replace(case, sampling=replace(case.sampling, target_rel_ci=TARGET)) for case in planned]


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else.")
@click.option("-o", "--out", type=GIVEN_PATH, help="Folder for records, tables and charts.")
def quickstart(as_json: bool, out: Path | None) -> None:
    """Measure all five architectures at a size that fits this machine, and predict them at 1B."""
    gpus = visible_gpus()
    folder = out or RESULTS / f"quickstart-{datetime.now():%Y%m%d-%H%M%S}"
    own_page(folder / "predicted-1b", "cost.md")
    measure_cases(cases_for(bool(gpus)), "quickstart", gpus, as_json=as_json, out=folder, brief=True, ahead=True)
    if as_json:
        return
    from hybridbench.report.predicted import build_cost
    from hybridbench.report.render.terminal import print_table

    console = Plain()
    specs = model_specs(arch=",".join(ARCHS), scale="1b")
    asked = StorageOptions(dtype="bfloat16")
    rows = predict(specs, (8192, 131072), (1,), "exact", asked)
    predicted = build_cost(rows, [asked.dtypes(spec.stored) for spec, _ in rows])
    console.print(Text.assemble("\n", ("Predicted at 1B, bfloat16", "bold"), " (nothing was run for this table)"))
    print_table(predicted.table, console)
    from hybridbench.report.render.folder import write_predicted  # needs the chart libraries; the table does not

    written = write_predicted(predicted, folder / "predicted-1b")
    scale = "1b" if gpus else "tiny"
    console.print(
        f"""Records    {folder}
Measured   {folder}/report/report.md (tables as CSV and charts beside it)
Predicted  {written.page}

Try next
  hybridbench cost --scale 1b --ctx 4k..128k            what each architecture must cost at 1B
  hybridbench decode --ctx 4k..128k                     decoding against context, here at scale {scale}
  hybridbench train-throughput --arch inter --ratio 1:1,1:5
  hybridbench backends                                  which kernels run here, and why not""",
        soft_wrap=True,
    )
