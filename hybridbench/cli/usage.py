"""usage: what is said of words that click cannot read: one sentence with the way out.

click prints its usage line, a hint and then the mistake, in words of its own. Every other mistake is one sentence here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from hybridbench.cli.help import EXAMPLES
from hybridbench.text import shown

_NUMBERS: dict[type[click.ParamType[Any]], str] = {
    type(click.INT): "a whole number",
    type(click.FLOAT): "a number",
    click.IntRange: "a whole number",
}

_MOST = 4
"""Words that are shown of those that nothing takes, beside the last."""


def sentence(exc: click.UsageError, command: click.Command, values: Mapping[str, Any], rest: Sequence[str]) -> str:
    """What to say of a command line that click refuses.

    Args:
        exc: click's own error.
        command: the command whose words were read.
        values: the words of each parameter, as typed, by its name.
        rest: words that no parameter takes.
    """
    name = command.name or "hybridbench"
    if isinstance(exc, click.MissingParameter) and exc.param is not None:
        return f"{name} lacks {_called(exc.param)}: name it, as in {EXAMPLES[name][0]}."
    if isinstance(exc, click.BadParameter) and exc.param is not None:
        return _misfit(exc, exc.param, values)
    if isinstance(exc, click.BadOptionUsage):
        return _valued(exc.option_name, command)
    if rest:
        many = len(rest) > 1
        words = " and ".join(filter(None, (", ".join(map(shown, rest[:-1][:_MOST])), shown(rest[-1]))))
        return (
            f"{name} has no use for {words}: leave {'them' if many else 'it'} out, or write the option that "
            f"{'they are' if many else 'it is'} for, as hybridbench {name} --help lists them."
        )
    return f"{exc.message.rstrip('.')}: see hybridbench {name} --help."


def _called(parameter: click.Parameter) -> str:
    """An option as it is typed, an argument as ``--help`` shows it."""
    return max(parameter.opts, key=len) if isinstance(parameter, click.Option) else parameter.human_readable_name


def _misfit(exc: click.BadParameter, parameter: click.Parameter, values: Mapping[str, Any]) -> str:
    name = _called(parameter)
    expected = _NUMBERS.get(type(parameter.type))
    if expected is None:
        return f"{name}: {exc.message.rstrip('.')}: name another."
    if isinstance(parameter.type, click.IntRange):
        expected += f" from {parameter.type.min} to {parameter.type.max}"
    return f"{name} {shown(values.get(parameter.name or ''))} is not {expected}: give one, or leave {name} out."


def _valued(option: str, command: click.Command) -> str:
    flags = [one for one in command.params if isinstance(one, click.Option) and one.is_flag]
    if any(option in one.opts for one in flags):
        return f"{option} takes no value: write {option} alone."
    return f"{option} has no value behind it: give one, or leave {option} out."
