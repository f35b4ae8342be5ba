"""observe: one case built and its eager step seen by both operator counters, with the tiles that autotuning took.

On a GPU that is the work of a process of its own, without a profiler, which compiles and tunes what a later one needs.
It adds a line of JSON to SEEN after every case, and ends itself when the process that started it is gone.

    python -m hybridbench.audit.observe CASES.json SEEN.jsonl
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.ssd_kernels import KERNELS, Tiles
from hybridbench.arch.operations import operations
from hybridbench.arch.reasons import Reason
from hybridbench.audit.reasons import counter_reasons
from hybridbench.audit.tuned import Taken, taken
from hybridbench.audit.views import FVCORE, TORCH
from hybridbench.count.by_operation import (
    Counted,
    Product,
    count_with_fvcore,
    count_with_torch,
    is_hidden,
    is_one_pass,
    operation_of,
)
from hybridbench.errors import DeviceFault, HybridbenchError
from hybridbench.kernels.tuning import side_by_side
from hybridbench.model.build import Resolved
from hybridbench.processes import end_with_starter
from hybridbench.session import Proofs, Session, device_for, open_session
from hybridbench.suite.case import Case

WARMUPS = 2
_SCAN_MODULES = ("ssd_bmm", "ssd_chunk_state", "ssd_chunk_scan", "ssd_combined")


@dataclass(frozen=True)
class Observation:
    """What was seen of one eager step.

    Attributes:
        backends: the kernel of each operation of the model.
        products: matrix products in the order in which they were dispatched.
        tiles: of mamba_ssm's kernels of Mamba-2's scan, as autotuned, where these ran.
        tuned: every configuration that autotuning had taken in this process by then.
        reasons: by counter, why it differs from the exact convention.
        refused: why there is nothing to see.
    """

    backends: dict[str, str] = field(default_factory=dict)
    counted: dict[str, Counted] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)
    tiles: Tiles | None = None
    tuned: list[Taken] = field(default_factory=list)
    reasons: dict[str, list[Reason]] = field(default_factory=dict)
    refused: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``from_dict`` gives an equal one back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Observation:
        """Rebuilds an observation."""
        return cls(
            backends=body["backends"],
            counted={name: Counted(**counted) for name, counted in body["counted"].items()},
            products=[Product(**product) for product in body["products"]],
            tiles=body["tiles"] and {kernel: (m, n, k) for kernel, (m, n, k) in body["tiles"].items()},
            tuned=[Taken(**one) for one in body["tuned"]],
            reasons={name: [Reason(**reason) for reason in found] for name, found in body["reasons"].items()},
            refused=body["refused"],
        )


def warmed(case: Case, proofs: Proofs | None) -> Session:
    """A case that is ready; on a GPU after steps in which whatever compiles or tunes itself has done so.

    Args:
        proofs: None where another process has verified and checked the case.

    Raises:
        Unsupported: a backend cannot run here.
        WrongResult: a kernel, or the step at its size, is wrong.
    """
    device = device_for(case.execution.device)
    with side_by_side():  # without proofs, kernels tune themselves in these steps
        session = open_session(case, device, proofs)
        if device.type == "cuda":
            for _ in range(WARMUPS):
                session.work.eager_step()
            torch.cuda.synchronize()
    return session


def observe(case: Case, proofs: Proofs) -> Observation:
    """Builds a case and counts one eager step of it; the answer says where one cannot run here or is wrong."""
    try:
        session = warmed(case, proofs)
    except DeviceFault:
        raise
    except HybridbenchError as exc:
        return Observation(refused=str(exc))
    resolved, model, work = session.resolved, session.model, session.work

    def forward(*inputs: torch.Tensor) -> tuple[object, ...]:
        # The tracer drops work that no output depends on, such as a state kept for the next step.
        with torch.no_grad():
            return work.forward(*inputs), [cache.tensors() for cache in work.caches]

    by_torch, products = count_with_torch(work.eager_step, model, resolved)
    names = [*operations(case.model, case.workload.kind, case.workload.context)]
    by_fvcore = count_with_fvcore(forward, work.inputs, model, resolved, names)
    return Observation(
        backends=_named(resolved),
        counted={TORCH: by_torch, FVCORE: by_fvcore},
        products=products,
        tiles=scan_tiles() if any(_is_chunked(item) for item in resolved) else None,
        tuned=taken(),
        reasons={counter: counter_reasons(case, resolved, counter) for counter in (TORCH, FVCORE)},
    )


def _named(resolved: list[Resolved]) -> dict[str, str]:
    """``attention core: attention`` to the backend's name; where shapes differ in their kernels, all of them."""
    found: dict[str, list[str]] = {}
    for item in resolved:
        names = found.setdefault(f"{operation_of(item.op, item.block)}: {item.op}", [])
        if item.backend.ran not in names:
            names.append(item.backend.ran)
    return {name: ", ".join(backends) for name, backends in found.items()}


def _is_chunked(item: Resolved) -> bool:
    """Whether this is mamba_ssm's scan."""
    scans = isinstance(item.block, Mamba2) and item.op in ("ssd", "mamba2_core")
    return scans and is_hidden(item.backend) and not is_one_pass(item.backend.name)


def scan_tiles() -> dict[str, tuple[int, int, int]]:
    """Rows, columns and depth of the tiles that Triton took for mamba_ssm's kernels last; 0 for what it has not."""
    found: dict[str, tuple[int, int, int]] = {}
    for name in _SCAN_MODULES:
        try:
            module = importlib.import_module(f"mamba_ssm.ops.triton.{name}")
        except ImportError:
            return found
        for kernel in KERNELS:
            blocks = getattr(getattr(getattr(module, kernel, None), "best_config", None), "kwargs", None)
            if blocks is not None:
                m, n = (int(blocks.get(f"BLOCK_SIZE_{side}", 0)) for side in "MN")
                found[kernel] = m, n, int(blocks.get("BLOCK_SIZE_K", blocks.get("BLOCK_SIZE_CS", 0)))
    return found


def main(cases: Path, seen: Path) -> None:
    """Observes the cases of one file, and adds a line to another after each."""
    proofs = Proofs()
    with seen.open("a", encoding="utf-8") as lines:
        for body in json.loads(cases.read_text(encoding="utf-8")):
            lines.write(json.dumps(observe(Case.from_dict(body), proofs).to_dict()) + "\n")
            lines.flush()
            gc.collect()
            torch.cuda.empty_cache()  # the next case starts from an empty device


if __name__ == "__main__":
    end_with_starter()
    main(Path(sys.argv[1]), Path(sys.argv[2]))
