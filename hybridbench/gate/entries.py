"""entries: the TOML files of the gate, each of which holds one list of tables and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hybridbench.errors import BadInput
from hybridbench.files import SUITE_BYTES, Damaged, from_toml, read_text


def read_entries(path: Path, name: str) -> list[Any]:
    """The ``[[name]]`` tables of a file, unchecked.

    Raises:
        BadInput: no such file, no TOML, or anything else in it.
    """
    try:
        body = from_toml(read_text(path, SUITE_BYTES))
    except Damaged as exc:
        raise BadInput(f"{path} {exc}: give a file of [[{name}]] entries.") from exc
    listed = body.get(name)
    if set(body) != {name} or not isinstance(listed, list):
        raise BadInput(f"{path} must hold [[{name}]] entries and nothing else.")
    return listed
