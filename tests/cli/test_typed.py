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


def one_sentence(*args):
    """What the command says of words that it cannot read: one line, and exit code 2."""
    result = run(*args)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(".")
    assert "Usage:" not in line
    return line


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_what_a_command_lacks_is_named_with_an_example(command):
    for parameter in command.params:
        if parameter.required:
            name = parameter.opts[-1] if isinstance(parameter, click.Option) else parameter.human_readable_name
            others = [word for one in command.params if one.required and one is not parameter for word in given(one)]
            said = one_sentence(command.name, *others)
            assert f"{command.name} lacks {name}" in said
            assert f"hybridbench {command.name} " in said


def given(parameter):
    """The words that give a parameter some value."""
    return [parameter.opts[0], "x"] if isinstance(parameter, click.Option) else ["x"]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_option_says_what_it_takes(command):
    for option in command.params:
        if not isinstance(option, click.Option):
            continue
        name = option.opts[-1]
        if option.is_flag:
            if name.startswith("--"):
                assert f"{name} takes no value" in one_sentence(command.name, f"{name}=3")
            continue
        assert f"{name} has no value" in one_sentence(command.name, name)
        if isinstance(option.type, click.types.IntParamType | click.types.FloatParamType):
            needed = [word for one in command.params if one.required for word in given(one)]
            said = one_sentence(command.name, *needed, name, "x")
            assert f"{name} 'x' is not a " in said


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_word_that_no_parameter_takes_is_shown(command):
    if any(parameter.nargs == -1 for parameter in command.params):
        return  # it takes any number of words
    needed = [word for one in command.params if one.required for word in given(one)]
    said = one_sentence(command.name, *needed, "one too", "many")
    assert f"{command.name} has no use for 'one too' and 'many'" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("reprot", "x"), "unknown command 'reprot': did you mean 'report'?"),
        (("--json", "cost"), "hybridbench has no --json before a command"),
        (("--version=3",), "--version takes no value"),
        (("trace", "--steps", "0"), "--steps '0' is not a whole number from 1 to 1000"),
        (("check", "--junit", "/"), "--junit: File '/' is a directory"),
    ],
)
def test_other_words_that_click_refuses(words, said):
    assert said in one_sentence(*words)


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
