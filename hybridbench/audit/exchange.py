"""exchange: the values that processes of an audit pass to each other through files; needs no torch."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hybridbench.arch.blocks.ssd_kernels import Tiles
from hybridbench.count.account import Account, Product
from hybridbench.suite.case import Case

Scalar = bool | int | float | str | None


@dataclass(frozen=True)
class Taken:
    """The configuration that autotuning chose for one kernel and one kind of problem.

    Attributes:
        module: the module that defines the kernel; ``kernel`` is its name there.
        key: the arguments and dtypes by which autotuning distinguishes problems.
        configuration: the configuration as text.
    """

    module: str
    kernel: str
    key: list[Scalar]
    configuration: str


@dataclass(frozen=True)
class RanOperation:
    """One operation of one block shape, and the kernel that ran it.

    Attributes:
        op, backend: the kernel's operation and name.
        operation: the operation of the model that it is part of, named as in ``arch.operations``.
        hidden: whether no operator counter can look into it.
        one_pass: whether it is a scan that runs in one pass.
        uses: in how many sublayers it runs.
        block: the index of its block in ``suite.block_uses``; None for an operation of the model itself.
    """

    op: str
    backend: str
    operation: str
    hidden: bool
    one_pass: bool
    uses: int
    block: int | None


@dataclass(frozen=True)
class Observation:
    """What was observed of one eager step.

    Attributes:
        backends: the kernel of each operation of the model.
        ran: the kernels again, one entry per operation and block shape.
        accounts: the account of each counter.
        products: matrix products in the order in which they were dispatched.
        tiles: the autotuned tiles of mamba_ssm's kernels of Mamba-2's scan, if they ran.
        tuned: every configuration that autotuning had chosen in this process by then.
        why_not: why there is no observation, if the case cannot run here or is wrong.
    """

    backends: dict[str, str] = field(default_factory=dict)
    ran: list[RanOperation] = field(default_factory=list)
    accounts: dict[str, Account] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)
    tiles: Tiles | None = None
    tuned: list[Taken] = field(default_factory=list)
    why_not: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``from_dict`` gives an equal one back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Observation:
        """Rebuilds an observation."""
        return cls(
            backends=body["backends"],
            ran=[RanOperation(**one) for one in body["ran"]],
            accounts={name: Account(**account) for name, account in body["accounts"].items()},
            products=[Product(**product) for product in body["products"]],
            tiles=body["tiles"] and {kernel: (m, n, k) for kernel, (m, n, k) in body["tiles"].items()},
            tuned=[Taken(**one) for one in body["tuned"]],
            why_not=body["why_not"],
        )


def ask(file: Path, case: Case, tuned: Sequence[Taken]) -> None:
    """Write the file that tells ``observe.profiled`` what to run.

    The file also names this process's folder for temporary files, where PyTorch and flash-attn 4 keep compiled kernels:
    the profiler's process may have another one.
    """
    body = {"case": case.to_dict(), "tuned": [asdict(one) for one in tuned], "temporary": tempfile.gettempdir()}
    file.write_text(json.dumps(body), encoding="utf-8")


def asked(file: Path) -> tuple[Case, list[Taken], str]:
    """Read what ``ask`` wrote: the case, the configurations to use, and the folder for temporary files."""
    body = json.loads(file.read_text(encoding="utf-8"))
    return Case.from_dict(body["case"]), [Taken(**one) for one in body["tuned"]], body["temporary"]
