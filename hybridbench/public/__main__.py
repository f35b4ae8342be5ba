"""__main__: steps of ours beside those of public libraries, as a table, and as JSON lines with every sample.

``decode`` times a decode step at a context, ``train`` a training step. The transformer is compared with transformers'
LlamaForCausalLM and mamba with mamba_ssm's MambaLMHeadModel.

    python -m hybridbench.public decode --arch transformer,mamba --scale 1b --ctx 4k --batch 1,4,16,64 -o FOLDER
    python -m hybridbench.public train --arch transformer,mamba --scale 1b --ctx 8k --batch 4 -o FOLDER
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from hybridbench.arguments import Parser, positive, seconds
from hybridbench.errors import BadInput, HybridbenchError
from hybridbench.machine import DEVICES, check_gpu, device_of, visible_gpus
from hybridbench.plain import to_plain
from hybridbench.public.row import PublicRow, table
from hybridbench.store import free_path, make_folder
from hybridbench.suite.case import Case
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.suite.workloads import DECODE, TRAIN

FAMILIES = ("transformer", "mamba")
"""Our families that a public library has too."""


def planned(workload: str, options: argparse.Namespace) -> list[Case]:
    """The cells that are asked for.

    Raises:
        BadInput: an unknown name, or a family that no public library has.
    """
    names = [part.strip().lower() for part in options.arch.split(",")]
    others = [name for name in names if name and name not in FAMILIES]  # an empty part is for the sweep to refuse
    if others:
        raise BadInput(f"arch {', '.join(others)}: compared are {' and '.join(FAMILIES)}.")
    gpus = visible_gpus()
    check_gpu(device_of(options.device, bool(gpus)), gpus)
    sweep = Sweep(
        workload,
        arch=options.arch,
        scale=options.scale,
        ctx=options.ctx,
        batch=options.batch,
        device=options.device,
        dtype=options.dtype,
        seed=options.seed,
    )
    return cases(sweep, has_gpu=bool(gpus), spelled=lambda name: f"--{name.replace('_', '-')}")


def _run(options: argparse.Namespace) -> int:
    found = planned(options.workload, options)
    folder = make_folder(options.out)
    file = free_path(folder, options.workload, ".ndjson")
    page = file.with_suffix(".md")
    from hybridbench.measure.environment import fingerprint  # torch, which a mistyped command does not wait for
    from hybridbench.measure.nvml import Gpu
    from hybridbench.public.cells import Venue, compare_cell
    from hybridbench.public.rounds import Rounds
    from hybridbench.session import device_for

    device = device_for(found[0].device)
    venue = Venue(device, Rounds(count=options.rounds, warmup_s=options.warmup))
    rows: list[PublicRow] = []
    try:
        opened = file.open("w", encoding="utf-8")
    except OSError as exc:
        raise BadInput(f"{file} cannot be written ({exc.strerror}): choose another folder with --out.") from exc
    with opened as out:
        about = {"kind": "environment", "environment": to_plain(fingerprint(device, Gpu.open(device)))}
        out.write(json.dumps(about) + "\n")
        out.flush()
        for case in found:
            for row in compare_cell(case, venue):
                rows.append(row)
                out.write(json.dumps(row.line()) + "\n")
                out.flush()
                page.write_text(table(rows), encoding="utf-8")
                sys.stderr.write(f"{case.label}: {row.library}, {row.way}: {row.reason or 'done'}\n")
    sys.stdout.write(table(rows))
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """Compare, and the exit code: 0 where all was tried, whatever came of it, 2 for bad input, 130 after Ctrl-C."""
    about = __doc__.split("\n")[0].removeprefix("__main__: ")
    parser = Parser(prog="python -m hybridbench.public", description=about[0].upper() + about[1:])
    commands = parser.add_subparsers(required=True)
    for workload, what, ctx, batch, rounds in (
        (DECODE, "decode steps at a context", "4k", "1,4,16,64", 20),
        (TRAIN, "training steps over sequences", "8k", "4", 6),
    ):
        command = commands.add_parser(workload, help=what)
        command.add_argument("--arch", default=",".join(FAMILIES), help="families  [%(default)s]")
        command.add_argument("--scale", help="such as 1b or 100m,1b  [1b; on a CPU tiny]")
        command.add_argument("--ctx", default=ctx, help="tokens, such as 4k or 4k,32k  [%(default)s]")
        command.add_argument("--batch", default=batch, help="sequences  [%(default)s]")
        command.add_argument("-o", "--out", type=Path, default=Path("results/local/public"), help="[%(default)s]")
        command.add_argument("--device", choices=DEVICES, help="[cuda where there is a GPU]")
        command.add_argument("--dtype", help="[bfloat16; on a CPU float32]")
        command.add_argument("--rounds", type=positive, default=rounds, help="blocks of each side  [%(default)s]")
        command.add_argument("--warmup", type=seconds, default=2.0, help="seconds, of both sides  [%(default)s]")
        command.add_argument("--seed", type=int, default=0, help="of weights and tokens  [%(default)s]")
        command.set_defaults(workload=workload)
    options = parser.parse_args(words)
    try:
        return _run(options)
    except HybridbenchError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return exc.exit_code
    except KeyboardInterrupt:
        sys.stderr.write(f"Stopped; the rows that were done are in {options.out}.\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
