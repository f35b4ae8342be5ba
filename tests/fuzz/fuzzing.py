"""Damaged command lines, configurations, suites and records against the command line, in this process.

    python tests/fuzz/fuzzing.py records --count 5000 --seed 0

prints one JSON object: how many were tried, refused and accepted, the slowest and the most memory, and what failed. A
failure is a traceback, more than 20 s of a core, a wait of two minutes, or memory beyond 2 GiB. The same seed makes the
same inputs. Seconds are of the process's own time: on a core that ten programs share, half a minute passes meanwhile.

Charts are drawn by a library that can end its process. In their place their definitions are kept, and every so many are
drawn in a child process.
"""

from __future__ import annotations

import argparse
import atexit
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import click
from click.testing import CliRunner
from mutations import NUMBERS, TEXTS, damaged_bytes, damaged_tree, text_of

from hybridbench.arch.kinds import BLOCK_LETTERS
from hybridbench.cli.main import main

ROOT = Path(__file__).parents[2]
COPIES = Path(tempfile.mkdtemp(prefix="hybridbench-fuzz-"))
"""Where results are that commands are given: a report is written beside its records."""
atexit.register(shutil.rmtree, COPIES, ignore_errors=True)
RESULTS = Path(shutil.copytree(ROOT / "results/nvidia-h200", COPIES / "nvidia-h200"))
MARKED = Path(shutil.copy(ROOT / "tests/cases/records/bom.jsonl", COPIES))
LONGEST_S, LONGEST_WAIT_S, MOST_BYTES = 20, 120, 2 << 30
MADE_EVERY, DRAWN_EVERY = 7, 100
"""Of so many charts one is defined, and of so many reports with one, it is drawn in a child process."""


@dataclass
class Outcome:
    """What became of the inputs. ``slowest_s`` and ``peak_bytes`` are of one input and of the whole process."""

    kind: str
    seed: int
    tried: int = 0
    refused: int = 0
    accepted: int = 0
    other: int = 0
    drawn: int = 0
    slowest_s: float = 0.0
    slowest: str = ""
    peak_bytes: int = 0
    failures: list[str] = field(default_factory=list)


class TookTooLong(BaseException):
    """An input took more than ``LONGEST_S``, or waited; no ``except Exception`` may hide it."""


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise TookTooLong


CORPUS = "corpus"
"""The folder of a corpus, beside which command lines are run."""
MODEL_WORDS = ("transformer", "mamba", "inter", "intra", "swa", "mamba,inter", "all")
VALUES: dict[str, tuple[str, ...]] = {
    "arch": MODEL_WORDS,
    "scale": ("tiny", "100m", "1b", "tiny,1b"),
    "ctx": ("1k", "4k..16k", "1", "4k,8k", "1..100+7", "1024g", "512g..1024g", "1..200+1", "1..1999+1", "1..99999+1"),
    "batch": ("1", "4", "1..64", "1m", "1024g"),
    "ratio": ("1:5", "1:1", "0:1", "1:0", "7:1"),
    "positions": ("4,8", "1", "0", "99"),
    "pattern": ("M-", "M-*-", "(*&M)-", "M-M-M-*-", "MMMM", *BLOCK_LETTERS),
    "mixer": ("mamba1", "kda", "gated-delta", "rwkv7", "lightning", "mamba3"),
    "recipe": ("paper", "hymba", "concat"),
    "gpu": ("h200", "all", "h100,b200", "rtx-4090"),
    "workload": ("train", "decode", "prefill", "generate"),
    "dtype": ("bfloat16", "float32", "float64"),
    "state_dtype": ("float32",),
    "device": ("cpu",),
    "mode": ("eager", "compile", "graph", "published"),
    "models": ("jamba-mini", "mamba-130m", "bamba-9b,zamba2-7b"),
    "match": ("params", "cache", "train-flops"),
    "to": ("transformer", "mamba", "inter/1:3"),
    "by": ("blocks", "width", "depth"),
    "metric": ("decode-floor", "flops", "cache", "step", "tokens-per-s", "energy", "peak-memory"),
    "convention": ("exact", "paper", "hardware"),
    "split": ("1152:1152", "1:1", "0:0"),
    "cache_layout": ("transformers", "vllm-v1", "mamba_ssm"),
    "backend": ("attention=sdpa", "ssd=reference"),
    "first": MODEL_WORDS,
    "second": ("mamba", "inter/1:3", "transformer"),
    "results": tuple(map(str, (*sorted(RESULTS.iterdir()), MARKED))),
    "ops": ("attention", "ssd", "swiglu", "rwkv7", str(ROOT / "suites/kernels.toml"), str(ROOT / "suites/smoke.toml")),
    "across": ("backend", "machine", "architecture", "mode,dtype", "version"),
    "fail_above": ("5%", "0", "100%", "0.05"),
    "quality": (str(ROOT / "hybridbench/pareto/paper.csv"),),
    "score": ("dclm_nll", "pg19_nll", "accuracy"),
    "matched": ("flops", "tokens"),
    "direction": ("forward", "backward", "forward,backward"),
    "problem": ("head_dim=64,n_heads=32,n_kv_heads=8", "d_model=2048,d_ff=8192", "head_dim=0"),
    "kernel": ("math:sqrt", "attention=math:sqrt", "no.module:function"),
    "base_kernel": ("attention=math:sqrt",),
    "base": ("main", "HEAD"),
    "over": ("reference", "sdpa", "fla"),
    "parts": ("formulas",),
    "baseline": (str(ROOT / "results/baselines/exact.json"),),
    "fail_on": ("incorrect", "regression,inconclusive", "none"),
    "paths": (str(RESULTS), str(RESULTS / "efficiency"), str(MARKED)),
    "where": ("arch=inter", "ctx=4k..32k", "workload=decode", "status=ok", "batch=1,4", "arch=", "=", "ctx=x"),
    "action": ("show", "update"),
    "data": (CORPUS,),
    "seeds": ("1", "3"),
    "tokens": ("1m", "100k", "64"),
    "sweep_lr": ("0.5,1,2", "1"),
}
COMMANDS = (
    *("cost", "cache", "fit", "price", "crossover", "train-throughput", "prefill", "decode", "generate", "report"),
    *("export", "compare", "pareto", "kernels", "check", "ls", "show", "baseline", "learn"),
)
WITH = {"check": "--exact"}
"""An option without which a command would time something."""
RUNS = ("verify", "measure", "only_test", "calibrate", "help", "version")
"""Options that run a model or a kernel, or that do nothing else."""


def typed(parameter: click.Parameter, rng: random.Random) -> str:
    """A value for an option: most often one that could be meant. A process is given no NUL and no half of a pair."""
    known = VALUES.get(parameter.name or "")
    if known and rng.random() < 0.75:
        return rng.choice(known)
    texts = (text.replace("\0", "").replace("\ud800", "\udcff") for text in TEXTS)
    return rng.choice(
        (*texts, *map(repr, (n for n in NUMBERS if n != 10**400)), "9" * 5000, "1:5", "4k..1k", "a=b", "-")
    )


def command_line(rng: random.Random) -> list[str]:
    """Options of one command that runs nothing."""
    name = rng.choice(COMMANDS)
    command = main.commands[name]
    args = [name]
    if any("--dry-run" in parameter.opts for parameter in command.params):
        args.append("--dry-run")
    if name in WITH:
        args.append(WITH[name])
    options = [one for one in command.params if isinstance(one, click.Option) and one.name not in (*RUNS, "dry_run")]
    for option in rng.sample(options, min(len(options), rng.choice((0, 1, 2, 3, 4, 6)))):
        args += [rng.choice(option.opts)] + ([] if option.is_flag else [typed(option, rng)])
    for argument in command.params:
        if isinstance(argument, click.Argument) and rng.random() < 0.9:
            most = 1 if argument.nargs == 1 else 3
            args += [typed(argument, rng) for _ in range(rng.randint(1, most))]
    return args


def _configs() -> list[Any]:
    folder = ROOT / "tests" / "cases" / "configs"
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(json.loads(path.read_text(encoding="utf-8-sig")))
        except ValueError:
            continue
    return [body for body in found if isinstance(body, dict)]


def _lines() -> list[Any]:
    """Records of several workloads, one of each of its kind."""
    kinds: dict[tuple[str, str, str], Any] = {}
    for path in [ROOT / "tests/cases/records/bom.jsonl", *sorted((ROOT / "results").rglob("records-*.jsonl"))]:
        for line in path.read_text(encoding="utf-8-sig").splitlines():
            body = json.loads(line)
            case = body["case"]
            kinds.setdefault((case["workload"]["kind"], case["model"]["arch"], body["status"]), body)
    return list(kinds.values())


def fuzzed(kind: str, rng: random.Random, folder: Path) -> Iterator[list[str]]:
    """Command lines without end; the file that one names is written before."""
    configs, lines = _configs(), _lines()
    suites = [path.read_bytes() for path in sorted((ROOT / "suites").glob("*.toml"))]
    while True:
        if kind == "commands":
            yield command_line(rng)
        elif kind == "configs" and rng.random() < 0.8:
            file = folder / "config.json"
            tree = damaged_tree(json.loads(json.dumps(rng.choice(configs))), rng)
            file.write_bytes(damaged_bytes(text_of(tree, rng), rng))
            yield [rng.choice(("cost", "cache", "fit", "price")), "--config", str(file), "--ctx", "4k"]
        elif kind == "configs":
            file = folder / "suite.toml"
            content = rng.choice(suites)
            at = rng.choice([place for place, byte in enumerate(content) if byte == ord("=")])
            new = json.dumps(rng.choice((*TEXTS[:-1], *NUMBERS[:17]))).encode()
            content = rng.choice((content, content[: at + 1] + b" " + new + content[content.find(b"\n", at) :]))
            file.write_bytes(damaged_bytes(content, rng))
            yield ["run", "--dry-run", str(file)]
        else:
            file = folder / "records.jsonl"
            chosen = [json.loads(json.dumps(rng.choice(lines))) for _ in range(rng.choice((1, 1, 2, 3)))]
            chosen[0] = damaged_tree(chosen[0], rng)
            file.write_bytes(damaged_bytes(b"\n".join(text_of(one, rng).replace(b"\n", b"") for one in chosen), rng))
            read = str(file)
            yield from rng.choices(
                (
                    ["report", read, "-o", str(folder / "report")],
                    ["price", "--workload", "decode", "--gpu", "all", "--efficiency", read],
                    ["compare", read, "--across", rng.choice(VALUES["across"])],
                    ["compare", read, str(ROOT / "tests/cases/records/bom.jsonl")],
                    ["pareto", read],
                    ["export", read, "-o", str(folder / rng.choice(("all.csv", "all.parquet")))],
                ),
                (10, 2, 1, 1, 1, 2),
            )


Kept = list[dict[str, Any]]


def keep_charts(charts: Kept) -> None:
    """Keep the definitions of charts in place of drawing them, and make one of ``MADE_EVERY``: that takes longest."""
    from hybridbench.report.render import charts as drawing
    from hybridbench.report.render import folder

    count, made = itertools.count(), folder.draw

    def some(plot: Any, **_how: Any) -> dict[str, Any]:
        return made(plot) if next(count) % MADE_EVERY == 0 else {}

    def kept(definition: dict[str, Any], stem: Path) -> tuple[Path, Path]:
        json.dumps(definition, allow_nan=False)
        if definition:
            charts.append(definition)
        return stem.with_suffix(".png"), stem.with_suffix(".svg")

    folder.draw = some
    folder.save = drawing.save = kept  # other renderers look it up when they draw


def draw(charts: Kept, folder: Path) -> str | None:
    """Draw charts in a child process; why that failed, or None."""
    file = folder / "charts.json"
    file.write_text(json.dumps(charts), encoding="utf-8")
    program = (
        "import json, pathlib, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)\n"
        "from hybridbench.report.render.charts import save\n"
        "for one in json.loads(pathlib.Path(sys.argv[1]).read_text()): save(one, pathlib.Path(sys.argv[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, timeout=120)
    return f"charts: exit code {done.returncode}: {done.stderr[-2000:]}" if done.returncode else None


def try_one(args: list[str], outcome: Outcome) -> None:
    """Run one command line, and note what became of it."""
    signal.signal(signal.SIGALRM, _stop)
    signal.signal(signal.SIGPROF, _stop)
    signal.alarm(LONGEST_WAIT_S)
    signal.setitimer(signal.ITIMER_PROF, LONGEST_S)
    began = time.process_time()
    try:
        result = CliRunner().invoke(main, args)
        code, failed = result.exit_code, result.exception
        where = "".join(traceback.format_exception(failed)) if failed else ""
    except TookTooLong:
        said = f"more than {LONGEST_S} s of a core, or {LONGEST_WAIT_S} s in all"
        code, failed, where = -1, TookTooLong(), f"{said}:\n{traceback.format_exc()}"
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    outcome.tried += 1
    took_s = time.process_time() - began
    if took_s > outcome.slowest_s:
        outcome.slowest_s, outcome.slowest = took_s, " ".join(args)[:300]
    if failed is not None and not isinstance(failed, SystemExit):
        outcome.failures.append(f"{[arg[:200] for arg in args]}\n{where[-3000:]}")
    elif code == 2:
        outcome.refused += 1
    elif code == 0:
        outcome.accepted += 1
    else:
        outcome.other += 1


def fuzz(kind: str, seed: int, until: Callable[[Outcome], bool], keep: Path | None = None) -> Outcome:
    """Try inputs of a kind until told to stop. Files of failing inputs are copied to ``keep``."""
    outcome, charts = Outcome(kind, seed), Kept()
    keep_charts(charts)
    reports = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        if kind == "commands":
            CliRunner().invoke(main, ["corpus", "build", "--from", str(ROOT / "README.md"), "-o", CORPUS])
        for args in fuzzed(kind, random.Random(seed), folder):
            charts.clear()
            before = len(outcome.failures)
            try_one(args, outcome)
            if charts:
                reports += 1
                if reports % DRAWN_EVERY == 1:
                    outcome.drawn += len(charts)
                    outcome.failures += filter(None, [draw(charts, folder)])
            if keep and len(outcome.failures) > before:
                for file in map(Path, args[1:]):
                    if file.suffix in (".json", ".jsonl", ".toml") and file.is_file():
                        (keep / f"{before}{file.suffix}").write_bytes(file.read_bytes())
            if until(outcome):
                break
        os.chdir(ROOT)
    outcome.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if outcome.peak_bytes > MOST_BYTES:
        outcome.failures.append(f"{outcome.peak_bytes:,} bytes of memory")
    return outcome


def program() -> int:
    """Fuzz as the command line says; exit code 1 for a failure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("commands", "configs", "records"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--fewest", type=int, default=1, help="Inputs to try even where they take longer.")
    parser.add_argument("--keep", type=Path)
    told = parser.parse_args()
    # An address space beyond the limit on memory: libraries reserve more than they use.
    resource.setrlimit(resource.RLIMIT_AS, (3 * MOST_BYTES, resource.RLIM_INFINITY))
    ends = time.monotonic() + told.seconds if told.seconds else float("inf")
    most = told.count or float("inf")

    def until(seen: Outcome) -> bool:
        return seen.tried >= most or (seen.tried >= told.fewest and time.monotonic() >= ends)

    outcome = fuzz(told.kind, told.seed, until, told.keep)
    failures = outcome.failures
    sys.stdout.write(json.dumps({**asdict(outcome), "failures": failures[:20], "failed": len(failures)}) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(program())
