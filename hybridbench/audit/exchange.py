"""exchange: what the processes of an audit tell each other through files; needs no torch."""

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

Plain = bool | int | float | str | None


@dataclass(frozen=True)
class Taken:
    """One kernel's configuration for one kind of problem.

    Attributes:
        module: that defines the kernel, and ``kernel``, its name there.
        key: the arguments and dtypes that autotuning tells problems apart by.
        configuration: as text.
    """

    module: str
    kernel: str
    key: list[Plain]
    configuration: str


@dataclass(frozen=True)
class Ran:
    """One operation of one block shape, and the kernel that ran it.

    Attributes:
        op, backend: of the kernel.
        operation: of the model that it is part of, named as in ``arch.operations``.
        hidden: no operator counter can look into it.
        one_pass: it is a scan that runs in one pass, where the block knows two ways.
        uses: in how many sublayers.
        block: the place of its block in ``suite.block_uses`` of the model; None of what belongs to the model itself.
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
    """What was seen of one eager step.

    Attributes:
        backends: the kernel of each operation of the model.
        ran: the same, one by one.
        accounts: by counter.
        products: matrix products in the order in which they were dispatched.
        tiles: of mamba_ssm's kernels of Mamba-2's scan, as autotuned, where these ran.
        tuned: every configuration that autotuning had taken in this process by then.
        refused: why there is nothing to see.
    """

    backends: dict[str, str] = field(default_factory=dict)
    ran: list[Ran] = field(default_factory=list)
    accounts: dict[str, Account] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)
    tiles: Tiles | None = None
    tuned: list[Taken] = field(default_factory=list)
    refused: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``from_dict`` gives an equal one back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Observation:
        """Rebuilds an observation."""
        return cls(
            backends=body["backends"],
            ran=[Ran(**one) for one in body["ran"]],
            accounts={name: Account(**account) for name, account in body["accounts"].items()},
            products=[Product(**product) for product in body["products"]],
            tiles=body["tiles"] and {kernel: (m, n, k) for kernel, (m, n, k) in body["tiles"].items()},
            tuned=[Taken(**one) for one in body["tuned"]],
            refused=body["refused"],
        )


def ask(file: Path, case: Case, tuned: Sequence[Taken]) -> None:
    """Writes the file that tells ``observe.profiled`` what to run.

    It names the folder for temporary files too: there PyTorch and flash-attn 4 keep what they compiled, and the
    profiler may have been given a folder of its own.
    """
    body = {"case": case.to_dict(), "tuned": [asdict(one) for one in tuned], "temporary": tempfile.gettempdir()}
    file.write_text(json.dumps(body), encoding="utf-8")


def asked(file: Path) -> tuple[Case, list[Taken], str]:
    """What ``ask`` wrote: the case, configurations to take, and the folder for temporary files."""
    body = json.loads(file.read_text(encoding="utf-8"))
    return Case.from_dict(body["case"]), [Taken(**one) for one in body["tuned"]], body["temporary"]
