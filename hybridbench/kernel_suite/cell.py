"""cell: one operation on one problem by one backend, in one direction: what the kernel suite times at once.

>>> problem = Problem("cpu", "float32", batch=2, length=100, width=64)
>>> Cell("swiglu", "reference", problem).label
'swiglu reference forward, batch=2 length=100 width=64 float32'
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from hybridbench.errors import BadInput, unknown_name
from hybridbench.problem import Problem

FORWARD, BACKWARD = "forward", "backward"
DIRECTIONS = (FORWARD, BACKWARD)
"""``forward`` is a call without gradients. ``backward`` is a forward that keeps what its backward needs, and that
backward: a kernel may do the work of one in the other, as losses do, so only the two together can be compared."""

SIZES = tuple(one.name for one in fields(Problem) if one.name not in ("device", "dtype", "training"))
"""The sizes of a problem by name."""


@dataclass(frozen=True)
class Budget:
    """How long a cell is sampled.

    Args:
        cold: the cache is flushed before each call (L2 on a GPU, the last level on a CPU).
        max_time_s: seconds of samples.
        min_samples, max_samples: of one call each.
        target_rel_ci: half-width of the median's 95% interval, relative to it, at which sampling ends.
        sustained: back to back, at the clocks that a power limit allows; else rests keep the clocks up.
    """

    cold: bool = True
    max_time_s: float = 1.0
    min_samples: int = 30
    max_samples: int = 1000
    target_rel_ci: float = 0.005
    sustained: bool = False


@dataclass(frozen=True)
class Cell:
    """One operation, timed by itself.

    Args:
        op: a key of ``operations.OPERATIONS``.
        backend: its name there, or ``package.module:function``.
        problem: with ``device``, ``dtype`` and all sizes; its ``training`` is that of ``direction``.
        direction: one of ``DIRECTIONS``.
        seed: of the inputs.
        models: labels of the models that have this problem, for people; they do not change which cell it is.
        limit_s: after so many seconds its process is ended.
    """

    op: str
    backend: str
    problem: Problem
    direction: str = FORWARD
    sampling: Budget = Budget()
    seed: int = 0
    models: tuple[str, ...] = ()
    limit_s: float = 300.0

    @property
    def key(self) -> str:
        """Identity of the cell: equal cells have equal keys, however they were made."""
        body = self.to_dict()
        del body["models"], body["limit_s"]
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """One line for progress and errors."""
        return f"{self.op} {self.backend} {self.direction}, {sizes_text(self.problem)} {self.problem.dtype}"

    @property
    def device(self) -> str:
        """The kind of device that it runs on."""
        return self.problem.device

    @property
    def how(self) -> str:
        """How it is run, in a few words."""
        return f"{self.problem.device} {'cold' if self.sampling.cold else 'hot'}"

    @property
    def compiled(self) -> bool:
        """Whether a model's layers are compiled: there is no model."""
        return False

    @property
    def user_kernel(self) -> bool:
        """Whether it runs a person's own function."""
        return ":" in self.backend

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``from_dict`` gives an equal cell back."""
        return {**asdict(self), "models": list(self.models)}

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Cell:
        """Rebuilds a cell.

        Raises:
            KeyError, TypeError: a field is missing or unknown.
            BadInput: a direction that there is not.
        """
        made = cls(
            **{
                **body,
                "problem": Problem(**body["problem"]),
                "sampling": Budget(**body["sampling"]),
                "models": tuple(body["models"]),
            }
        )
        if made.direction not in DIRECTIONS:
            raise unknown_name("direction", made.direction, DIRECTIONS)
        return made


def sizes_text(problem: Problem, without: tuple[str, ...] = ()) -> str:
    """The sizes of a problem that are not their default, as they are typed."""
    plain = {one.name: one.default for one in fields(Problem)}
    given = {name: getattr(problem, name) for name in ("batch", "length", *SIZES)}
    return " ".join(f"{name}={value}" for name, value in given.items() if value != plain[name] and name not in without)


def check_directions(names: list[str]) -> None:
    """Check that directions exist.

    Raises:
        BadInput: none, or an unknown one.
    """
    if not names:
        raise BadInput(f"no direction: give {' or '.join(DIRECTIONS)}, or both with a comma between them.")
    for name in names:
        if name not in DIRECTIONS:
            raise unknown_name("direction", name, DIRECTIONS)
