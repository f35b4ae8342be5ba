"""proof: how often the gate alarms and catches on a real machine, from pairs of the same code, some with planted work.

``run`` measures pairs as a check does, both sides being this code, and appends each to a file, so that pairs of many
runs pool (``pool``). What the first pair checked and chose is kept beside the file, for later runs of the same code.
In planted cells the change has a known share more work: more rows of an operation that works row by row, a spin
after a graphed step, or matrix products after a training step. ``judge`` counts verdicts (``pooled``).

    python -m hybridbench.gate.proof run --out pool.ndjson --budget 1500
    python -m hybridbench.gate.proof judge pool.ndjson
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hybridbench.arguments import Parser, above_zero, positive
from hybridbench.errors import BadInput, HybridbenchError
from hybridbench.gate.alone import check_alone
from hybridbench.gate.blocks import BLOCK_NS, BLOCKS
from hybridbench.gate.cells import CheckCell, asked
from hybridbench.gate.choices import read_choices, write_choices
from hybridbench.gate.paired import HEAD, CellInPair, Pairs
from hybridbench.gate.pairs import TimedPair
from hybridbench.gate.pool import hash_of, pooled, resumed, run_of
from hybridbench.gate.pooled import SUITE, planted_name, share_of, table, tallied
from hybridbench.gate.sequential import Outcome
from hybridbench.gate.sides import PACKAGE, here
from hybridbench.gate.spent import OTHER, in_words
from hybridbench.gate.timed import started
from hybridbench.machine import DEVICES, check_gpu, device_of, visible_gpus
from hybridbench.plain import from_plain
from hybridbench.processes import terminable
from hybridbench.record import Environment
from hybridbench.units import NS_PER_S

BY_ROWS = ("swiglu", "add_rms_norm", "gate", "head_norms", "rotary", "norm_gate")
"""Operations whose work is proportional to ``length``."""
ROWS = {"kernel": (0.02,), "cpu": (0.10,)}
"""Shares of rows that are planted in those operations, by kind of cell."""
MORE_ROWS = {("kernel", "swiglu"): (0.01, 0.10)}
"""The same by kind of cell and operation, in addition."""
AFTER = {"step": (0.01,), "training": (0.03, 0.10)}
"""Shares of time that are planted after steps, by kind of cell."""
CPU_CELLS = {
    "swiglu": ("width=256,length=400", "width=384,length=500", "width=512,length=200", "width=256,length=200"),
    "add_rms_norm": ("width=256,length=800", "width=512,length=400", "width=128,length=1000", "width=256,length=400"),
    "attention": ("head_dim=64,n_heads=4,n_kv_heads=4,length=256",),
    "ssd": ("head_dim=32,n_heads=4,d_state=16,length=256",),
}
"""Problems of the CPU's own cells: calls below 10 ms with tensors of at most 2 MB. Of larger ones times differed by 5
to 75% from pair to pair on two busy cores."""


def planned(
    words: Sequence[str],
    device: str,
    only: str | None = None,
    shares: Collection[float] | None = None,
    unplanted: bool = True,
) -> list[CheckCell]:
    """The cells, those with planted work beside those that they come from.

    Args:
        words: suites or operations; none for ``CPU_CELLS`` on a CPU.
        only: a text that names of cells must hold.
        shares: of work that may be planted; None for all.
        unplanted: whether cells are timed without planted work too.

    Raises:
        BadInput: an unknown name, a file that is no suite, or no cell is left.
    """
    on_gpu = device == "cuda"
    if words:
        ask = {} if any(word.endswith(".toml") for word in words) else {"device": device, "direction": "forward"}
        cells = asked(words, has_gpu=on_gpu, kernels={}, base_kernels={}, **ask)
    elif on_gpu:
        raise BadInput("name suites to measure on a GPU, such as suites/gate-kernels.toml and suites/gate-steps.toml.")
    else:
        cells = [
            cell
            for op, problems in CPU_CELLS.items()
            for problem in problems
            for cell in asked(
                [op], has_gpu=False, kernels={}, base_kernels={}, problem=problem, direction="forward", device="cpu"
            )
        ]
    cells = [one for cell in cells for one in (_with_work(cell), *_with_rows(cell)) if only is None or only in one.name]
    if not cells:
        raise BadInput(f"--only '{only}' leaves no cell.")
    if shares is not None:
        cells = [_with_shares(one, shares) for one in cells if share_of(one.name) in {0.0, *shares}]
    if unplanted:
        return cells
    cells = [replace(one, unplanted=False) for one in cells if one.planted]
    if not cells:
        raise BadInput("--only-planted leaves no cell: only steps can be timed with planted work alone.")
    return cells


def _with_work(cell: CheckCell) -> CheckCell:
    return replace(cell, planted=AFTER.get(cell.kind, ()))


def _with_shares(cell: CheckCell, shares: Collection[float]) -> CheckCell:
    return replace(cell, planted=tuple(share for share in cell.planted if share in shares))


def _with_rows(cell: CheckCell) -> list[CheckCell]:
    """The same cell with more rows in the change, where its work goes by rows."""
    if cell.what != "kernel" or cell.head["op"] not in BY_ROWS:
        return []
    found = []
    length = cell.head["problem"]["length"]
    for share in (*ROWS.get(cell.kind, ()), *MORE_ROWS.get((cell.kind, cell.head["op"]), ())):
        if length * share < 1:
            continue
        more = {**cell.head["problem"], "length": round(length * (1 + share))}
        found.append(replace(cell, name=planted_name(cell.name, share), head={**cell.head, "problem": more}))
    return found


def measured(
    cells: Sequence[CheckCell], pairs: Pairs, *, budget_s: float, first: int = 0, now: Any = time.monotonic
) -> Iterator[dict[str, Any]]:
    """Pair after pair, as JSON values, until another would not fit into the budget.

    Each pair begins with another cell, so that what disturbs its beginning does not meet one cell always.

    Args:
        first: the number of the first pair: how many there are from earlier runs.
    """
    began, longest_s, number = now(), 0.0, first
    until_s = began + budget_s
    kinds = {cell.name: cell.kind for cell in cells}
    while number == first or now() + longest_s < until_s:
        pair_began, known = now(), set(pairs.choices)
        at = number % len(cells)
        found = pairs.measure(
            [*cells[at:], *cells[:at]], number, until_s=until_s, seen=lambda name: _say(f"  {name}", end="\r")
        )
        spent_s = now() - pair_began
        if known >= set(pairs.choices):  # else it compiles and checks, which a later one does not
            longest_s = max(longest_s, spent_s)
        timed = {
            name: {"kind": kinds[cell], **asdict(pair)}
            for cell, one in found.items()
            for name, pair in _times(cell, one).items()
        }
        failed = {name: one.head.reason or one.base.reason for name, one in found.items() if not _times(name, one)}
        phases = dict(pairs.time.phases)
        phases[OTHER] = max(0.0, spent_s - sum(phases.values()))
        spent = {"phases": phases, "prepare": pairs.time.within}
        yield {"pair": number, "seconds": spent_s, "spent": spent, "cells": timed, "failed": failed}
        number += 1


def _times(name: str, found: CellInPair) -> dict[str, TimedPair]:
    """The times of a cell without and with planted work, by name; none where a side failed."""
    bare = {} if found.pair is None else {name: found.pair}
    return bare | {planted_name(name, share): pair for share, pair in found.planted.items()}


def _run(options: argparse.Namespace) -> int:
    gpus = visible_gpus()
    device = device_of(options.device, bool(gpus))
    check_gpu(device, gpus)
    gpu = (options.gpu or gpus[0]) if device == "cuda" else None
    cells = planned(options.words, device, options.only, options.planted, unplanted=not options.only_planted)
    if options.list:
        sys.stdout.writelines(f"{cell.kind}  {cell.name}  {' '.join(map(str, cell.planted))}\n" for cell in cells)
        return 0
    if gpu is not None and not options.shared:
        check_alone(gpu)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    block_ns = round(options.block_ms * 1e6)
    settings = {"block_ns": block_ns, "rest": BLOCKS["training"].rest}
    how = {"block_ns": block_ns, "ahead": options.ahead, "identify": False, "alike": True}
    kept = options.out.with_suffix(".choices.json")
    with terminable():
        try:
            with started(here("base"), here(), device, gpu, **how) as pairs:
                environment = from_plain(Environment, pairs.open()[HEAD]["environment"])
                run = run_of(environment, hash_of(PACKAGE), settings, cells)
                first = resumed(options.out, run)
                pairs.choices = read_choices(kept, run)
                _say(_announced(cells, pairs, first, options))
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(run) + "\n")
                    for line in measured(cells, pairs, budget_s=options.budget, first=first):
                        file.write(json.dumps(line) + "\n")
                        file.flush()
                        write_choices(pairs.choices, run, kept)
                        _say(said_of(line))
        except KeyboardInterrupt:
            _say(f"stopped; what was measured is in {options.out}")
            return 130
    return 0


def _announced(cells: Sequence[CheckCell], pairs: Pairs, first: int, options: argparse.Namespace) -> str:
    count = sum(cell.unplanted + len(cell.planted) for cell in cells)
    already = f"{first} pairs are in {options.out}; " if first else ""
    new = sum(cell.name not in pairs.choices for cell in cells)
    checks = f"the first pair checks and compiles {new} of them" if new else "all were checked by an earlier run"
    return f"{already}{count} cells, {checks}; the last pair ends within {options.budget:.0f} s"


def said_of(line: Mapping[str, Any]) -> str:
    """A pair in a line, with where its time went, and a line for each cell that failed."""
    seconds, spent = line["seconds"], line["spent"]
    said = f"pair {line['pair'] + 1}: {len(line['cells'])} cells in {seconds:.1f} s: "
    failed = "".join(f"\n  {name}: {why}" for name, why in line["failed"].items())
    return said + in_words(spent["phases"], spent["prepare"]) + failed


def _say(text: str, end: str = "\n") -> None:
    if end == "\n" or sys.stderr.isatty():
        sys.stderr.write(f"{text:<100}{end}" if sys.stderr.isatty() else text + end)
        sys.stderr.flush()


def _judge(options: argparse.Namespace) -> int:
    across = [] if options.across is None else options.across.split(",")
    pool = pooled(options.files, across)
    pool = {
        (kind, name): pairs
        for (kind, name), pairs in pool.items()
        if not options.without or options.without not in name
    }
    if not pool:
        raise BadInput(f"--without '{options.without}' leaves no cell.")
    found = tallied(pool, options.suite, options.calibrate_on)
    if options.json:
        rows = [asdict(one) | {"counts": _named(one.counts), "verdicts": one.verdicts} for one in found]
        sys.stdout.write(json.dumps({"suite": options.suite, "tallies": rows}) + "\n")
    else:
        sys.stdout.write(table(found))
    return 0


def _named(counts: Mapping[Outcome, int]) -> dict[str, int]:
    return {outcome.name.lower(): count for outcome, count in counts.items()}


def _shares(text: str) -> tuple[float, ...]:
    shares = tuple(float(one) / 100 for one in text.split(","))
    known = {0.0, *(share for some in (*ROWS.values(), *MORE_ROWS.values(), *AFTER.values()) for share in some)}
    if not known.issuperset(shares):
        raise argparse.ArgumentTypeError(f"{text}: shares are {', '.join(f'{share:.0%}' for share in sorted(known))}")
    return shares


def main(words: Sequence[str] | None = None) -> int:
    """Run or judge; the exit code."""
    parser = Parser(prog="python -m hybridbench.gate.proof", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="measure pairs and append them to a file")
    run.add_argument("words", nargs="*", metavar="SUITE.toml | OP", help="what is timed  [on a CPU: small cells]")
    run.add_argument("--out", type=Path, default=Path("results/local/proof.ndjson"), help="the file  [%(default)s]")
    run.add_argument("--budget", type=above_zero, default=600.0, help="seconds of wall time  [%(default)s]")
    run.add_argument("--device", choices=DEVICES)
    run.add_argument("--gpu", help="a CUDA_VISIBLE_DEVICES value; one process for each card")
    run.add_argument("--shared", action="store_true", help="do not refuse a GPU that others use")
    run.add_argument("--only", help="cells whose name holds this")
    run.add_argument(
        "--planted",
        type=_shares,
        metavar="PERCENT,...",
        help="shares of work that are planted, such as 3; 0 for none  [all]",
    )
    run.add_argument("--only-planted", action="store_true", help="time steps with planted work alone, in less time")
    run.add_argument("--block-ms", type=above_zero, default=BLOCK_NS / NS_PER_S * 1e3, help="of samples  [%(default)s]")
    run.add_argument(
        "--no-ahead",
        dest="ahead",
        action="store_false",
        help="start a pair's processes when the one before has ended  [while it prepares its cells]",
    )
    run.add_argument("--list", action="store_true", help="list the cells and stop")
    run.set_defaults(do=_run)
    judge = commands.add_parser("judge", help="judge the pairs of files")
    judge.add_argument("files", nargs="+", type=Path)
    judge.add_argument("--suite", type=positive, default=SUITE, help="cells that bounds are split over  [%(default)s]")
    judge.add_argument(
        "--calibrate-on",
        type=positive,
        default=0,
        metavar="N",
        help="first pairs of each cell that calibrate it  [none]",
    )
    judge.add_argument("--across", metavar="FIELD,...", help="fields in which runs may differ, such as source  [none]")
    judge.add_argument("--without", metavar="TEXT", help="leave out cells whose name holds this  [none]")
    judge.add_argument("--json", action="store_true", help="one JSON document")
    judge.set_defaults(do=_judge)
    options = parser.parse_args(words)
    try:
        code: int = options.do(options)
    except HybridbenchError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return exc.exit_code
    return code


if __name__ == "__main__":
    sys.exit(main())
