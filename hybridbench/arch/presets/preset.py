"""preset: one published model: where it is from, its dimensions, and the parameters that its authors state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hybridbench.arch.model import NAMED, ModelSpec

SCALE = NAMED[0]
"""What stands in place of a scale in their cases."""


Config = dict[str, Any]
"""The fields of a config.json that matter."""


@dataclass(frozen=True)
class Preset:
    """One model.

    Args:
        repo: its authors' repository.
        config: the fields of its config.json that matter, or None if ``build`` makes it.
        total, active: parameters as its authors state them.
        inferred: the dimensions that no public config states; empty for none.
    """

    repo: str
    config: Config | None = None
    build: Callable[[str], ModelSpec] | None = None
    total: str = ""
    active: str = ""
    inferred: str = ""
