"""version: which hybridbench this is: its number, and a hash of its source files where no number tells them apart."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from hybridbench import __version__


@cache
def full_version() -> str:
    """The version with eight hex digits of a hash over the package's Python files, such as ``0.1.0+sources.14abc2fc``.

    It identifies the code where there is no checkout.
    """
    package, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return f"{__version__}+sources.{digest.hexdigest()[:8]}"
