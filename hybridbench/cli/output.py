"""output: text as it stands on the terminal, and a quiet end where nothing can be written any more.

rich reads ``[red]`` and ``:smile:`` in what it prints, and a terminal obeys escape sequences. A folder may be called
that, so a ``Plain`` console reads none of them. What has a style is a ``Text`` or is printed with one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys
from collections.abc import Iterator
from typing import Any, TextIO

import click
from rich.console import Console
from rich.text import Text
from typing_extensions import override

from hybridbench.text import printable

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class Plain(Console):
    """A console that prints text as it stands.

    Args:
        stderr: whether it writes to stderr, so that stdout stays free for results.
        soft_wrap: whether the terminal breaks long lines, so that a path in one can be copied; not for tables.
    """

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = False) -> None:
        super().__init__(stderr=stderr, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)

    @override
    def render_str(self, text: str, **settings: Any) -> Text:
        """The text, in which control characters are spelled out."""
        return super().render_str(printable(text), **settings)

    @override
    def on_broken_pipe(self) -> None:
        """Leave a closed pipe to ``ended_quietly``: rich would end the process with exit code 1."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


@contextlib.contextmanager
def ended_quietly() -> Iterator[None]:
    """End the command with exit code 0 if nobody reads its output any more, with a sentence and 1 if its disk is full.

    Raises:
        click.exceptions.Exit: one of these happened.
    """
    try:
        yield
    except OSError as exc:
        if exc.filename is not None or exc.errno not in (errno.EPIPE, *_FULL):
            raise
        closed = [_closed(stream) for stream in (sys.stdout, sys.stderr)]
        if exc.errno == errno.EPIPE and not any(closed):
            raise  # of a pipe to a process of ours
        if exc.errno == errno.EPIPE:
            raise click.exceptions.Exit(0) from exc
        click.echo(f"error: the output cannot be written ({exc.strerror}): make room, or send it elsewhere.", err=True)
        raise click.exceptions.Exit(1) from exc


def _closed(stream: TextIO) -> bool:
    """Whether nobody reads a stream. What it holds and cannot write is dropped: it would fail again as Python ends."""
    try:
        stream.flush()
        held = False
    except OSError:
        held = True
    try:
        number = stream.fileno()
    except OSError:  # a stream in memory
        return False
    poll = select.poll()
    poll.register(number, 0)
    closed = any(event & select.POLLERR for _, event in poll.poll(0))
    if held or closed:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
    return closed
