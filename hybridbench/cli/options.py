"""options: the options that several commands share, spelled once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from click.core import ParameterSource

from hybridbench import units
from hybridbench.arch.blocks.parallel import FUSION_NORMS, FUSION_OPS, FUSION_OUTS, FUSION_SCALES, FUSION_VALUES
from hybridbench.arch.families import MAMBA2, RECIPES
from hybridbench.arch.kinds import MIXERS
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.scales import SCALES
from hybridbench.arch.stored import RUN_KV, StorageOptions
from hybridbench.arch.weights import RUN_SCHEMES, SCHEMES
from hybridbench.cli.typed import listed
from hybridbench.errors import BadInput
from hybridbench.machine import PEAKS
from hybridbench.predict.group import GpuGroup, groups_of
from hybridbench.predict.match import BUDGETS, SIDES, TOLERANCE, matched, named_spec, names_scale
from hybridbench.suite.case import CHECKPOINTS
from hybridbench.suite.models import ALL_ARCHS
from hybridbench.suite.workloads import DECODE, one_pass

Command = TypeVar("Command", bound=Callable[..., Any])

RESULTS = Path("results/local")
"""Where a command without --out puts a folder of its own."""

RANGE_HELP = "4k, 4k,16k, 4k..128k (doubling), 4k..32k+4k or 1k..1m*4; 4k is 4096"


def _stack(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """One decorator made of several; ``--help`` shows their options in the order written."""

    def apply(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


def _packed(into: str, make: Callable[..., object], *names: str) -> Callable[[Command], Command]:
    """A decorator that hands a command one parameter in place of several: ``make`` of their values in order."""

    def apply(command: Command) -> Command:
        @wraps(command)
        def run(**given: Any) -> Any:
            made = make(*(given.pop(name) for name in names))
            return command(**given, **{into: made})

        return cast("Command", run)

    return apply


_RECIPES = ", ".join(RECIPES)
_model_options = _stack(
    listed("--scale", help=f"Scales, with commas: {', '.join(SCALES)}."),
    listed("--ctx", help=f"Context lengths: {RANGE_HELP}."),
    listed("--batch", help="Batch sizes, in the same range syntax."),
    listed("--ratio", help="Attention : SSM blocks (swa: global : window; intra: hybrid : SSM), with commas.  [1:5]"),
    listed("--positions", help="1-based places of attention or hybrid blocks, such as 4,8; instead of --ratio."),
    listed("--pattern", help="Layer strings instead of --arch, with commas, such as 'M-M-M-*-'."),
    listed("--mixer", default=MAMBA2, show_default=True, help=f"In Mamba-2's place, with commas: {', '.join(MIXERS)}."),
    listed("--recipe", default="paper", show_default=True, help=f"Fusion of intra blocks, with commas: {_RECIPES}."),
    click.option("--fusion-norm", help=f"Norm of each branch, instead of the recipe's: {', '.join(FUSION_NORMS)}."),
    click.option("--fusion-scale", help=f"Scale of each branch: {', '.join(FUSION_SCALES)}."),
    click.option("--fusion-op", help=f"How branches are joined: {', '.join(FUSION_OPS)}."),
    click.option("--fusion-value", help=f"Values of the two branches: {', '.join(FUSION_VALUES)}."),
    click.option("--fusion-out", help=f"Output projections: {', '.join(FUSION_OUTS)}."),
    click.option("--split", help="Query/key width : Mamba width of an intra block, such as 1152:1152."),
    click.option("--moe", is_flag=True, help="A mixture of experts in place of every MLP."),
    click.option("--window", type=int, help="Keys a window layer sees.  [512]"),
    click.option("--sinks", type=int, help="First tokens a window layer always sees.  [64]"),
)


GIVEN_PATH = click.Path(path_type=Path)
"""A path as typed: whether it exists is for its reader to say."""

out_options = _stack(
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else."),
    click.option("-o", "--out", type=GIVEN_PATH, help="Folder for what is written."),
)


def plot_option(text: str) -> Callable[[Command], Command]:
    """``--plot``, and what it draws."""
    return click.option("--plot", is_flag=True, help=text)


def check_plot(plot: bool, as_json: bool) -> None:
    """Check that a plot is not asked for where only one document is printed.

    Raises:
        BadInput: both are asked for.
    """
    if plot and as_json:
        raise BadInput("--plot and --json: a plot is for people, and JSON is printed alone; leave one of them out.")


def model_options(arch: str | None = ALL_ARCHS) -> Callable[[Command], Command]:
    """The options that choose models, contexts and batches; ``arch`` is the default of ``--arch``."""
    shown = arch is not None
    families = listed("--arch", default=arch, show_default=shown, help="Families, with commas between them.")
    return _stack(families, _model_options)


execution_options = _stack(
    click.option("--device", help="cpu or cuda.  [cuda where there is a GPU]"),
    click.option("--dtype", help="Dtype of weights, activations and cache.  [bfloat16 on a GPU, float32 on a CPU]"),
    click.option("--state-dtype", help="Dtype of the SSM state.  [as --dtype]"),
    click.option("--mode", help="eager, compile (torch.compile), graph (CUDA graph), published.  [graph for decode]"),
    click.option(
        "--streams",
        type=int,
        default=1,
        show_default=True,
        help="CUDA streams for a parallel block's branches: 1 or 2.",
    ),
    click.option("--backend", "backend", multiple=True, metavar="OP=NAME", help="Kernel for an operation; repeatable."),
    click.option("--seed", type=int, default=0, show_default=True, help="Random seed of weights and inputs."),
)


def checkpoint_option() -> click.Option:
    """``--checkpoint``, for the commands that run a training step."""
    help_text = f"Activations a training step keeps: {', '.join(CHECKPOINTS)}."
    return click.Option(["--checkpoint"], default="none", show_default=True, help=help_text)


run_options = _stack(
    execution_options,
    click.option("--max-time", "max_time_s", type=float, help="Seconds of samples per case.  [5]"),
    click.option(
        "--min-samples",
        type=int,
        help="Samples per case, even past --max-time.  [5, fewer at --max-time]",
    ),
    click.option("--limit", "limit_s", type=float, help="Seconds a case may take in all before it is stopped.  [600]"),
    click.option("--resume", is_flag=True, help="Skip cases that -o already holds a record of."),
    click.option("--dry-run", is_flag=True, help="List the cases and stop."),
)


config_option = click.option(
    "--config", "configs", multiple=True, type=GIVEN_PATH, help="A Hugging Face config.json; repeatable."
)

given_options = _stack(
    listed(
        "--model",
        "models",
        help="Presets instead of --arch: published models that hybridbench archs lists, or all.",
    ),
    config_option,
)

stored_options = _stack(
    click.option("--weight-dtype", help=f"Store weights of products as {' or '.join(RUN_SCHEMES)}.  [as --dtype]"),
    click.option("--kv-dtype", help=f"Store keys and values as {' or '.join(RUN_KV)}.  [as --dtype]"),
)
"""Of commands that run a decode step."""

dtype_options = _stack(
    click.option("--dtype", help="Dtype of weights, activations and caches.  [a config's own, else bfloat16]"),
    click.option("--state-dtype", help="Dtype of the SSM state.  [a config's own, else as --dtype]"),
    click.option(
        "--weight-dtype",
        help=f"Store weights as {', '.join(SCHEMES)}; a plain dtype for none.  [a config's own, else --dtype]",
    ),
    click.option(
        "--kv-dtype", help="Dtype of keys and values: fp8, int8 or a plain one.  [a config's own, else --dtype]"
    ),
    _packed("asked", StorageOptions, "dtype", "state_dtype", "kv_dtype", "weight_dtype"),
)
"""Of commands that predict, which get them as ``asked``."""


@dataclass(frozen=True)
class MatchOptions:
    """What ``match_options`` ask for, as typed; ``tolerance`` is in percent."""

    budget: str | None
    to: str | None
    by: str
    tolerance: float


match_options = _stack(
    click.option("--match", help=f"Bring every model to --to's budget: {', '.join(BUDGETS)}."),
    click.option("--to", help="The model to match, such as transformer, inter/1:3 or transformer/350m."),
    click.option("--by", default=SIDES[0], show_default=True, help=f"What --match may change: {' or '.join(SIDES)}."),
    click.option(
        "--tolerance", type=float, default=100 * TOLERANCE, show_default=True, help="Percent a match may be off."
    ),
    _packed("match", MatchOptions, "match", "to", "by", "tolerance"),
)
"""Of commands that predict, which get them as ``match``."""


tp_option = listed("--tp", help="GPUs that share a model by tensor parallelism, with commas; figures are per GPU.  [1]")


gpus_option = listed("--gpus", help="GPUs in all, with commas: for train, FSDP2 over --gpus / --tp.  [--tp]")


def given_groups(gpus: str | None, tp: str | None, workload: str | None = None) -> tuple[GpuGroup | None, ...]:
    """The groups of GPUs of every ``--gpus`` and ``--tp``; None alone where neither was given.

    Raises:
        BadInput: numbers that do not divide, or several groups for a workload that does not train.
    """
    tps = given_tps(tp)
    return groups_of(None if gpus is None else units.parse_range(gpus, "--gpus"), tps, workload)


def given_tps(tp: str | None) -> tuple[int, ...] | None:
    """The numbers of GPUs of ``--tp``; None where it was not given.

    Raises:
        BadInput: a number below 1, or no number.
    """
    return None if tp is None else units.parse_range(tp, "--tp")


def refuse_idle(needed: str, *names: str) -> None:
    """Check that no option was typed that does nothing without another one.

    Args:
        needed: the other option, which was not given.
        names: the parameters of the running command that need it.

    Raises:
        BadInput: one of ``names`` was given.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        if parameter.name in names and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
            option = max(parameter.opts, key=len)
            raise BadInput(f"{option} does nothing without {needed}: add that, or leave {option} out.")


def matching(
    specs: list[ModelSpec],
    match: MatchOptions,
    scale: str | None,
    contexts: Sequence[int],
    batches: Sequence[int],
    asked: StorageOptions,
) -> tuple[list[ModelSpec], list[str]]:
    """The models, matched to a budget if ``match_options`` ask for it, and one sentence per matched model.

    Args:
        scale: scale of the reference model, unless its name includes one.
        asked: the dtypes that bytes are counted in.

    Raises:
        BadInput: only one of --match and --to, several contexts or batches to match at, or a budget out of reach.
    """
    budget, to = match.budget, match.to
    if budget is None and to is None:
        refuse_idle("--match", "by", "tolerance")
        return specs, []
    if budget is None or to is None:
        raise BadInput("--match and --to go together: write --match params --to transformer.")
    if budget in ("cache", "train-flops", "decode-bytes") and len(contexts) > 1:
        raise BadInput(f"--match {budget} depends on the context, and {len(contexts)} are given: give one --ctx.")
    if budget == "decode-bytes" and len(batches) > 1:
        raise BadInput(f"--match decode-bytes depends on the batch, and {len(batches)} are given: give one --batch.")
    if scale is not None and "," in scale and not names_scale(to):
        raise BadInput(f"--to {to} at several scales ({scale}): name its own, such as {to}/{scale.split(',')[0]}.")
    found = matched(
        specs,
        named_spec(to, "1b" if scale is None else scale),
        budget,
        match.by,
        context=contexts[0],
        batch=batches[0],
        stored=lambda spec: asked.dtypes(spec.stored).storage,
        tolerance=match.tolerance / 100,
    )
    return [one.spec for one in found], [one.sentence for one in found]


def as_typed(field: str) -> str:
    """The option that gives a field of a sweep.

    >>> as_typed("max_time_s")
    '--max-time'
    """
    return f"--{field.removesuffix('_s').replace('_', '-')}"


def parse_backends(pairs: tuple[str, ...]) -> dict[str, str]:
    """``OP=NAME`` pairs as a dict.

    Raises:
        BadInput: a pair without an equals sign, or an operation named twice.
    """
    backends: dict[str, str] = {}
    for pair in pairs:
        op, equals, name = pair.partition("=")
        if not (op and equals and name):
            raise BadInput(f"--backend '{pair}' is not OP=NAME: write attention=flash-attn; see hybridbench backends.")
        if op in backends:
            raise BadInput(f"--backend names {op} twice ('{backends[op]}' and '{name}'): give it once.")
        backends[op] = name
    return backends


GPU_HELP = f"GPUs, with commas, or all: {', '.join(peak.short for peak in PEAKS)}."
workload_option = click.option("--workload", default=DECODE, show_default=True, help=f"{', '.join(one_pass())}.")
