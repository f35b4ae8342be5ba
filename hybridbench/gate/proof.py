"""proof: how often the gate alarms and catches on a real machine, from pairs of the same code, some with planted work.

``run`` measures pairs as a check does, both sides being this code, and appends each to a file, so that pairs of many
runs pool. In planted cells the change has a known share more work: more rows of an operation that works row by row, or
a spin after a step. ``judge`` walks through the pairs of each cell, as many as the judge asks for to one verdict, then
on with the next pairs to the next verdict. The rule of "same code" is off, so that all are judged by their times.

    python -m hybridbench.gate.proof run --out pool.jsonl --budget 1500
    python -m hybridbench.gate.proof judge pool.jsonl
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hybridbench.errors import BadInput, HybridbenchError
from hybridbench.files import RECORDS_BYTES, Damaged, from_json, read_text
from hybridbench.gate.alone import check_alone
from hybridbench.gate.calibration import machine_of, robust_sd
from hybridbench.gate.cells import Asked, asked
from hybridbench.gate.judge import usable
from hybridbench.gate.kinds import KINDS, Kind
from hybridbench.gate.paired import BLOCK_NS, HEAD, Found, Pairs
from hybridbench.gate.pairs import Pair, PairedCell
from hybridbench.gate.sequential import Outcome, decide
from hybridbench.gate.sides import here
from hybridbench.gate.timed import started
from hybridbench.machine import visible_gpus
from hybridbench.plain import from_plain
from hybridbench.processes import terminable
from hybridbench.record import Environment
from hybridbench.units import NS_PER_S

SCHEMA = 1
SUITE = 15
"""Cells of the suite that bounds are split over; a file may hold more, with those that are planted."""
BY_ROWS = ("swiglu", "add_rms_norm", "gate", "head_norms", "rotary", "norm_gate")
"""Operations whose work is proportional to ``length``."""
ROWS = {"kernel": (0.02,), "cpu": (0.10,)}
"""Shares of rows that are planted in those operations, by kind of cell."""
MORE_ROWS = {("kernel", "swiglu"): (0.01, 0.10)}
"""The same by kind of cell and operation, in addition."""
SPINS = {"step": (0.01,), "training": (0.03, 0.10)}
"""Shares of time that are planted after steps, by kind of cell."""
CPU_CELLS = {
    "swiglu": ("width=256,length=400", "width=384,length=500", "width=512,length=200", "width=768,length=2000"),
    "add_rms_norm": ("width=256,length=800", "width=512,length=400", "width=128,length=3000", "width=768,length=2500"),
    "attention": ("head_dim=64,n_heads=4,n_kv_heads=4,length=256",),
    "ssd": ("head_dim=32,n_heads=4,d_state=16,length=256",),
}
"""Problems of the CPU's own cells: calls of 0.1 to 10 ms."""


# --- what is measured -------------------------------------------------------------------------------------------------


def planned(words: Sequence[str], device: str, only: str | None = None) -> list[Asked]:
    """The cells, those with planted work beside those that they come from.

    Args:
        words: suites or operations; none for ``CPU_CELLS`` on a CPU.
        only: a text that names of cells must hold.

    Raises:
        BadInput: an unknown name, a file that is no suite, or no cell with that text.
    """
    on_gpu = device == "cuda"
    if words:
        ask = {} if any(word.endswith(".toml") for word in words) else {"device": device, "direction": "forward"}
        cells = asked(words, has_gpu=on_gpu, kernels={}, base_kernels={}, **ask)
    elif on_gpu:
        raise BadInput("name suites to measure on a GPU, such as suites/gate-kernels.toml suites/gate-steps.toml.")
    else:
        cells = [
            cell
            for op, problems in CPU_CELLS.items()
            for problem in problems
            for cell in asked(
                [op], has_gpu=False, kernels={}, base_kernels={}, problem=problem, direction="forward", device="cpu"
            )
        ]
    cells = [one for cell in cells for one in (_spun(cell), *_with_rows(cell)) if only is None or only in one.name]
    if not cells:
        raise BadInput(f"--only '{only}' leaves no cell.")
    return cells


def _spun(cell: Asked) -> Asked:
    return replace(cell, planted=SPINS.get(cell.kind, ()))


def _with_rows(cell: Asked) -> list[Asked]:
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


def planted_name(name: str, share: float) -> str:
    """The name of a cell with planted work.

    >>> planted_name("decode", 0.01)
    'decode, planted 1%'
    """
    return f"{name}, planted {share:.0%}"


def share_of(name: str) -> float:
    """The planted share in a name; 0 without one."""
    _, found, share = name.rpartition(", planted ")
    return float(share.removesuffix("%")) / 100 if found else 0.0


def measured(
    cells: Sequence[Asked], pairs: Pairs, *, budget_s: float, now: Any = time.monotonic
) -> Iterator[dict[str, Any]]:
    """Pair after pair, as JSON values, until another would not fit into the budget.

    Each pair begins with another cell, so that what disturbs its beginning does not meet one cell always.
    """
    began, longest_s, number = now(), 0.0, 0
    until_s = began + budget_s
    known: dict[str, Any] = {}
    while number == 0 or now() + longest_s < until_s:
        pair_began = now()
        if not known:
            environment = from_plain(Environment, pairs.open()[HEAD]["environment"])
            known = {"machine": machine_of(environment), "commit": environment.git_commit}
        first = number % len(cells)
        found = pairs.measure(
            [*cells[first:], *cells[:first]], number, until_s=until_s, seen=lambda name: _say(f"  {name}", end="\r")
        )
        spent_s = now() - pair_began
        if number:
            longest_s = max(longest_s, spent_s)  # the first pair compiles and checks
        kinds = {cell.name: cell.kind for cell in cells}
        timed = {name: row for cell, one in found.items() for name, row in _rows(cell, one, kinds[cell]).items()}
        failed = {name: one.head.reason or one.base.reason for name, one in found.items() if one.pair is None}
        yield {"schema": SCHEMA, **known, "pair": number, "seconds": spent_s, "cells": timed, "failed": failed}
        number += 1


def _rows(name: str, found: Found, kind: str) -> dict[str, Any]:
    if found.pair is None:
        return {}
    every = {name: found.pair} | {planted_name(name, share): pair for share, pair in found.planted.items()}
    return {one: {"kind": kind, **asdict(pair)} for one, pair in every.items()}


def _run(options: argparse.Namespace) -> int:
    gpus = visible_gpus()
    device = options.device or ("cuda" if gpus else "cpu")
    if device == "cuda" and not gpus:
        raise BadInput("device cuda: this machine shows no NVIDIA GPU; use --device cpu.")
    gpu = (options.gpu or gpus[0]) if device == "cuda" else None
    cells = planned(options.words, device, options.only)
    if options.list:
        sys.stdout.writelines(f"{cell.kind}  {cell.name}  {' '.join(map(str, cell.planted))}\n" for cell in cells)
        return 0
    if gpu is not None and not options.shared:
        check_alone(gpu)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    settings = {"block_ns": round(options.block_ms * 1e6), "ahead": options.ahead}
    with options.out.open("a", encoding="utf-8") as file, terminable():
        try:
            with started(here("base"), here(), device, gpu, **settings) as pairs:
                for line in measured(cells, pairs, budget_s=options.budget):
                    file.write(json.dumps({**line, **settings}) + "\n")
                    file.flush()
                    said = f"pair {line['pair'] + 1}: {len(line['cells'])} cells in {line['seconds']:.1f} s"
                    _say(said + "".join(f"\n  {name}: {why}" for name, why in line["failed"].items()))
        except KeyboardInterrupt:
            _say(f"stopped; what was measured is in {options.out}")
            return 130
    return 0


def _say(text: str, end: str = "\n") -> None:
    if end == "\n" or sys.stderr.isatty():
        sys.stderr.write(f"{text:<100}{end}" if sys.stderr.isatty() else text + end)
        sys.stderr.flush()


# --- what is judged ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tally:
    """Verdicts of cells of one kind with one planted share.

    Args:
        counts: verdicts by outcome.
        cells: how many cells they are of.
        pairs: how many pairs those cells have.
        effect: median of the change's times over the base's, less 1.
        sd: median over cells of the robust standard deviation of log ratios.
    """

    kind: str
    share: float
    counts: Mapping[Outcome, int]
    cells: int
    pairs: int
    effect: float
    sd: float

    @property
    def verdicts(self) -> int:
        """How many there are."""
        return sum(self.counts.values())


def pooled(paths: Sequence[Path]) -> dict[tuple[str, str], list[Pair]]:
    """The pairs of each cell, by kind and name, in the order of the files.

    Raises:
        BadInput: no such file, another file, or pairs that were measured otherwise; names what differs.
    """
    found: dict[tuple[str, str], list[Pair]] = {}
    alike: dict[str, Any] = {}
    for path in paths:
        try:
            texts = read_text(path, RECORDS_BYTES).splitlines()
        except Damaged as exc:
            raise BadInput(f"{path} {exc}: give files that run has written.") from exc
        for number, text in enumerate(texts, 1):
            try:
                line = from_json(text)
                settings = {**line["machine"], "schema": line["schema"], "block_ns": line["block_ns"]}
                rows = [((row.pop("kind"), name), Pair(**row)) for name, row in line["cells"].items()]
            except (ValueError, KeyError, TypeError, AttributeError) as exc:
                raise BadInput(f"{path}, line {number} is no pair of a proof ({type(exc).__name__}: {exc}).") from exc
            alike = alike or settings
            if settings != alike:
                differing = ", ".join(name for name in settings if settings[name] != alike.get(name))
                raise BadInput(f"{path}, line {number} differs from the first pair in {differing}: pool alike pairs.")
            for key, pair in rows:
                found.setdefault(key, []).append(pair)
    if not found:
        raise BadInput("no pairs: give files that run has written.")
    return found


def verdicts(pairs: Sequence[Pair], kind: Kind, n_cells: int = SUITE) -> list[Outcome]:
    """The verdicts of disjoint runs of pairs, each as long as the judge asks for; an unfinished one is left out."""
    left = [pair.log_ratio for pair in usable(PairedCell("", "", pairs=tuple(pairs)), pairs)]
    found, at = list[Outcome](), 0
    while True:
        seen = np.full((1, kind.looks[-1]), np.nan)
        fresh = np.full((1, len(kind.looks), kind.confirm), np.nan)
        while True:
            said = decide(seen, fresh, kind, kind.sd, n_cells)
            outcome, look = Outcome(int(said.outcome[0])), int(said.look[0])
            if outcome is Outcome.NEEDS_PAIRS:
                have = int(np.isfinite(seen).sum())
                row, count = seen[0, have:], kind.looks[look] - have
            elif outcome is Outcome.NEEDS_FRESH:
                row, count = fresh[0, look], kind.confirm
            else:
                found.append(outcome)
                break
            if at + count > len(left):
                return found
            row[:count] = left[at : at + count]
            at += count


def tallied(pool: Mapping[tuple[str, str], Sequence[Pair]], n_cells: int = SUITE) -> list[Tally]:
    """The verdicts by kind and planted share."""
    groups: dict[tuple[str, float], list[Sequence[Pair]]] = {}
    for (kind, name), pairs in pool.items():
        if kind not in KINDS:
            raise BadInput(f"{name}: unknown kind of cell '{kind}': known are {', '.join(KINDS)}.")
        groups.setdefault((kind, share_of(name)), []).append(pairs)
    return [_tally(kind, share, cells, n_cells) for (kind, share), cells in sorted(groups.items())]


def _tally(kind: str, share: float, cells: Sequence[Sequence[Pair]], n_cells: int) -> Tally:
    every = [one for pairs in cells for one in verdicts(pairs, KINDS[kind], n_cells)]
    ratios = [np.array([pair.log_ratio for pair in pairs]) for pairs in cells]
    return Tally(
        kind,
        share,
        {outcome: every.count(outcome) for outcome in (Outcome.SLOWER, Outcome.PASS, Outcome.FASTER, Outcome.OPEN)},
        len(cells),
        sum(len(one) for one in ratios),
        float(np.expm1(np.median(np.concatenate(ratios)))),
        float(np.median([robust_sd(one) for one in ratios])),
    )


def table(found: Sequence[Tally]) -> str:
    """The tallies in Markdown."""
    lines = [
        "| kind | planted | cells, pairs | effect | sd of a pair | verdicts | regression | pass | improvement | "
        "inconclusive |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        counts = " | ".join(str(count) for count in one.counts.values())
        planted = f"{one.share:.0%}" if one.share else "none"
        lines.append(
            f"| {KINDS[one.kind].title} | {planted} | {one.cells}, {one.pairs} | {one.effect:+.2%} | {one.sd:.2%} | "
            f"{one.verdicts} | {counts} |"
        )
    return "\n".join(lines) + "\n"


def _judge(options: argparse.Namespace) -> int:
    found = tallied(pooled(options.files), options.suite)
    if options.json:
        rows = [asdict(one) | {"counts": _named(one.counts), "verdicts": one.verdicts} for one in found]
        sys.stdout.write(json.dumps({"suite": options.suite, "tallies": rows}) + "\n")
    else:
        sys.stdout.write(table(found))
    return 0


def _named(counts: Mapping[Outcome, int]) -> dict[str, int]:
    return {outcome.name.lower(): count for outcome, count in counts.items()}


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return int(text)


def main(words: Sequence[str] | None = None) -> int:
    """Run or judge; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m hybridbench.gate.proof", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="measure pairs and append them to a file")
    run.add_argument("words", nargs="*", metavar="SUITE.toml | OP", help="what is timed  [on a CPU: small cells]")
    run.add_argument("--out", type=Path, default=Path("results/local/proof.jsonl"), help="the file  [%(default)s]")
    run.add_argument("--budget", type=_above_zero, default=600.0, help="seconds of wall time  [%(default)s]")
    run.add_argument("--device", choices=("cpu", "cuda"))
    run.add_argument("--gpu", help="a CUDA_VISIBLE_DEVICES value; one process for each card")
    run.add_argument("--shared", action="store_true", help="do not refuse a GPU that others use")
    run.add_argument("--only", help="cells whose name holds this")
    run.add_argument(
        "--block-ms", type=_above_zero, default=BLOCK_NS / NS_PER_S * 1e3, help="of samples  [%(default)s]"
    )
    run.add_argument("--ahead", action="store_true", help="start the next pair's processes while one measures")
    run.add_argument("--list", action="store_true", help="list the cells and stop")
    run.set_defaults(do=_run)
    judge = commands.add_parser("judge", help="judge the pairs of files")
    judge.add_argument("files", nargs="+", type=Path)
    judge.add_argument("--suite", type=_count, default=SUITE, help="cells that bounds are split over  [%(default)s]")
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
