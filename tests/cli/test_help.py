"""Every command's help has its options in groups and two examples that parse, and fits a terminal."""

from __future__ import annotations

import shlex

import click
import pytest
from click.testing import CliRunner

from hybridbench.cli.help import EXAMPLES, GROUPS
from hybridbench.cli.main import main


def shown(name: str) -> str:
    done = CliRunner(env={"COLUMNS": "80"}).invoke(main, [name, "--help"])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("name", list(main.commands))
def test_every_option_stands_in_one_group(name: str) -> None:
    grouped = [parameter for names in GROUPS.values() for parameter in names]
    assert len(set(grouped)) == len(grouped)
    options = [one for one in main.commands[name].params if isinstance(one, click.Option)]
    assert {option.name for option in options} <= set(grouped)
    text = shown(name)
    headings = [line.removesuffix(":") for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings[-1] == "Examples"
    assert headings[:-1] == [group for group in GROUPS if group in headings]
    for option in options:
        (group,) = [group for group, names in GROUPS.items() if option.name in names]
        part = text.partition(f"\n{group}:\n")[2].split("\n\n")[0]
        first_words = {line.split()[0].rstrip(",") for line in part.splitlines() if line.strip()}
        assert first_words & set(option.opts)
        assert max(option.opts, key=len) in part


@pytest.mark.parametrize("name", list(main.commands))
def test_every_command_has_two_examples_that_parse(name: str) -> None:
    text = shown(name)
    assert len(EXAMPLES[name]) == 2
    for line in EXAMPLES[name]:
        assert f"\n  {line}\n" in text
        program, command, *args = shlex.split(line)
        assert (program, command) == ("hybridbench", name)
        main.commands[name].make_context(name, args)
    assert max(map(len, text.splitlines())) <= 80


def test_every_parameter_of_a_group_is_an_option_of_some_command() -> None:
    there = {one.name for command in main.commands.values() for one in command.params} | {"help"}
    assert [name for names in GROUPS.values() for name in names if name not in there] == []
