"""told: where a check is told beside the terminal: files and workflow commands, also where it has no verdict."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import click

from hybridbench.errors import BadInput, HybridbenchError, described


@dataclass(frozen=True)
class Outputs:
    """What is written of a check: files, workflow commands, or one JSON document."""

    junit: Path | None
    summary: Path | None
    annotations: bool
    as_json: bool

    def check_writable(self) -> None:
        """Check, before anything is timed, that the files can be written; raises as ``check_writable`` does."""
        for path in (self.junit, self.summary):
            check_writable(path)

    def tell_no_verdict(self, reason: str) -> None:
        """Write why a check came to no verdict wherever its verdicts were to be written."""
        from hybridbench.gate.report import annotation_without_verdict, junit_without_verdict, summary_without_verdict

        with suppress(OSError):  # why there is no verdict is what is told on the terminal then
            self.write(junit_without_verdict(reason), summary_without_verdict(reason))
        if self.annotations:
            click.echo(annotation_without_verdict(reason), err=self.as_json)

    def write(self, xml: str, page: str) -> None:
        """Write the files that were named."""
        if self.junit is not None:
            self.junit.write_text(xml, encoding="utf-8")
        if self.summary is not None:
            with self.summary.open("a", encoding="utf-8") as file:
                file.write(page)


@contextmanager
def judged(outputs: Outputs) -> Iterator[None]:
    """Inside, whatever ends a check before it has verdicts is told in its outputs too."""
    try:
        yield
    except KeyboardInterrupt:
        outputs.tell_no_verdict("it was interrupted before all cells were judged.")
        raise
    except HybridbenchError as exc:
        outputs.tell_no_verdict(str(exc))
        raise
    except Exception as exc:
        outputs.tell_no_verdict(f"the check itself failed: {described(exc)}.")
        raise


def check_writable(path: Path | None, *, make_folder: bool = False) -> None:
    """Check, before anything is timed, that a file can be written. It is left as it was, or not there.

    Args:
        make_folder: make its folder where there is none.

    Raises:
        BadInput: it cannot.
    """
    if path is None:
        return
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        there = path.exists()
        if there and not path.is_file():  # a pipe or a device: to open it may wait for a reader
            return
        with path.open("a", encoding="utf-8"):
            pass
        if not there:
            path.unlink()
    except OSError as exc:
        raise BadInput(f"{path} cannot be written ({exc.strerror}): give a path in a folder that can.") from exc
