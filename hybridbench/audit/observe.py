"""observe: one case built and its eager step seen by both operator counters, with the tiles that autotuning took."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from hybridbench.arch.operations import Reason, operations
from hybridbench.arch.ssd_kernels import KERNELS
from hybridbench.audit.reasons import counter_reasons
from hybridbench.audit.views import FVCORE, TORCH
from hybridbench.count.by_operation import Counted, Product, count_with_fvcore, count_with_torch, operation_of
from hybridbench.errors import Unsupported
from hybridbench.model.build import Resolved, build_model, resolve_backends
from hybridbench.suite import Case
from hybridbench.workload import prepare

WARMUPS = 2
_SCAN_MODULES = ("ssd_bmm", "ssd_chunk_state", "ssd_chunk_scan", "ssd_combined")


@dataclass(frozen=True)
class Observation:
    """What was seen of one eager step.

    Attributes:
        backends: the kernel of each operation of the model.
        products: matrix products in the order in which they were dispatched.
        tiles: of the scan's kernels, as autotuned.
        reasons: by counter, why it differs from the exact convention.
        refused: why there is nothing to see.
    """

    backends: dict[str, str] = field(default_factory=dict)
    counted: dict[str, Counted] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)
    tiles: dict[str, tuple[int, int, int]] = field(default_factory=dict)
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
            tiles={kernel: (tile[0], tile[1], tile[2]) for kernel, tile in body["tiles"].items()},
            reasons={name: [Reason(**reason) for reason in found] for name, found in body["reasons"].items()},
            refused=body["refused"],
        )


def observe(case: Case, then: Callable[[Callable[[], object]], None] | None = None) -> Observation:
    """Builds a case and counts one eager step of it.

    Args:
        then: called with the step afterwards, on the warm model; a model that cannot be run is not an error here.
    """
    device = torch.device("cuda", 0) if case.execution.device == "cuda" else torch.device("cpu")
    try:
        resolved = resolve_backends(case)
    except Unsupported as exc:
        return Observation(refused=str(exc))
    model = build_model(case, resolved)
    model.allocate(device, case.execution.seed)
    work = prepare(case, model)
    if device.type == "cuda":  # what compiles or tunes itself does so before anybody counts
        for _ in range(WARMUPS):
            work.eager_step()
        torch.cuda.synchronize()

    def forward(*inputs: torch.Tensor) -> tuple[object, ...]:
        # The tracer drops work that no output depends on, such as a state kept for the next step.
        with torch.no_grad():
            return work.forward(*inputs), [cache.tensors() for cache in work.caches]

    by_torch, products = count_with_torch(work.eager_step, model, resolved)
    names = [*operations(case.model, case.workload.kind, case.workload.context)]
    by_fvcore = count_with_fvcore(forward, work.inputs, model, resolved, names)
    model.zero_grad(set_to_none=False)
    if then is not None:
        then(work.eager_step)
    return Observation(
        backends=_named(resolved),
        counted={TORCH: by_torch, FVCORE: by_fvcore},
        products=products,
        tiles=scan_tiles() if device.type == "cuda" else {},
        reasons={counter: counter_reasons(case, resolved, counter) for counter in (TORCH, FVCORE)},
    )


def _named(resolved: list[Resolved]) -> dict[str, str]:
    """``attention core: attention`` to the backend's name; where shapes differ in their kernels, all of them."""
    found: dict[str, list[str]] = {}
    for item in resolved:
        names = found.setdefault(f"{operation_of(item.op, item.block)}: {item.op}", [])
        if item.backend.name not in names:
            names.append(item.backend.name)
    return {name: ", ".join(backends) for name, backends in found.items()}


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
