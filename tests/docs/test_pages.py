"""What pages say is so: commands are accepted, outputs are what is printed, and what is named or linked is there."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
from types import ModuleType

import click
import pytest
from click.testing import CliRunner
from pages import ALL, README, ROOT, TEXTS, anchors, commands, fenced, prose

from hybridbench.cli.main import main
from hybridbench.cluster.slurm import Partition
from hybridbench.gate import proof

MEASURING = ("train-throughput", "prefill", "decode", "generate", "run")
PREDICTING = ("cost", "cache", "fit", "price", "crossover")
LINES = list(dict.fromkeys(line for text in TEXTS.values() for line in commands(text)))


def test_the_readme_is_read_to_its_end() -> None:
    assert len(README.encode()) <= 10_240
    assert len([line for line in commands(README) if line.startswith("hybridbench ")]) <= 8


def command_named(name: str) -> click.Command:
    command = main.commands.get(name)
    assert command is not None, f"there is no command {name}"
    return command


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("hybridbench ")])
@pytest.mark.sampled
def test_commands_are_accepted(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options parse; costs are computed, and cases planned as on a machine with a GPU."""
    name, *args = shlex.split(line)[1:]
    context = command_named(name).make_context(name, list(args))
    if name not in (*PREDICTING, *MEASURING) or {"--verify", "--measure"} & set(args):
        return
    args += ["--dry-run"] if name in MEASURING and "--dry-run" not in args else []
    if context.params.get("out") is not None:
        place = args.index("-o")
        del args[place : place + 2]
        args = [arg for arg in args if arg != "--resume"]
    for pair in context.params.get("backend", ()):
        known_backend(pair)
        place = args.index(pair)
        del args[place - 1 : place + 1]
    monkeypatch.chdir(ROOT)
    for module in ("measuring", "sharing"):
        monkeypatch.setattr(f"hybridbench.cli.{module}.visible_gpus", lambda: ["0"])
    cluster = Partition("gpu*", nodes=8, cpus=512, gpus=64, time="0")
    monkeypatch.setattr("hybridbench.cluster.slurm.partition_for", lambda _asked: cluster)
    done = CliRunner().invoke(main, [name, *args])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip()


def known_backend(pair: str) -> None:
    from hybridbench.kernels import backends
    from hybridbench.operations import OPERATIONS

    op, _, name = pair.partition("=")
    assert op in OPERATIONS
    assert name in backends(op) or re.fullmatch(r"[\w.]+:\w+", name), f"{op} has no backend {name}"


def test_every_command_and_target_is_shown() -> None:
    shown = {line.split()[1] for line in LINES if line.startswith("hybridbench ")}
    assert set(main.commands) == shown
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    wanted = set(re.findall(r"`make ([a-z][a-z-]+)`", ALL)) | {
        line.split()[1] for line in LINES if line.startswith("make ")
    }
    assert {"quickstart", "test", "docs", "docs-pages"} <= wanted <= targets


def test_named_options_exist() -> None:
    known = {opt for command in main.commands.values() for param in command.params for opt in param.opts}
    known |= set(re.findall(r'"(--[a-z-]+)"', inspect.getsource(proof.main)))
    known |= {"--gpu-benchmark-medians", "--hybridbench-records"}  # of the plugin for pytest
    of_others = {"--local-dir", "--grep", "--help", "--benchmark-only"}
    for name, text in TEXTS.items():
        named = set(re.findall(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*(?![\w-])", prose(text) + "\n".join(commands(text))))
        assert {one for one in named - known - of_others if not one.startswith("--benchmark")} == set(), name


@pytest.mark.parametrize("block", fenced("console"), ids=lambda block: block.splitlines()[0])
def test_shown_output_is_what_the_command_prints(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Line for line; where a line of three dots stands, some are left out."""
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.chdir(ROOT)
    first, *shown = block.splitlines()
    done = CliRunner().invoke(main, shlex.split(first.removeprefix("$ "))[1:])
    printed = [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
    parts = "\n".join(["", *(line for line in shown if line)]).split("\n...")
    if len(parts) == 1:
        assert printed == parts[0].splitlines()[1:]
    rest = "\n".join(["", *printed])
    for part in filter(None, parts):
        assert part in rest
        rest = rest.partition(part)[2]


def test_named_files_and_what_is_in_them_exist() -> None:
    made = re.compile(r"results/local|[*<>]")
    for name, text in TEXTS.items():
        named = set(re.findall(r"`((?:hybridbench|tests|suites|results)/[^`\s]*)`", text))
        assert [one for one in named if not made.search(one) and not (ROOT / one).exists()] == [], name
    placed = re.findall(r"((?:`\w+` and )?`\w+`) in `(hybridbench/[^`]+\.py)`", ALL)
    assert len(placed) > 6
    for words, file in placed:
        source = (ROOT / file).read_text(encoding="utf-8")
        for word in re.findall(r"`(\w+)`", words):
            assert re.search(rf"^(def )?{word}\b", source, re.MULTILINE), f"{file} has no {word} at its top level"


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name: str) -> None:
    folder = (ROOT / name).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(TEXTS[name])):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (folder / path).resolve() if path else ROOT / name
        assert file.exists(), f"{name} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{name} links to {target}: no such heading"


def test_every_page_is_reached_from_the_readme() -> None:
    reached, left = set(), ["README.md"]
    while left:
        name = left.pop()
        if name in reached or name not in TEXTS:
            continue
        reached.add(name)
        folder = (ROOT / name).parent
        targets = (target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]))
        left += [
            str((folder / target).resolve().relative_to(ROOT)) for target in targets if target and "://" not in target
        ]
    assert reached == set(TEXTS)


def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES = generate().PAGES


@pytest.mark.parametrize("name", PAGES)
def test_pages_made_from_the_program_are_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == PAGES[name](), f"{name}: write it anew with `make docs-pages`"
