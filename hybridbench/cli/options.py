"""options: the options that several commands share, spelled once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hybridbench.arch.families import RECIPES, SCALES
from hybridbench.arch.parallel import NORMS, OPS, OUTS, VALUES
from hybridbench.arch.parallel import SCALES as FUSION_SCALES
from hybridbench.errors import BadInput
from hybridbench.suite import ALL_ARCHS

Command = TypeVar("Command", bound=Callable[..., Any])

RANGE_HELP = "4k, 4k,16k, 4k..128k (doubling), 4k..32k+4k or 1k..1m*4; 4k is 4096"


def _stack(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """One decorator from several, shown by ``--help`` in the order written."""

    def apply(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


_model_options = _stack(
    click.option("--scale", help=f"{', '.join(SCALES)}; lists too."),
    click.option("--ctx", help=f"Context lengths: {RANGE_HELP}."),
    click.option("--batch", help="Batch sizes, in the same range syntax."),
    click.option("--ratio", help="Attention : SSM blocks; global : window in swa, hybrid : Mamba in intra.  [1:5]"),
    click.option("--positions", help="1-based places of attention or hybrid blocks, such as 4,8; instead of --ratio."),
    click.option("--pattern", help="A layer string instead of --arch, such as 'M-M-M-*-'."),
    click.option("--recipe", default="paper", show_default=True, help=f"Fusion of intra blocks: {', '.join(RECIPES)}."),
    click.option("--fusion-norm", help=f"Replace one axis of the recipe: {', '.join(NORMS)}."),
    click.option("--fusion-scale", help=f"{', '.join(FUSION_SCALES)}."),
    click.option("--fusion-op", help=f"{', '.join(OPS)}."),
    click.option("--fusion-value", help=f"{', '.join(VALUES)}."),
    click.option("--fusion-out", help=f"Output projections: {', '.join(OUTS)}."),
    click.option("--split", help="Query/key width : Mamba width of an intra block, such as 1152:1152."),
    click.option("--moe", is_flag=True, help="A mixture of experts in place of every MLP."),
    click.option("--window", type=int, help="Keys a window layer sees.  [512]"),
    click.option("--sinks", type=int, help="First tokens a window layer always sees.  [64]"),
)

out_options = _stack(
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else."),
    click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder for what is written."),
)


def model_options(arch: str | None = ALL_ARCHS) -> Callable[[Command], Command]:
    """The options that say which models, at which contexts and batches; ``arch`` is the default of ``--arch``."""
    shown = arch is not None
    families: Any = click.option("--arch", default=arch, show_default=shown, help="Families, with commas between them.")
    return _stack(families, _model_options)


execution_options = _stack(
    click.option("--device", help="cpu or cuda.  [cuda where there is a GPU]"),
    click.option("--dtype", help="Of weights, activations and cache.  [bfloat16 on a GPU, float32 on a CPU]"),
    click.option("--state-dtype", help="Of the SSM state.  [as --dtype]"),
    click.option("--mode", help="eager, compile (torch.compile) or graph (CUDA graph).  [graph for decode on a GPU]"),
    click.option("--backend", "backend", multiple=True, metavar="OP=NAME", help="Kernel for an operation; repeatable."),
    click.option("--seed", type=int, default=0, show_default=True, help="Of weights and inputs."),
)

run_options = _stack(
    execution_options,
    click.option("--max-time", "max_time_s", type=float, help="Seconds of samples per case.  [5]"),
    click.option("--min-samples", type=int, help="Samples per case, however long.  [5, or what --max-time allows]"),
    click.option("--limit", "limit_s", type=float, help="Seconds a case may take in all before it is stopped.  [600]"),
    click.option("--resume", is_flag=True, help="Skip cases that -o already holds a record of."),
    click.option("--dry-run", is_flag=True, help="List the cases and stop."),
)


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
