"""identity: what a call runs on a GPU, as one hash: machine code, launches and tuning; None where any of it is unknown.

A Triton kernel is its disassembled machine code, which holds no line numbers, with the launch that the profiler saw. A
kernel of a library is its name with the versions of the libraries. Any other kernel, such as one that a person's module
compiles or that torch.compile makes, is unknown, and then the whole call is: unknown code is never "the same".
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hybridbench.kernel_suite.traced import tuned

_TORCH = re.compile(r"\bat::|\bat_cuda_detail::|\bcublas|\bcudnn|^nvjet")
"""Names of kernels that torch and the libraries that it brings have."""
_INDUCTOR = re.compile(r"^triton_(poi|red|per|tem|for|mm)_")
_LAUNCH = ("grid", "block", "shared memory", "registers per thread")
"""What the profiler says of a launch that belongs to what is run."""


@dataclass
class LaunchedCode:
    """What Triton did during one call.

    Attributes:
        kernels: the compiled kernels that were launched, by name.
        tuning: what each autotuner ran, as ``module.kernel: configuration``.
    """

    kernels: dict[str, list[Any]] = field(default_factory=dict)
    tuning: dict[str, None] = field(default_factory=dict)

    @property
    def chosen(self) -> str | None:
        """The configurations in one line; None where nothing tunes itself."""
        return "; ".join(sorted(self.tuning)) or None

    def code(self, name: str) -> str | None:
        """The machine code of the kernel of a name, as a hash; None where it is unknown, or is that of several."""
        found = {machine_code(kernel) for kernel in self.kernels[name]}
        return found.pop() if len(found) == 1 else None


@contextmanager
def watched() -> Iterator[LaunchedCode]:
    """Inside, every launch of a Triton kernel and every choice of an autotuner is noted; nothing without Triton."""
    seen = LaunchedCode()
    if "triton" not in sys.modules:
        yield seen
        return
    from triton.compiler.compiler import CompiledKernel

    metadata = CompiledKernel.launch_metadata

    def launched(self: Any, *args: Any) -> Any:
        known = seen.kernels.setdefault(str(self.name), [])
        if not any(self is one for one in known):
            known.append(self)
        return metadata(self, *args)

    CompiledKernel.launch_metadata = launched
    try:
        with tuned() as seen.tuning:
            yield seen
    finally:
        CompiledKernel.launch_metadata = metadata


def machine_code(kernel: Any) -> str | None:
    """The hash of a compiled kernel's instructions; None where they cannot be disassembled."""
    try:
        text = str(kernel.asm["sass"])
    except (OSError, KeyError, RuntimeError, ValueError, AttributeError):
        return None
    lines = [line.strip() for line in text.splitlines()]
    body = "\n".join(line for line in lines if line and not line.startswith("//"))
    return hashlib.sha256(body.encode()).hexdigest() if body else None


def identity(
    events: Sequence[Mapping[str, Any]], seen: LaunchedCode, libraries: Mapping[str, str | None], own: bool
) -> str | None:
    """The hash of one call; None where a kernel is unknown, or none was seen.

    Args:
        events: of the profiler's trace of the call.
        seen: what Triton did in it.
        libraries: versions of what brings other kernels.
        own: whether the call is a person's function, which may compile kernels of any name.
    """
    parts: list[Any] = []
    for event in events:
        if event.get("cat") != "kernel":
            continue
        name = str(event["name"])
        known: Any = None
        if name in seen.kernels:
            known = seen.code(name)
        elif None not in libraries.values() and not _INDUCTOR.search(name) and not (own and not _TORCH.search(name)):
            known = dict(libraries)
        launch = {key: event.get("args", {}).get(key) for key in _LAUNCH}
        if known is None or None in launch.values():
            return None
        parts.append([name, known, launch])
    if not parts:
        return None
    body = json.dumps([parts, sorted(seen.tuning)], sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()[:16]
