"""auditing: ``hybridbench audit``: one step's FLOPs by every convention and counter, and why they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.text import Text

from hybridbench.cli.measuring import check_backends, tell_merged
from hybridbench.cli.options import as_typed, execution_options, model_options, out_options, parse_backends
from hybridbench.cli.output import Plain
from hybridbench.cli.placing import needs_gpu
from hybridbench.cli.typed import Command, listed
from hybridbench.errors import BadInput
from hybridbench.machine import alike_gpus, visible_gpus
from hybridbench.suite.case import EAGER, Case
from hybridbench.suite.models import ALL_ARCHS
from hybridbench.suite.ops import check_backends_used
from hybridbench.suite.sweep import Sweep, cases, check_seconds, merged_ratios
from hybridbench.suite.workloads import TRAIN, check_one_pass, one_pass


@click.command(cls=Command)
@listed("--workload", default=TRAIN, show_default=True, help=f"With commas: {', '.join(one_pass())}.")
@model_options(arch=None)
@execution_options
@click.option("--no-counters", is_flag=True, help="On a GPU: without Nsight Compute.")
@click.option("--no-vector", is_flag=True, help="On a GPU: tensor cores and memory only, in half the time.")
@click.option(
    "--limit", "limit_s", type=float, default=1800.0, show_default=True,
    help="On a GPU: seconds all cases may take together; what was counted by then is shown.",
)  # fmt: skip
@out_options
def audit(
    *,
    workload: str,
    backend: tuple[str, ...],
    no_counters: bool,
    no_vector: bool,
    limit_s: float,
    as_json: bool,
    out: Path | None,
    **options: Any,
) -> None:
    """Count the FLOPs of one eager step, operation by operation: by closed forms in all three conventions, by torch's
    flop_counter and fvcore with formulas for what they lack, and on a GPU by its own counters through Nsight Compute.

    Each difference has a named reason and the FLOPs that the reason explains. The rest is shown as unexplained.

    On a GPU the operator counters run first, over all cases. Then Nsight Compute counts each case in its own process,
    which takes some 10 s to start. All GPUs count at once if they are the same model. If a failure or --limit leaves a
    counter out, the audit says so.
    """
    gpus = visible_gpus()
    planned = _cases(workload, parse_backends(backend), bool(gpus), **options)
    needs_gpu(planned, gpus)
    check_backends(planned)
    check_seconds(limit_s, "--limit", "to count")
    from hybridbench.audit.render import document, print_audits, write_audits
    from hybridbench.audit.run import Interrupted
    from hybridbench.audit.run import audit as audited
    from hybridbench.report.render.page import own_page
    from hybridbench.store import make_folder

    if out:
        own_page(out, "audit.md")
    folder = make_folder(out) if out else None
    told = Plain(stderr=True)
    stopped = False
    try:
        found = audited(
            planned,
            counters=not no_counters,
            vector=not no_vector,
            limit_s=limit_s,
            gpus=alike_gpus(gpus),
            progress=lambda line: told.print(Text(line), soft_wrap=True),
        )
    except Interrupted as exc:
        found, stopped = exc.finished, True
    page = write_audits(found, folder) if folder and found else None
    if as_json:
        click.echo(document(found))
    else:
        console = Plain()
        print_audits(found, console)
        if page:
            console.print(f"Audit: {page}", soft_wrap=True)
    if stopped:
        raise KeyboardInterrupt


def _cases(workload: str, backends: dict[str, str], has_gpu: bool, **options: Any) -> list[Case]:
    """The cases that the options name: eager, at one context where --ctx is not given.

    Raises:
        BadInput: an option that has no meaning here, or a case that does not exist.
    """
    kinds = [kind.strip() for kind in workload.split(",")]
    for kind in kinds:
        check_one_pass(kind, "--workload")
    if options["mode"] not in (None, EAGER):
        raise BadInput(f"--mode {options['mode']}: operator counters see an eager step only; leave it out.")
    if options["arch"] is None:
        options["arch"] = ALL_ARCHS if options["pattern"] is not None else "inter"
    options.update(mode=EAGER, ctx="1k" if options["ctx"] is None else options["ctx"])
    options["batch"] = "1" if options["batch"] is None else options["batch"]
    planned = []
    tell_merged(merged_ratios(Sweep(workload=kinds[0], **options), has_gpu=has_gpu))
    for kind in dict.fromkeys(kinds):
        planned += cases(Sweep(workload=kind, backends=backends, **options), has_gpu=has_gpu, spelled=as_typed)
    check_backends_used(backends, planned)
    return planned
