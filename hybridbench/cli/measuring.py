"""measuring: commands that run cases: train-throughput, prefill, decode, generate and run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from hybridbench.arch.stored import Dtypes, check_runs
from hybridbench.cli.options import (
    RESULTS,
    as_typed,
    check_plot,
    checkpoint_option,
    model_options,
    out_options,
    parse_backends,
    plot_option,
    run_options,
    stored_options,
)
from hybridbench.cli.output import Plain
from hybridbench.cli.placing import HERE, LOCAL, Place, Shared, most_ranks
from hybridbench.cli.typed import Command
from hybridbench.early import Early
from hybridbench.errors import BadInput, HybridbenchError
from hybridbench.machine import in_groups, visible_gpus
from hybridbench.record import Record, Status
from hybridbench.report.render.page import own_page
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.ops import check_backends_used
from hybridbench.suite.quantised import check_quantised
from hybridbench.suite.sweep import Sweep, cases, default_mode, merged_ratios
from hybridbench.suite.workloads import DECODE, WORKLOADS, WorkloadRow, workload_row

if TYPE_CHECKING:
    from hybridbench.report.live import LiveSweep
    from hybridbench.searches import Measure
    from hybridbench.store import RecordWriter


PLOT_HELP = "Draw throughput against context or batch on the terminal, too."


def _command(row: WorkloadRow) -> click.Command:
    """A command that sweeps one workload."""

    @click.command(row.command, cls=Command, help=row.about)
    @model_options()
    @run_options
    @plot_option(PLOT_HELP)
    @out_options
    def command(
        *,
        backend: tuple[str, ...],
        plot: bool,
        as_json: bool,
        out: Path | None,
        resume: bool,
        dry_run: bool,
        **options: Any,
    ) -> None:
        check_plot(plot, as_json)
        sweep = Sweep(workload=row.name, backends=parse_backends(backend), **options)
        gpus = visible_gpus()
        planned = cases(sweep, has_gpu=bool(gpus), spelled=as_typed)
        check_backends_used(sweep.backends, planned)
        check_backends(planned)
        tell_merged(merged_ratios(sweep, has_gpu=bool(gpus)))
        kind = with_plot(MODELS) if plot else MODELS
        measure_cases(planned, row.command, gpus, as_json=as_json, out=out, resume=resume, dry_run=dry_run, kind=kind)

    command.params += _options_of(row)
    return stored_options(command) if row.name == DECODE else command


def _options_of(row: WorkloadRow) -> list[click.Parameter]:
    """The options that only some workloads have."""
    options: list[click.Parameter] = []
    if row.prompted:
        options += [
            click.Option(["--prompt"], type=int, default=512, show_default=True, help="Prompt tokens of a generation."),
            click.Option(
                ["--depths"], type=int, help="Time steps at so many depths (odd, from 3) and integrate over them."
            ),
        ]
    if row.trains:
        options.append(checkpoint_option())
        options.append(click.Option(["--gpus"], default="1", show_default=True, help=GPUS_HELP))
    options.append(click.Option(["--tp"], default="1", show_default=True, help=TP_HELP))
    if row.decodes:
        options.append(click.Option(["--as-published"], is_flag=True, help=AS_PUBLISHED_HELP))
    return options


GPUS_HELP = "GPUs that a step's sequences and weights are divided over (FSDP2), such as 1,2,4,8; processes on a CPU."
TP_HELP = "GPUs that every layer's heads and columns are divided over (tensor parallel), such as 1,2."
AS_PUBLISHED_HELP = "Eager attention with a growing cache, the rest in CUDA graphs, as the paper's figures suggest."
OF_WORKLOADS = [_command(row) for row in WORKLOADS.values()]
"""A command for each workload, in the table's order."""


def tell_merged(sentences: Sequence[str]) -> None:
    """Say on stderr which ratios are one case, which is measured once for all of them."""
    console = Plain(stderr=True, soft_wrap=True)
    for sentence in sentences:
        console.print(f"{sentence}, which is measured once, for all of them.")


def check_backends(planned: Sequence[Case], *, installed: bool = True) -> None:
    """Check that the backends that cases name exist and are installed. Torch is imported only if a case names one.

    Raises:
        BadInput: an unknown name, or a backend that cannot run here, with the reason.
    """
    if any(case.execution.backends for case in planned):
        from hybridbench.backends import check_installed, check_names

        check_installed(planned) if installed else check_names(planned)


@dataclass(frozen=True)
class RecordKind:
    """What is measured, as far as a command has to know.

    Attributes:
        record: the kind of its records.
        page: the name of its report's page.
        shown: makes how finished cases are shown while others run (``report.live.Shown``); None is that of models.
        render: shows records and writes their report, as ``rendering.render``.
        jobs: what workers are given for cases, the cases or joint jobs of several, after the records of earlier passes.
        passes: how often the cases run, each time in fresh processes and as a run of its own.
        at_once: how many processes share each device.
        shared: whether its cases stand in a queue from which other processes may take them too.
    """

    record: type[Any]
    page: str
    shown: Callable[[], Any]
    render: Callable[..., None]
    jobs: Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]] = lambda cases, _earlier: cases
    passes: int = 1
    at_once: int = 1
    shared: bool = False


def _render(*given: Any, **options: Any) -> None:
    from hybridbench.cli.rendering import render

    render(*given, **options)


MODELS = RecordKind(Record, "report.md", lambda: None, _render, shared=True)


def with_plot(kind: RecordKind) -> RecordKind:
    """The same kind, whose throughput is drawn below its tables."""
    return replace(kind, render=partial(kind.render, plot=True))


def measure_cases(
    planned: Sequence[Any],
    name: str,
    gpus: Sequence[str],
    *,
    as_json: bool = False,
    out: Path | None = None,
    resume: bool = False,
    dry_run: bool = False,
    brief: bool = False,
    kind: RecordKind = MODELS,
    ahead: bool = False,
    place: Place = HERE,
) -> list[Any]:
    """Run cases, show progress and tables, and print where the results are. Returns the records to report.

    Args:
        ahead: compile what cases of a GPU need in processes side by side, before the first.
        place: where the cases run, and on how many workers.

    Raises:
        BadInput: a GPU asked for that is not there, a folder that cannot be written, ``--resume`` without a folder,
            a report there that hybridbench did not write.
    """
    if dry_run:
        _list_cases(planned, as_json)
        return []
    place.check(planned, gpus)
    if resume and out is None:
        raise BadInput("--resume without -o: name the folder to go on with, such as -o results/local/decode.")
    from hybridbench.resume import remaining_of
    from hybridbench.store import recorded

    folder = out or RESULTS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    own_page(folder / "report", kind.page)
    console = Plain(stderr=True, soft_wrap=True)
    stored: dict[str, Any] = recorded(folder, kind.record) if resume else {}
    left = remaining_of(planned, stored)
    if left.done:
        known = len(planned) - len(left.todo)
        console.print(f"{known} of {len(planned)} cases are recorded in {folder}; {len(left.todo)} to run.")
    if left.sampled_otherwise:
        alike = left.sampled_otherwise
        console.print(f"{alike} of those to run are recorded with other sampling (as by another --max-time).")
    todo = left.todo
    sweep = _Sweep(todo, len(planned), name, folder, gpus, console, kind, place, resume, ahead)
    records, failure = sweep.run() if todo else ([], None)
    kept = _recorded(folder, records, console, kind) if records or stored else records
    if resume and len(records) < len(planned):
        wanted = {case.key for case in planned}
        records = [record for record in kept if record.case.key in wanted]
    if records:
        _report(records, kept, folder, console, kind, as_json=as_json, brief=brief, ended_early=failure is not None)
    if failure is not None:
        raise failure
    if not any(record.status is Status.OK for record in records):
        click.get_current_context().exit(1)
    return records


def _report(
    records: Sequence[Any],
    kept: Sequence[Any],
    folder: Path,
    console: Console,
    kind: RecordKind,
    *,
    as_json: bool,
    brief: bool,
    ended_early: bool,
) -> None:
    try:
        kind.render(records, folder / "report", as_json=as_json, brief=brief, written=kept)
    except KeyboardInterrupt:
        where = shlex.quote(str(folder))
        console.print(f"Stopped. All {len(records)} records are kept; make the report with: hybridbench report {where}")
        click.get_current_context().exit(130)
    except HybridbenchError as exc:
        if not ended_early:
            raise
        console.print(f"There is no report: {exc}")  # a full disk ends the run first, and that is what has to be told


def _recorded(folder: Path, records: Sequence[Any], console: Console, kind: RecordKind) -> Sequence[Any]:
    """All records of the folder that can be read, or only those of this run if the folder cannot."""
    from hybridbench.store import load, newest

    try:
        return newest(load([folder], console.print, console.print, kind.record))
    except HybridbenchError as exc:
        console.print(f"The report is of this run only: {exc}")
        return records


@dataclass
class _Sweep:
    """The cases of a command while they run.

    Args:
        planned: how many cases the command has, with those that are recorded.
    """

    todo: Sequence[Any]
    planned: int
    name: str
    folder: Path
    gpus: Sequence[str]
    console: Console
    kind: RecordKind
    place: Place
    resume: bool
    ahead: bool
    finished: list[Any] = field(default_factory=list)

    def run(self) -> tuple[list[Any], HybridbenchError | None]:
        """Run the cases. Returns the records, and the exception that ended the run early, if any."""
        from hybridbench.report.live import LiveSweep

        if self.kind.shared:
            recorded = self.planned - len(self.todo)
            gpus = self.gpus if self._on_gpu else ()
            self._shared = Shared(self.folder, self.todo, self.name, recorded, self.resume, gpus)
            self._opened = self.place.open(self._shared)
        try:
            with self._started() as early:
                if self.ahead:
                    _compile_ahead(self.todo, self._devices, self.console)
                with LiveSweep(len(self.todo) * self.kind.passes, self.console, shown=self.kind.shown()) as live:
                    self._through(live, early)
        except KeyboardInterrupt:
            self._how_to_go_on()
            click.get_current_context().exit(130)
        except HybridbenchError as exc:
            self._how_to_go_on()
            return self.finished, exc
        return self.finished, None

    @property
    def _on_gpu(self) -> bool:
        return any(case.device == "cuda" for case in self.todo)

    @property
    def _devices(self) -> Sequence[str]:
        if not self._on_gpu:
            return ()
        only = 1 if self.kind.passes > 1 else self.place.workers
        return in_groups(self.gpus, most_ranks(self.todo))[:only]

    @contextmanager
    def _started(self) -> Iterator[Early | None]:
        """Workers that import while kernels are compiled ahead; None where none are, or one does not start.

        The run starts its own then, and says why it cannot.
        """
        early = None
        if self.ahead and self._on_gpu and self.place.on == LOCAL:
            with suppress(OSError):
                early = Early(self._devices, self.todo, self.folder)
        try:
            yield early
        finally:
            if early is not None:
                early.end()

    def _through(self, live: LiveSweep, early: Early | None) -> None:
        from hybridbench.runner import Events, run_sweep
        from hybridbench.store import RecordWriter

        def note(record: Any) -> None:
            self.finished.append(record)
            live.finished(record)

        events = Events(live.started, live.phase, note)
        if self.kind.shared:
            self.place.run(self._shared, self._opened, events, self.console.print, early)
            return
        for _ in range(self.kind.passes):
            with RecordWriter(self.folder, kind=self.kind.record) as writer:
                jobs, at_once = self.kind.jobs(self.todo, self.finished), self.kind.at_once
                gpus = [gpu for gpu in self._devices for _ in range(at_once)]
                run_sweep(jobs, writer, gpus=gpus, workers=None if gpus else at_once, events=events)

    def _how_to_go_on(self) -> None:
        if not self.folder.is_dir():
            return
        if self.kind.passes > 1:
            if any(self.folder.glob(f"{self.kind.record.FILES}-*.jsonl")):
                kept = f"{len(self.finished)} records are kept in {self.folder}"
                self.console.print(f"Stopped. {kept}; hybridbench report shows them.")
            return
        recorded = self.planned - len(self.todo) + len(self.finished)
        self.console.print(
            f"Stopped. {recorded} of {self.planned} cases are recorded in {self.folder}. "
            f"To go on, give the same command with -o {shlex.quote(str(self.folder))} --resume."
        )


def _compile_ahead(todo: Sequence[Any], gpus: Sequence[str], console: Console) -> None:
    """Compile the kernels of the cases, with a line or a bar that says so."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from hybridbench.ahead import compile_ahead, groups_of

    if not groups_of(todo):
        return
    if not console.is_terminal:
        console.print("Compiling the kernels of all cases, side by side.")
    columns = (
        TextColumn("compiling kernels, side by side", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
    )
    with (
        TemporaryDirectory(prefix="hybridbench-ahead-") as logs,
        Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar,
    ):
        task = bar.add_task("")
        missing = compile_ahead(
            todo, Path(logs), gpus, lambda done, total: bar.update(task, completed=done, total=total)
        )
    for sentence in dict.fromkeys(missing):
        console.print(f"Not all is compiled, so some first cases take longer: {sentence}.", markup=False)


def _list_cases(planned: Sequence[Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"cases": [{"key": case.key, **case.to_dict()} for case in planned]}))
        return
    for case in planned:
        click.echo(f"{case.key}  {case.label}  {case.how}")
    click.echo(f"{len(planned)} case{'s' * (len(planned) != 1)}.", err=True)


def execution_of(device: str, dtypes: Dtypes, kind: str, checkpoint: str = "none") -> Execution:
    """How a search runs its steps in these dtypes: in the default mode of the workload.

    Raises:
        BadInput: no kernel here runs them.
    """
    check_runs(dtypes)
    mode = default_mode(workload_row(kind), device)
    execution = Execution(device, dtypes.weights, mode, checkpoint=checkpoint).stored_in(dtypes)
    check_quantised(execution, kind, as_typed)
    return execution


def measure_with(writer: RecordWriter, gpus: Sequence[str]) -> Measure:
    """A function that runs cases in worker processes, on the first GPU if there are several."""
    from hybridbench.runner import run_sweep

    return lambda cases: run_sweep(cases, writer, gpus=gpus[:1])


def told() -> Callable[[str], None]:
    """A function that prints a search's progress on stderr."""
    console = Plain(stderr=True, soft_wrap=True)
    return lambda line: console.print(line)
