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
    sweeps = (Sweep(kind, scale=scale, ctx=ctx, batch=batch, max_time_s=1.0) for kind, ctx in contexts.items())
    return Suite("quickstart", tuple(sweeps))


CPU_TARGET = 0.05
"""Relative half-width at which the interval of a median is narrow enough on a CPU; elsewhere it is 2%.

Virtual cores do not hold 2% for the second that a case has here. On two idle ones, a product of 384 x 384 that was
repeated took up to 1.6 times its median for seconds at a time, and a tenth of all runs took more than 1.38 times the
median. Between such spells the medians of 0.3 s windows still scattered by 3%. A sum in plain Python did the same. The
differences that quickstart shows are larger, and its records state the target of 5%."""


def cases_for(on_gpu: bool) -> list[Case]:
    """The suite's cases, with the target interval that the machine can reach."""
    planned = suite_for(on_gpu).cases(has_gpu=on_gpu)
    if on_gpu:
        return planned
    return [replace(case, sampling=replace(case.sampling, target_rel_ci=CPU_TARGET)) for case in planned]


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
    from hybridbench.report.render.folder import write_predicted
    from hybridbench.report.render.terminal import print_table

    console = Plain()
    specs = model_specs(arch=",".join(ARCHS), scale="1b")
    asked = StorageOptions(dtype="bfloat16")
    rows = predict(specs, (8192, 131072), (1,), "exact", asked)
    predicted = build_cost(rows, [asked.dtypes(spec.stored) for spec, _ in rows])
    console.print(Text.assemble("\n", ("Predicted at 1B, bfloat16", "bold"), " (nothing was run for this table)"))
    print_table(predicted.table, console)
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
