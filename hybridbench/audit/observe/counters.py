"""counters: one case built, and its eager step counted by both operator counters, with the autotuned tiles.

It runs in its own process. On a GPU that process compiles and tunes the kernels that a later process, under a profiler,
needs. It adds a line of JSON to SEEN after every case, and ends itself when the process that started it is gone.

    python -m hybridbench.audit.observe.counters CASES.json SEEN.jsonl
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from hybridbench.arch.block import Block
from hybridbench.arch.blocks.ssd_kernels import KERNELS
from hybridbench.audit.exchange import Observation, RanOperation
from hybridbench.audit.observe.tuned import taken
from hybridbench.count.account import FVCORE, TORCH
from hybridbench.count.formulas import is_one_pass
from hybridbench.count.step import count_step
from hybridbench.count.whose import is_hidden, operation_of
from hybridbench.errors import DeviceFault, HybridbenchError
from hybridbench.kernels.tuning import side_by_side
from hybridbench.model.build import Resolved
from hybridbench.processes import end_with_starter
from hybridbench.session import Proofs, Session, device_for, open_session
from hybridbench.suite.case import Case
from hybridbench.suite.ops import block_uses

SCANS = ("ssd", "mamba2_core")
"""Kernels' operations that compute Mamba-2's scan over a sequence."""
WARMUPS = 2
_SCAN_MODULES = ("ssd_bmm", "ssd_chunk_state", "ssd_chunk_scan", "ssd_combined")


def warmed(case: Case, proofs: Proofs | None) -> Session:
    """A case that is ready to run; on a GPU its kernels have compiled and tuned themselves in warm-up steps.

    Args:
        case: the case to build.
        proofs: None if another process has verified and checked the case.

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


def observe(case: Case, proofs: Proofs | None) -> Observation:
    """Build a case and count one eager step of it; the observation says so if it cannot run here or is wrong.

    Args:
        case: the case to build.
        proofs: as of ``warmed``.
    """
    try:
        session = warmed(case, proofs)
    except DeviceFault:
        raise
    except HybridbenchError as exc:
        return Observation(why_not=str(exc))
    resolved = session.resolved
    counted = count_step(session.work, session.model, resolved)
    return Observation(
        backends=_named(resolved),
        ran=_ran(resolved, [block for block, _ in block_uses(case.model)]),
        accounts={TORCH: counted.by_torch, FVCORE: counted.by_fvcore},
        products=counted.products,
        tiles=scan_tiles() if any(_is_chunked(item) for item in resolved) else None,
        tuned=taken(),
    )


def _ran(resolved: Sequence[Resolved], blocks: Sequence[Block]) -> list[RanOperation]:
    return [
        RanOperation(
            item.op,
            item.backend.name,
            operation_of(item.op, item.block),
            is_hidden(item.backend),
            is_one_pass(item.backend.name),
            item.uses,
            None if item.block is None else blocks.index(item.block),
        )
        for item in resolved
    ]


def _named(resolved: Sequence[Resolved]) -> dict[str, str]:
    """``attention core: attention`` to the backend's name; where shapes differ in their kernels, all of them."""
    found: dict[str, list[str]] = {}
    for item in resolved:
        names = found.setdefault(f"{operation_of(item.op, item.block)}: {item.op}", [])
        if item.backend.ran not in names:
            names.append(item.backend.ran)
    return {name: ", ".join(backends) for name, backends in found.items()}


def _is_chunked(item: Resolved) -> bool:
    """Whether this is mamba_ssm's scan."""
    return item.op in SCANS and is_hidden(item.backend) and not is_one_pass(item.backend.name)


def scan_tiles() -> dict[str, tuple[int, int, int]]:
    """Rows, columns and inner sizes of the tiles Triton last chose for mamba_ssm's kernels; 0 for what one lacks."""
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
