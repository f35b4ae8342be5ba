"""typed: how a command reads what a person types: lists add up, any other option stands once, and nothing is empty.

click keeps the last of an option given twice and says nothing, and an unset shell variable makes an option an empty
text, which reads as if nothing had been given. Every command is a ``Command``, which sees to both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import click
from typing_extensions import override

from hybridbench.cli.help import EXAMPLES, GROUPS, group_of
from hybridbench.cli.usage import sentence
from hybridbench.errors import BadInput, nearest_name


class Command(click.Command):
    """A command whose options stand once, unless they are flags or ``multiple``, and are never empty."""

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words, and refuse what would be passed over in silence.

        Raises:
            BadInput: an option of one value given twice, an option or argument that is empty, an unknown option, or
                whatever else click refuses.
        """
        try:
            values, rest, order = self.make_parser(ctx).parse_args(args=list(args))
        except click.NoSuchOption as exc:
            raise BadInput(self._unknown(exc.option_name, ctx)) from exc
        except click.UsageError as exc:
            raise BadInput(sentence(exc, self, {}, ())) from exc
        for parameter, times in Counter(order).items():
            name = max(parameter.opts, key=len)
            if _empty(values.get(parameter.name)):
                what = "path" if isinstance(parameter.type, click.Path) else "value"
                raise BadInput(f"{name} is empty: give a {what}, or leave it out.")
            if times > 1 and isinstance(parameter, click.Option) and not _repeatable(parameter):
                raise BadInput(f"{name} is given {times} times, and takes one value: give it once.")
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as exc:
            raise BadInput(sentence(exc, self, values, rest)) from exc

    @override
    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in the groups of ``help.GROUPS``, in their order."""
        order = [name for names in GROUPS.values() for name in names]
        found: dict[str, list[tuple[str, str]]] = {}
        options = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)]
        for option in sorted(options, key=lambda one: order.index(one.name) if one.name in order else len(order)):
            if record := option.get_help_record(ctx):
                found.setdefault(group_of(option.name), []).append(record)
        for group in (group for group in GROUPS if group in found):
            with formatter.section(group):
                formatter.write_dl(found[group])

    @override
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples of ``help.EXAMPLES``."""
        with formatter.section("Examples"):
            for line in EXAMPLES.get(self.name or "", ()):
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")

    def _unknown(self, option: str, ctx: click.Context) -> str:
        """What to say of an option that this command lacks: which commands have it, or which one was meant."""
        group = ctx.parent.command if ctx.parent else None
        others = group.commands if isinstance(group, click.Group) else {}
        having = [str(name) for name, command in others.items() if option in _options(command)]
        if having:
            return f"{self.name} has no {option}, which {_listed(having)} {'have' if len(having) > 1 else 'has'}: " + (
                f"leave it out, or see hybridbench {self.name} --help."
            )
        near = nearest_name(option.lstrip("-"), [name[2:] for name in _options(self) if name.startswith("--")])
        hint = f"did you mean --{near}? Else " if near else ""
        return f"{self.name} has no {option}: {hint}see hybridbench {self.name} --help."


def _options(command: click.Command) -> list[str]:
    return [name for parameter in command.params for name in parameter.opts if name.startswith("-")]


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _empty(value: Any) -> bool:
    return value == "" or (isinstance(value, Sequence) and "" in value and not isinstance(value, str))


def _repeatable(option: click.Option) -> bool:
    return option.multiple or option.is_flag or option.count


def listed(*names: str, default: str | None = None, **settings: Any) -> Callable[[Any], Any]:
    """An option that holds a list as text, with commas between its parts; given several times, the parts add up."""

    def joined(_ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> str | None:
        return ",".join(values) if values else None

    defaults = None if default is None else (default,)
    return click.option(*names, multiple=True, default=defaults, callback=joined, **settings)
