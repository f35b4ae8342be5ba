"""inspecting: what can be built, which kernels can run here and why not, and what this machine is."""

from __future__ import annotations

import json
import platform
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hybridbench import __version__, units
from hybridbench.arch.families import ABOUT, ARCHS, PAPER_STACKS, RECIPES, build_spec
from hybridbench.arch.kinds import BRANCHES, KINDS, MIXERS
from hybridbench.arch.model import cost, params
from hybridbench.arch.presets import PRESETS, preset_spec
from hybridbench.arch.scales import SCALES
from hybridbench.cli.options import as_typed, execution_options, model_options, parse_backends, refuse_idle
from hybridbench.cli.output import Plain
from hybridbench.cli.typed import Command
from hybridbench.machine import visible_gpus
from hybridbench.suite.ops import check_backends_used
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.suite.workloads import DECODE, WORKLOADS

if TYPE_CHECKING:
    from hybridbench.record import Ceilings, Environment


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def archs(as_json: bool) -> None:
    """List families, scales, ratios, recipes, mixers and letters of patterns, and published models.

    Families and patterns can be built and measured. Published models can be costed.
    """
    rows: list[dict[str, Any]] = []
    for arch in ARCHS:
        for scale in SCALES:
            spec = build_spec(arch, scale)
            ratios = [ratio for family, at, ratio in PAPER_STACKS if (family, at) == (arch, scale)]
            rows.append(
                {
                    "arch": arch,
                    "about": ABOUT[arch],
                    "scale": scale,
                    "params": params(spec),
                    "published_ratios": ratios,
                    "label": spec.label,
                    "pattern": spec.pattern,
                }
            )
    models = _preset_rows()
    if as_json:
        recipes = {name: recipe.about for name, recipe in RECIPES.items()}
        letters = {kind.letter: kind.about for kind in KINDS if kind.letter}
        document = {"archs": rows, "recipes": recipes, "mixers": MIXERS, "letters": letters, "models": models}
        click.echo(json.dumps(document))
        return
    console = Plain()
    for arch in ARCHS:
        _show_arch(arch, [row for row in rows if row["arch"] == arch], console)
    console.print(Text.assemble(("recipes", "bold"), " for intra blocks (--recipe)"))
    for name, recipe in RECIPES.items():
        console.print(f"  {name:<17}{recipe.about}")
    _show_letters(console)
    _show_models(models, console)


def _show_letters(console: Console) -> None:
    """Print the letters of a pattern, and the mixers that ``--mixer`` knows by name."""
    console.print(Text.assemble("\n", ("layers", "bold"), " of a pattern (--pattern), and their names for --mixer"))
    lettered = [kind for kind in KINDS if kind.letter]
    wide = max(len(kind.about) for kind in lettered) + 2
    for kind in lettered:
        where = kind.mixer or ("only in published models" if kind.at is None else "")
        console.print(f"  {kind.letter:<4}{kind.about:<{wide}}{where}".rstrip())
    console.print(f"  {'(*&M)':<7}two mixers side by side, fused: any two of {' '.join(BRANCHES)}")


def _show_arch(arch: str, rows: list[dict[str, Any]], console: Console) -> None:
    console.print(Text.assemble((arch, "bold"), f"  {ABOUT[arch]}"))
    grid = Table(box=None, padding=(0, 1), pad_edge=False)
    for heading in ("  scale", "model", "params"):
        grid.add_column(heading, no_wrap=True, justify="right" if heading == "params" else "left")
    grid.add_column("pattern", overflow="fold")
    for row in rows:
        grid.add_row(f"  {row['scale']}", row["label"], units.format_params(row["params"]), row["pattern"])
    console.print(grid)
    ratios_at = {row["scale"]: row["published_ratios"] for row in rows}
    listed = "; ".join(f"{scale} {', '.join(ratios)}" for scale, ratios in ratios_at.items() if ratios)
    if listed:
        console.print(f"  ratios the paper lists: {listed}")
    console.print()


def _show_models(models: list[dict[str, Any]], console: Console) -> None:
    console.print(Text.assemble("\n", ("models", "bold"), " that hybridbench cost knows by name (--model)"))
    grid = Table(box=None, padding=(0, 1), pad_edge=False)
    for heading in ("  name", "params", "active"):
        grid.add_column(heading, no_wrap=True, justify="left" if heading == "  name" else "right")
    grid.add_column("inferred, not published", overflow="fold")
    for row in models:
        sizes = (units.format_params(row["params"]), units.format_params(row["params_active"]))
        grid.add_row(f"  {row['name']}", sizes[0], "" if sizes[0] == sizes[1] else sizes[1], row["inferred"])
    console.print(grid)


def _preset_rows() -> list[dict[str, Any]]:
    """One row per published model: its layers, its size, and the size its authors state."""
    rows = []
    for name, entry in PRESETS.items():
        spec = preset_spec(name)
        size = cost(spec, 1)
        rows.append(
            {
                "name": name,
                "repo": entry.repo,
                "params": size.params,
                "params_active": size.params_active,
                "published_total": entry.total,
                "published_active": entry.active,
                "inferred": entry.inferred,
                "label": spec.label,
                "pattern": spec.pattern,
            }
        )
    return rows


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--explain", is_flag=True, help="What each operation of a case runs with here, and why.")
@click.option("--workload", default=DECODE, show_default=True, help=f"Of the case: {', '.join(WORKLOADS)}.")
@model_options()
@execution_options
def backends(as_json: bool, explain: bool, workload: str, backend: tuple[str, ...], **options: Any) -> None:
    """List every kernel of every operation, whether it can run here, and if not, why.

    With --explain, give the options of the command that would measure a case. The list then shows, for each operation
    of the case, the kernel asked for, the kernel that runs here, and why each candidate before it cannot run.

    Without --explain, the kernels are tried with the shapes of the 1B transformer and Mamba-2, in bfloat16 on a GPU and
    in float32 on a CPU. Other shapes may be unsupported; such a case says so. The list also says up to which size a
    kernel is right on a GPU: B sequences of T tokens, in training, for the widest mixer at 1B that uses it. A larger
    batch runs in groups of sequences, or is unsupported.
    """
    if explain:
        _explain(Sweep(workload, backends=parse_backends(backend), **options), as_json)
        return
    refuse_idle("--explain", "workload", "backend", *options)
    from hybridbench.backends import every_backend

    device, rows = every_backend()
    if as_json:
        click.echo(json.dumps({"device": device, "backends": rows}))
        return
    console = Plain()
    for op in dict.fromkeys(row["op"] for row in rows):
        console.print(op, style="bold")
        for row in (row for row in rows if row["op"] == op):
            console.print(_backend_line(row))
            if row["reason"]:
                console.print(Padding(Text(str(row["reason"]), style="dim"), (0, 0, 0, 8)))
            for words in row["right_up_to"]:
                console.print(Padding(Text(words, style="dim"), (0, 0, 0, 8)))
    console.print(
        f"\nOn {device}, 'auto' takes the lowest rank that accepts the shapes and dtype of a case; every "
        "record says what ran. Ask for one with --backend OP=NAME."
    )


def _explain(sweep: Sweep, as_json: bool) -> None:
    """Print which kernel each operation of a sweep's cases runs with here, and why."""
    from hybridbench.backends import check_names, explain

    planned = cases(sweep, has_gpu=bool(visible_gpus()), spelled=as_typed)
    check_backends_used(sweep.backends, planned)
    check_names(planned)
    explained = [explain(case) for case in planned]
    if as_json:
        click.echo(json.dumps({"cases": explained}))
        return
    console = Plain(soft_wrap=True)
    for entry in explained:
        console.print(f"{entry['case']} on {entry['device']}", style="bold")
        if "unsupported" in entry and not entry["operations"]:
            console.print(f"  unsupported: {entry['unsupported']}")
        for row in entry["operations"]:
            _show_operation(row, console)
        missing = sum("unsupported" in row for row in entry["operations"])
        if missing:
            console.print(f"  {missing} of {len(entry['operations'])} operations cannot run here, so the case cannot.")


def _show_operation(row: dict[str, Any], console: Console) -> None:
    """One operation of a case, then the reasons below it."""
    where = f"{row['block'] or 'model'} x {row['uses']}"
    runs = "unsupported" if row["runs"] is None else f"runs {row['runs']}"
    console.print(f"  {row['op']:<21}{where:<18}asked {row['asked']}, {runs}")
    over = [f"not {one['candidate']}: {one['reason']}" for one in row["passed_over"]]
    refused = f"unsupported: {row['unsupported']}" if "unsupported" in row else None
    for words in filter(None, (row["why"], refused, *over)):
        console.print(Text(f"      {words}", style="dim"))


def _backend_line(row: dict[str, Any]) -> Text:
    """One line per backend: whether it runs here, its rank in the order of 'auto', its package."""
    place = f"auto {row['auto_rank']}" if row["auto_rank"] else ""
    package = " ".join(part for part in (row["package"], row["version"]) if part)
    verdict = Text("yes" if row["runs_here"] else "no ", style="green" if row["runs_here"] else "yellow")
    return Text("  ") + verdict + Text(f"  {row['backend']:<16}{place:<8}{package}")


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--ceilings", is_flag=True, help="Measure a large matrix product and memory bandwidth too.")
def doctor(as_json: bool, ceilings: bool) -> None:
    """Show this machine, its packages and GPU, and say how to install what is missing."""
    import torch

    from hybridbench.kernels.backend import on_hopper
    from hybridbench.machine import find_peak
    from hybridbench.measure.ceilings import SUSTAINED_S, measure_ceilings
    from hybridbench.measure.environment import fingerprint
    from hybridbench.measure.nvml import Gpu
    from hybridbench.plain import to_plain

    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    gpu = Gpu.open(device)
    environment = fingerprint(device, gpu)
    peak = find_peak(environment.device)
    state = gpu.state() if gpu else None
    dtypes = (torch.bfloat16, torch.float32) if device.type == "cuda" else (torch.float32,)
    rates = [found for dtype in dtypes if ceilings and (found := measure_ceilings(device, dtype))]
    advice = advise(environment, known=peak is not None, watched=gpu is not None, hopper=on_hopper())
    if as_json:
        document = {
            "environment": to_plain(environment),
            "peak": to_plain(peak) if peak else None,
            "gpu_state": to_plain(state) if state else None,
            "ceilings": to_plain(rates),
            "advice": advice,
        }
        click.echo(json.dumps(document))
        return
    console = Plain()
    lines = [
        ("hybridbench", __version__),
        ("device", f"{environment.device} ({environment.device_kind})"),
        ("device memory", units.format_bytes(environment.device_memory_bytes) if gpu else "the host's"),
        ("host", f"{environment.cpu}, {environment.cores} cores, {units.format_bytes(environment.memory_bytes)}"),
        ("python", f"{environment.python} on {platform.system()}"),
        ("driver, CUDA", f"{environment.driver or 'none'}, {environment.cuda or 'none'}"),
        ("peak bf16, dense", units.format_si(peak.bf16_dense_flops_per_s, "FLOP/s") if peak else "unknown"),
        ("peak bandwidth", units.format_si(peak.memory_bytes_per_s, "B/s") if peak else "unknown"),
        ("source of peaks", peak.source if peak else "no row for this device: utilisation will say unknown"),
    ]
    for rate in rates:
        lines.append((f"product {rate.dtype}", _product(rate, SUSTAINED_S)))
    for rate in rates[:1]:
        lines.append(("memory read", f"{units.format_si(rate.read_bytes_per_s, 'B/s')} measured"))
        lines.append(("memory copy", f"{units.format_si(rate.copy_bytes_per_s, 'B/s')} measured, read plus written"))
    lines += [(package, version) for package, version in environment.packages.items()]
    for name, text in lines:
        console.print(f"{name:<17} {text}", soft_wrap=True)
    for sentence in advice:
        console.print(f"- {sentence}", soft_wrap=True)


def _product(rate: Ceilings, sustained_s: float) -> str:
    """The measured rates of a large matrix product: a burst, and ``sustained_s`` seconds where that was measured."""
    burst = f"{units.format_si(rate.matmul_flops_per_s, 'FLOP/s')} measured"
    if rate.sustained_matmul_flops_per_s is None:
        return burst
    sustained = units.format_si(rate.sustained_matmul_flops_per_s, "FLOP/s")
    return f"{burst}, {sustained} sustained over {sustained_s:g} s"


def advise(environment: Environment, *, known: bool, watched: bool, hopper: bool) -> list[str]:
    """One sentence for each thing that is missing: what to install or add. Empty where nothing is missing.

    Args:
        known: whether the table of GPUs has the device's peak rates.
        watched: whether NVML answers.
        hopper: whether the GPU is a Hopper.
    """
    from hybridbench.operations.operation import INSTALL_CUDA, INSTALL_FLASH_ATTN_4

    advice, on_gpu = [], environment.device_kind == "cuda"
    if not on_gpu:
        advice.append("No CUDA device: measuring works at scale tiny on the CPU; cost works for every scale.")
    elif not known:
        name = environment.device
        advice.append(f"'{name}' has no row of peak rates in hybridbench/machine/peaks.py: add one with its source.")
    if on_gpu and not watched:
        advice.append("NVML does not answer: clocks, power and energy will be unknown; install nvidia-ml-py.")
    if on_gpu:
        extras = dict.fromkeys(("mamba-ssm", "causal-conv1d", "flash-attn", "liger-kernel", "fla-core"), INSTALL_CUDA)
        if hopper:
            extras["flash-attn-4"] = INSTALL_FLASH_ATTN_4
        for package, install in extras.items():
            if package not in environment.packages:
                advice.append(f"{package} is not installed: {install}")
    return advice
