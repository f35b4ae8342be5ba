"""What the README says is so: its tree, commands, tables, example, outputs and links are those of the program."""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import asdict
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hybridbench.arch.block import Convention
from hybridbench.arch.blocks.parallel import FUSION_NORMS, FUSION_OPS, FUSION_OUTS, FUSION_SCALES, FUSION_VALUES
from hybridbench.arch.families import ARCHS, RECIPES, Options, build_spec
from hybridbench.arch.imports.huggingface import MODEL_TYPES
from hybridbench.arch.kinds import BLOCK_LETTERS, MIXERS, SHAPELESS
from hybridbench.arch.model import params
from hybridbench.arch.scales import SCALES
from hybridbench.cli.main import main
from hybridbench.errors import BadInput, HybridbenchError, NotComparable, NothingCompared
from hybridbench.record import Status
from hybridbench.suite.case import Sampling
from hybridbench.suite.sweep import ENERGY_WINDOW_S

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MEASURING = ("train-throughput", "prefill", "decode", "generate", "run")
PREDICTING = ("cost", "cache", "fit", "price", "crossover")


def fenced(language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def section(heading: str) -> str:
    """The text below a heading, up to the next one of any level outside code."""
    _, found, rest = README.partition(f"\n{heading}\n")
    assert found, f"no heading {heading!r}"
    return re.split(r"^#{2,} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def table(first_heading: str) -> list[list[str]]:
    """The rows of the one table whose first column is headed so; code marks removed."""
    found = re.findall(rf"^\| {first_heading} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", README, re.MULTILINE)
    assert len(found) == 1, f"{len(found)} tables headed {first_heading!r}"
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in found[0].splitlines()]


def first_sentence(path: Path) -> str:
    """The first paragraph of a module's docstring on one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


# The tree.

MODULES = sorted(path for path in (ROOT / "hybridbench").rglob("*.py"))


def listed_tree() -> list[tuple[str, str]]:
    """Path from the root and sentence of every line of the README's tree, in order."""
    (block,) = re.findall(r"^```\n(.*?)^```$", section("### The tree"), re.MULTILINE | re.DOTALL)
    found: list[tuple[str, str]] = []
    above: list[str] = []
    for line in block.splitlines():
        match = re.fullmatch(r"((?:  )*)(\S+) {2,}(\S.*)", line)
        assert match is not None, f"the tree has a line without a name or a sentence: {line!r}"
        above[len(match[1]) // 2 :] = [match[2]]
        found.append(("".join(above), match[3]))
    return found


def test_tree_is_the_real_one() -> None:
    listed = [path for path, _ in listed_tree()]
    packages = [f"{path.parent.relative_to(ROOT)}/" for path in MODULES if path.name == "__init__.py"]
    modules = [str(path.relative_to(ROOT)) for path in MODULES if path.name != "__init__.py"]
    suites = [f"{path.relative_to(ROOT)}{'/' * path.is_dir()}" for path in (ROOT / "suites").iterdir()]
    tests = [f"tests/{path.parent.name}/" for path in (ROOT / "tests").glob("*/*.py")]
    pages = [str(path.relative_to(ROOT)) for path in (ROOT / "docs").iterdir()]
    real = {*packages, *modules, *pages, *suites, *tests, "docs/", "suites/", "results/", "tests/"}
    assert sorted(listed) == sorted(real)


def test_sentences_of_the_tree_are_the_modules_own() -> None:
    for name, sentence in listed_tree():
        if not name.startswith("hybridbench/"):
            continue
        path = ROOT / name / "__init__.py" if name.endswith("/") else ROOT / name
        own = first_sentence(path).partition(": ")[2].replace("``", "")
        assert re.match(re.escape(sentence) + r"(?!\w)", own), f"{name}: {sentence!r} does not begin {own!r}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_open_with_their_name_and_a_sentence(path: Path) -> None:
    name = path.parent.name if path.name == "__init__.py" else path.stem
    sentence = first_sentence(path)
    assert sentence.startswith(f"{name}: "), sentence
    assert sentence.endswith((".", ":")), sentence


def test_named_files_and_what_is_in_them_exist() -> None:
    names = set(re.findall(r"`((?:hybridbench|tests|suites)/[^`]*)`", README))
    assert len(names) > 10
    assert [name for name in names if not (ROOT / name).exists()] == []
    placed = re.findall(r"((?:`\w+` and )?`\w+`) in `(hybridbench/[^`]+\.py)`", README)
    assert len(placed) > 6
    for words, name in placed:
        source = (ROOT / name).read_text(encoding="utf-8")
        for word in re.findall(r"`(\w+)`", words):
            assert re.search(rf"^(def )?{word}\b", source, re.MULTILINE), f"{name} has no {word} at its top level"


def test_links_and_images_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", README) + re.findall(r'src="([^"]+)"', README)
    relative = [target for target in targets if not target.startswith(("https://", "http://", "#"))]
    assert relative
    assert [target for target in relative if not (ROOT / target.partition("#")[0]).exists()] == []


# Commands.

COMMANDS = [
    line.partition("   #")[0].removeprefix("$ ").strip()
    for block in (*fenced("sh"), *fenced("console"))
    for line in block.splitlines()
    if line.removeprefix("$ ").startswith(("hybridbench ", "make ", ".venv/"))
]


def test_every_command_has_a_task() -> None:
    assert [command for _, command in table("to find out")] == list(main.commands)


def command_named(name: str) -> click.Command:
    command = main.commands.get(name)
    assert command is not None, f"there is no command {name}"
    return command


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("hybridbench ")])
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
    monkeypatch.setattr("hybridbench.cli.measuring.visible_gpus", lambda: ["0"])
    done = CliRunner().invoke(main, [name, *args])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip()


def known_backend(pair: str) -> None:
    from hybridbench.kernels import backends
    from hybridbench.operations import OPERATIONS

    op, _, name = pair.partition("=")
    assert op in OPERATIONS
    assert name in backends(op) or re.fullmatch(r"[\w.]+:\w+", name), f"{op} has no backend {name}"


def test_every_command_is_shown() -> None:
    shown = {line.split()[1] for line in COMMANDS if line.startswith("hybridbench ")}
    assert set(main.commands) - {"quickstart"} == shown
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    wanted = set(re.findall(r"\bmake ([a-z][a-z-]+)`", README)) | {
        line.split()[1] for line in COMMANDS if line.startswith("make ")
    }
    assert {"quickstart", "test"} <= wanted <= set(targets)


def test_named_options_exist() -> None:
    known = {opt for command in main.commands.values() for param in command.params for opt in param.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*(?![\w-])", README))
    assert len(named) > 20
    assert named <= known


@pytest.mark.parametrize("block", fenced("console"), ids=lambda block: block.splitlines()[0])
def test_shown_output_is_what_the_command_prints(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    first, *shown = block.splitlines()
    done = CliRunner().invoke(main, shlex.split(first.removeprefix("$ "))[1:])
    printed = [line.rstrip() for line in done.stdout.splitlines()]
    assert [line for line in printed if line] == [line for line in shown if line]


def test_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (source,) = fenced("python")
    exec(compile(source, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("intra ")
    assert printed[-1] == f"(2, {SCALES['tiny'].vocab_size})"


# Tables.


def test_families_have_the_blocks_and_parameters_shown() -> None:
    rows = table("family")
    scales = re.findall(r"^\| family \| (.*) \|$", README, re.MULTILINE)[0].split(" | ")
    assert scales == [name for name in SCALES if name != "tiny"]
    assert [row[0] for row in rows] == list(ARCHS)
    for arch, *cells in rows:
        for scale, cell in zip(scales, cells, strict=True):
            spec = build_spec(arch, scale)
            blocks = spec.label.partition(" ")[2] or str(sum(layer not in "-E" for layer in spec.layers))
            assert cell == f"{blocks}, {params(spec) / 1e6:,.0f} M", (arch, scale)


def test_recipes_and_fusion_axes_are_those_of_the_program() -> None:
    shown = {name: axes for name, *axes in table("recipe")}
    assert shown == {name: list(asdict(recipe.fusion).values()) for name, recipe in RECIPES.items()}
    text = " ".join(README.split())
    axes = {"norm": FUSION_NORMS, "scale": FUSION_SCALES, "op": FUSION_OPS, "value": FUSION_VALUES, "out": FUSION_OUTS}
    for axis, values in axes.items():
        assert f"{axis}: {', '.join(f'`{value}`' for value in values)}." in text


def test_conventions_statuses_and_exit_codes_are_those_of_the_program() -> None:
    assert [row[0] for row in table("convention")] == [convention.value for convention in Convention]
    assert [row[0] for row in table("status")] == [status.value for status in Status]
    meaning = {int(code): text for code, text in table("exit code")}
    refused = [NotComparable.exit_code, NothingCompared.exit_code]
    assert list(meaning) == [0, HybridbenchError.exit_code, BadInput.exit_code, *refused, 130]


def test_options_list_the_names_of_the_program() -> None:
    values = dict(re.findall(r"^\| `(--[a-z]+)` \| (.*) \|$", README, re.MULTILINE))
    named = {"--arch": ARCHS, "--scale": SCALES, "--recipe": RECIPES, "--mixer": MIXERS, "--convention": Convention}
    for option, names in named.items():
        listed = re.findall(r"`([^`]+)`", values[option])
        assert listed == [str(name) for name in names], option


def test_mixers_have_the_blocks_and_parameters_shown() -> None:
    rows = table("mixer")
    assert [row[0] for row in rows] == list(MIXERS)
    for mixer, cell, *_ in rows:
        spec = build_spec("inter", "1b", Options(mixer=mixer))
        assert cell == f"{spec.label.split()[-1]}, {params(spec) / 1e6:,.0f} M", mixer


def test_model_types_and_letters_are_those_of_the_program() -> None:
    page = (ROOT / "docs/model-types.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == sorted(MODEL_TYPES)
    assert f"for {len(MODEL_TYPES)} model types" in README
    (row,) = re.findall(r"^\| `--pattern` \| (.*) \|$", README, re.MULTILINE)
    assert set(re.findall(r"`(\S)`", row)) == {*BLOCK_LETTERS, "+"} - {*SHAPELESS}


def test_bounds_and_limits_are_those_of_the_program() -> None:
    from hybridbench.kernels.verify import BOUNDS

    assert {row[0]: (float(row[1]), float(row[2])) for row in table("dtype")} == BOUNDS
    sampling, text = Sampling(), " ".join(README.split())
    assert f"no faster than the one before, or after {sampling.warmup_max_s:g} s" in text
    assert f"is within {sampling.target_rel_ci * 100:g}%, after {sampling.max_samples} samples" in text
    assert f"after {sampling.max_time_s:g} s of samples" in text
    assert f"at least {ENERGY_WINDOW_S:g} s, for the energy counter" in text
