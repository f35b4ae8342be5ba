"""main: the ``hybridbench`` command: its groups, and errors as one sentence with an exit code.

Commands import what they need when they run: ``--help`` and ``cost`` answer without torch, pandas or a chart library.
"""

from __future__ import annotations

import sys
from typing import Any

import click
from typing_extensions import override

from hybridbench import __version__
from hybridbench.cli.auditing import audit
from hybridbench.cli.caching import cache
from hybridbench.cli.checking import check
from hybridbench.cli.inspecting import archs, backends, doctor
from hybridbench.cli.measuring import OF_WORKLOADS, run
from hybridbench.cli.output import Plain, ended_quietly
from hybridbench.cli.planning import crossover, fit, price
from hybridbench.cli.predicting import cost
from hybridbench.cli.quickstart import quickstart
from hybridbench.cli.reporting import report
from hybridbench.cli.tracing import trace
from hybridbench.errors import HybridbenchError


class Cli(click.Group):
    """Prints errors raised on purpose as a sentence, without a traceback; exit code 2 for bad input."""

    @override
    def list_commands(self, _ctx: click.Context) -> list[str]:
        """The commands in the order people need them, not in alphabetical order."""
        return list(self.commands)

    @override
    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the words before the command, among which ``--help`` prints."""
        with ended_quietly():
            return super().make_context(*args, **kwargs)

    @override
    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error raised on purpose becomes a sentence and an exit code."""
        with ended_quietly():
            try:
                return super().invoke(ctx)
            except HybridbenchError as exc:
                Plain(stderr=True, soft_wrap=True).print(f"error: {exc}", style="red")
                ctx.exit(exc.exit_code)
            except KeyboardInterrupt:
                Plain(stderr=True).print("stopped.")
                ctx.exit(130)


ABOUT = """Benchmark and predict hybrid language models: attention, state-space layers, and mixes of both.

\b
hybridbench cost --scale 1b --ctx 4k..128k      what each architecture must cost; needs no GPU
hybridbench decode --ctx 4k..128k               what decoding takes here, beside its floor
hybridbench quickstart                          a bit of everything, in a minute
"""


@click.group(cls=Cli, help=ABOUT, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="hybridbench")
def main() -> None:
    """The command itself: what it does is in its subcommands."""


for command in (
    *(quickstart, cost, cache, fit, price, crossover),
    *(*OF_WORKLOADS, run, report),
    *(trace, audit, check, archs, backends, doctor),
):
    main.add_command(command)

if __name__ == "__main__":
    sys.exit(main())
