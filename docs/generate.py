"""generate: the pages of docs that are made from the program: commands, metrics, and the tree of its design.

``make docs-pages`` writes them anew. A test fails while they differ from the program.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path

import click

from hybridbench.cli.help import EXAMPLES, GROUPS, group_of
from hybridbench.cli.main import COMMANDS, main
from hybridbench.metrics import METRICS

ROOT = Path(__file__).parents[1]
AGAIN = "<!-- Made from the program: change it there, then run `make docs-pages`. -->"
TREE = ("<!-- tree: made from the modules' first sentences by `make docs-pages` -->", "<!-- end of tree -->")


def commands() -> str:
    """Every command with its options in groups, as its help has them, and two examples."""
    parts = [
        f"# Commands\n\n{AGAIN}\n\n`hybridbench COMMAND -h` prints the same on a terminal. [Options](options.md) says "
        "what the values of those that several commands share mean.\n\n| command | |\n|---|---|\n"
        + "".join(f"| [`{name}`](#{name}) | {line} |\n" for name, (_, line) in COMMANDS.items())
    ]
    for name in COMMANDS:
        command = main.commands[name]
        ctx = click.Context(command, info_name=f"hybridbench {name}", max_content_width=110)
        parts.append(f"\n## {name}\n\n{_text(command.help or '')}\n\n`{_usage(command, ctx)}`\n")
        found: dict[str, list[str]] = {}
        order = [parameter for names in GROUPS.values() for parameter in names]
        options = [one for one in command.get_params(ctx) if isinstance(one, click.Option) and "--help" not in one.opts]
        for option in sorted(options, key=lambda one: order.index(one.name or "")):
            record = option.get_help_record(ctx)
            if record is not None:
                found.setdefault(group_of(option.name), []).append(f"| `{_cell(record[0])}` | {_cell(record[1])} |\n")
        for group in (group for group in GROUPS if group in found):
            parts.append(f"\n| {group} | |\n|---|---|\n{''.join(found[group])}")
        parts.append("\n```sh\n" + "".join(f"{line}\n" for line in EXAMPLES[name]) + "```\n")
    return "".join(parts)


def _text(text: str) -> str:
    """Help as Markdown: paragraphs of one line."""
    return "\n\n".join(" ".join(part.split()) for part in text.replace("\b", "").split("\n\n"))


def _usage(command: click.Command, ctx: click.Context) -> str:
    return " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def metrics() -> str:
    """Every metric with its unit, its direction and its formula."""
    rows = [
        f"| `{one.name}` | {one.title} | {one.unit or 'a count'} | {one.better or ''} | {_cell(one.formula)} |\n"
        for one in METRICS.values()
    ]
    return (
        f"# Metrics\n\n{AGAIN}\n\nEvery number that a report, `hybridbench show --metric`, `hybridbench export` and "
        "`hybridbench.load` give is one of these functions of a record. Values are SI, and the end of a name is the "
        "unit; `frac` is a fraction. An unknown value is missing, never zero. A case that failed, or whose results "
        "were wrong, has no measured value. [How things are measured](measuring.md) and [how they are counted]"
        "(counting.md) say more.\n\n| name | title | unit | better | formula |\n|---|---|---|---|---|\n" + "".join(rows)
    )


def design() -> str:
    """The page on the program's design, with the tree as it is."""
    page = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    before, _, rest = page.partition(TREE[0])
    return f"{before}{TREE[0]}\n```\n{tree()}```\n{TREE[1]}{rest.partition(TREE[1])[2]}"


def tree() -> str:
    """Every package and module with what it owns: the beginning of its first sentence."""
    lines: list[str] = []

    def add(folder: Path, depth: int) -> None:
        lines.append(_line(f"{folder.name}/", folder / "__init__.py", depth))
        for file in sorted(folder.glob("*.py")):
            if file.name != "__init__.py":
                lines.append(_line(file.name, file, depth + 1))
        for inner in sorted(path for path in folder.iterdir() if (path / "__init__.py").is_file()):
            add(inner, depth + 1)

    add(ROOT / "hybridbench", 0)
    return "".join(lines)


def _line(name: str, file: Path, depth: int) -> str:
    return f"{'  ' * depth}{name}".ljust(24) + f"  {owns(file)}\n"


def owns(file: Path) -> str:
    """What a module owns: its first sentence, without its name, up to what explains it."""
    sentence = first_sentence(file).partition(": ")[2].replace("``", "")
    return re.split(r"[:;.](?:\s|$)", sentence, maxsplit=1)[0]


def first_sentence(file: Path) -> str:
    """The first paragraph of a module's docstring on one line."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


PAGES: dict[str, Callable[[], str]] = {
    "docs/commands.md": commands,
    "docs/metrics.md": metrics,
    "docs/design.md": design,
}
"""Each page that is made, and what makes it."""

if __name__ == "__main__":
    for name, made in PAGES.items():
        (ROOT / name).write_text(made(), encoding="utf-8")
        sys.stdout.write(f"{name}\n")
