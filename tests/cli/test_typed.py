"""What is typed twice adds up or is refused, what is empty is refused, and both hold for every option there is."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner

from hybridbench.cli.main import main
from hybridbench.cli.typed import Command

COMMANDS = list(main.commands.values())


def run(*args):
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, [str(arg) for arg in args])


def rows(*args):
    result = run(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["rows"]


def test_a_list_given_in_parts_is_the_list_given_at_once():
    for command, option, parts in (
        ("cost", "--arch", ("mamba", "inter")),
        ("cost", "--scale", ("1b", "350m")),
        ("cost", "--ctx", ("4k", "8k..16k")),
        ("cost", "--batch", ("1", "2")),
        ("cost", "--model", ("mamba-130m", "jamba-mini")),
        ("cost", "--pattern", ("M-*-", "M-M-*-")),
        ("price", "--gpu", ("h200", "b200")),
        ("cache", "--cache-layout", ("ours", "paper")),
    ):
        models = [] if option in ("--arch", "--model", "--pattern") else ["--arch", "mamba"]
        apart = [word for part in parts for word in (option, part)]
        found = rows(command, *models, *apart)
        assert found == rows(command, *models, option, ",".join(parts))
        assert len(found) > len(rows(command, *models, option, parts[0]))


def test_ratios_positions_and_mixers_add_up():
    assert {row["ratio"] for row in rows("cost", "--arch", "inter", "--ratio", "1:1", "--ratio", "1:5")} == {
        "1:1",
        "1:5",
    }
    (placed,) = rows("cost", "--arch", "inter", "--positions", "4", "--positions", "8")
    assert placed["pattern"] == rows("cost", "--arch", "inter", "--positions", "4,8")[0]["pattern"]
    assert len(rows("cost", "--arch", "inter", "--mixer", "kda", "--mixer", "mamba1")) == 2


def test_patterns_stand_in_one_table_and_each_is_the_one_typed_alone():
    both = rows("cost", "--pattern", "M-*-", "--pattern", "*-M-")
    assert both == rows("cost", "--pattern", "M-*-") + rows("cost", "--pattern", "*-M-")
    shown = run("cost", "--pattern", "M-*-", "--pattern", "*-M-").output
    assert shown.count("M-*-") == shown.count("*-M-") == 1


def test_every_command_reads_its_words_alike():
    assert all(isinstance(command, Command) for command in COMMANDS)


def one_value(command):
    """The options of a command that hold one value."""
    for option in command.params:
        if isinstance(option, click.Option) and not option.is_flag and not option.multiple:
            yield option.opts[-1]


def arguments(command, word):
    """A word for each argument that a command needs."""
    return [word for parameter in command.params if isinstance(parameter, click.Argument)]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_an_option_of_one_value_given_twice_is_refused(command):
    for option in one_value(command):
        result = run(command.name, *arguments(command, "x"), option, "1", option, "2")
        assert result.exit_code == 2
        assert f"{option} is given 2 times" in result.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_nothing_may_be_empty(command):
    for option in command.params:
        if isinstance(option, click.Option) and not option.is_flag:
            result = run(command.name, *arguments(command, "x"), option.opts[-1], "")
            assert result.exit_code == 2
            assert f"{option.opts[-1]} is empty" in result.stderr
    if arguments(command, ""):
        result = run(command.name, *arguments(command, ""))
        assert result.exit_code == 2
        assert "is empty" in result.stderr


def test_a_flag_given_twice_says_the_same_twice():
    assert run("cost", "--arch", "mamba", "--json", "--json").exit_code == 0


@pytest.mark.parametrize("line", ['ratio = ""', 'positions = ""', 'device = ""', 'dtype = ""', 'mode = ""', 'ctx = ""'])
def test_an_empty_text_in_a_suite_is_no_default(line, tmp_path):
    suite = tmp_path / "suite.toml"
    suite.write_text(f'[[sweep]]\nworkload = "decode"\narch = "inter"\n{line}\n')
    result = run("run", suite, "--dry-run")
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert "''" in result.stderr
