"""main: the ``hybridbench`` command: its groups, and errors as one sentence with an exit code.

Commands import what they need when they run: ``--help`` and ``cost`` answer without torch, pandas or a chart library.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any

import click
from typing_extensions import override

from hybridbench import __version__
from hybridbench.cli.help import EXAMPLES
from hybridbench.cli.output import Plain, ended_quietly
from hybridbench.cli.stored import some_were_damaged
from hybridbench.cli.usage import sentence
from hybridbench.errors import BadInput, BadResults, HybridbenchError, unknown_name

COMMANDS: dict[str, tuple[str, str]] = {
    "quickstart": ("quickstart", "A little of everything, in a minute."),
    "cost": ("predicting", "What each model must cost, without running it."),
    "cache": ("caching", "Cache bytes by formula, in tensors, as allocated and in pages."),
    "fit": ("planning", "The largest batch or context that fits a GPU."),
    "price": ("pricing", "What a workload would take on any GPU."),
    "crossover": ("crossing", "From which context on one model has less than another."),
    "train-throughput": ("measuring", "Time training steps."),
    "prefill": ("measuring", "Time the prefill of a prompt."),
    "decode": ("measuring", "Time decode steps at a fixed context."),
    "generate": ("measuring", "Time whole generations, as the paper does."),
    "run": ("sharing", "Run a suite of cases, here or on a cluster."),
    "status": ("sharing", "How far a run is, wherever its workers are."),
    "merge": ("sharing", "Join folders of results into one."),
    "kernels": ("kernels", "Operations timed by themselves, and your own kernel beside them."),
    "ls": ("looking", "Which results are stored here."),
    "show": ("looking", "A quick question about stored results."),
    "report": ("reporting", "Tables and charts from stored records."),
    "export": ("exporting", "Stored records as one Parquet or CSV file."),
    "compare": ("comparing", "What changed between stored results, beyond the noise."),
    "corpus": ("corpora", "Text as token shards to train on."),
    "learn": ("learning", "Train models on a corpus and judge them on held-out text."),
    "evaluate": ("evaluating", "Trained models on tasks of lm-evaluation-harness."),
    "solve": ("solving", "Train models on synthetic tasks of recall and state."),
    "contexts": ("stretching", "Trained models beyond the length that they were trained at."),
    "pareto": ("frontier", "Quality against cost: which stacks no other beats."),
    "trace": ("tracing", "Where the time of a step goes."),
    "audit": ("auditing", "Count a step's FLOPs six ways, and say why they differ."),
    "baseline": ("baselining", "Keep records that later ones are compared with, and their trend."),
    "check": ("checking", "Whether a change made performance worse."),
    "bisect": ("bisecting", "Which commit made performance worse."),
    "archs": ("inspecting", "Families, scales, recipes, mixers, letters of patterns and published models."),
    "backends": ("inspecting", "Kernels: which can run here, and why not."),
    "tune": ("tuning", "Search how decode's products are cut, on this GPU."),
    "doctor": ("inspecting", "This machine, and what is missing."),
}
"""Every command in the order people need them: its module below ``hybridbench.cli``, and its line in ``--help``."""


class Loaded(MutableMapping[str, click.Command]):
    """The commands by name, each imported when it is looked up, so that no command waits for another's imports."""

    def __init__(self) -> None:
        self._found: dict[str, click.Command] = {}

    @override
    def __getitem__(self, name: str) -> click.Command:
        if name not in self._found:
            module = importlib.import_module(f"hybridbench.cli.{COMMANDS[name][0]}")
            self._found |= {
                one.name: one for one in vars(module).values() if isinstance(one, click.Command) and one.name
            }
            self._found |= {one.name: one for one in getattr(module, "OF_WORKLOADS", ()) if one.name}
        return self._found[name]

    @override
    def __setitem__(self, name: str, command: click.Command) -> None:
        self._found[name] = command

    @override
    def __delitem__(self, name: str) -> None:
        del self._found[name]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    @override
    def __len__(self) -> int:
        return len(COMMANDS)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Print an error raised on purpose as a sentence, and end with its exit code."""
    try:
        yield
    except HybridbenchError as exc:
        Plain(stderr=True, soft_wrap=True).print(f"error: {exc}", style="red")
        raise click.exceptions.Exit(exc.exit_code) from exc
    except ModuleNotFoundError as exc:
        package = (exc.name or "").partition(".")[0]
        if package in ("", "hybridbench"):
            raise
        said = f"error: this needs {package}, which is not installed: python -m pip install hybridbench brings it."
        Plain(stderr=True, soft_wrap=True).print(said, style="red")
        raise click.exceptions.Exit(BadInput.exit_code) from exc
    except KeyboardInterrupt as exc:
        Plain(stderr=True).print("stopped.")
        raise click.exceptions.Exit(130) from exc


class Cli(click.Group):
    """Prints errors raised on purpose as a sentence, without a traceback; exit code 2 for bad input."""

    @override
    def list_commands(self, _ctx: click.Context) -> list[str]:
        """The commands in the order people need them, not in alphabetical order."""
        return list(self.commands)

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    @override
    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the words before the command, among which ``--help`` prints."""
        with ended_quietly(), _told():
            return super().make_context(*args, **kwargs)

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words before the command.

        Raises:
            BadInput: an option that belongs behind a command, or nowhere.
        """
        if not args:
            return super().parse_args(ctx, args)  # which shows the help
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as exc:
            what = f"hybridbench has no {exc.option_name} before a command"
            raise BadInput(f"{what}: write options behind the command, as in {EXAMPLES['cost'][0]}.") from exc
        except click.UsageError as exc:
            raise BadInput(sentence(exc, self, {}, ())) from exc

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names.

        Raises:
            BadInput: none has that name; the text has the nearest.
        """
        if args[0] not in self.commands:
            raise unknown_name("command", args[0], self.commands)
        return super().resolve_command(ctx, args)

    @override
    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error raised on purpose becomes a sentence and an exit code."""
        with ended_quietly(), _told():
            result = super().invoke(ctx)
            if some_were_damaged(ctx):
                ctx.exit(BadResults.exit_code)
            return result


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


main.commands = Loaded()

if __name__ == "__main__":
    sys.exit(main())
