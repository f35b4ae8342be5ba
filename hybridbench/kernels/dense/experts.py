"""experts: routed SwiGLU experts as two grouped products over tokens sorted by expert.

``torch._grouped_mm`` multiplies groups of rows with one matrix per group. The ends of the groups are a device tensor,
so no count is read on the host and a decode step can be captured in a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridbench.errors import Unsupported
from hybridbench.kernels.backend import Implementation
from hybridbench.problem import Problem


def load_grouped_mm() -> Callable[..., Tensor]:
    """``experts`` through ``torch._grouped_mm``.

    Raises:
        Unsupported: this torch has no grouped product.
    """
    if not hasattr(torch, "_grouped_mm"):
        raise Unsupported(f"torch {torch.__version__} has no torch._grouped_mm; take 2.11 or newer")
    # On a CPU it runs in any dtype, but torch.compile supports it in bfloat16 only. This imports the compiler.
    past_the_compiler: Callable[..., Tensor] = torch.compiler.disable(torch._grouped_mm)
    return partial(_grouped, past_the_compiler)


def unsupported_grouped_mm(problem: Problem) -> str | None:
    """Why a problem is unsupported: the grouped product takes bfloat16 only on CUDA, and no float64 on a CPU."""
    if problem.dtype == "float64" or (problem.device == "cuda" and problem.dtype != "bfloat16"):
        return f"torch._grouped_mm takes no {problem.dtype} on {problem.device}"
    return None


def _grouped(
    past_the_compiler: Callable[..., Tensor],
    x_ND: Tensor,
    chosen_NK: Tensor,
    weight_NK: Tensor,
    in_weight_EFD: Tensor,
    out_weight_EDI: Tensor,
) -> Tensor:
    product = torch._grouped_mm if x_ND.dtype == torch.bfloat16 else past_the_compiler
    chosen = chosen_NK.flatten()
    order = chosen.argsort(stable=True)
    token = order // chosen_NK.shape[1]
    E = in_weight_EFD.shape[0]
    sizes_E = (chosen[:, None] == torch.arange(E, device=chosen.device)).sum(0)
    ends_E = sizes_E.cumsum(0).to(torch.int32)
    gate, up = product(x_ND[token], in_weight_EFD.transpose(1, 2), offs=ends_E).chunk(2, dim=-1)
    y = product(F.silu(gate) * up, out_weight_EDI.transpose(1, 2), offs=ends_E)
    weighted = y * weight_NK.flatten()[order, None]
    return torch.zeros_like(x_ND).index_add(0, token, weighted)


grouped_mm = Implementation(load_grouped_mm, unsupported_grouped_mm)
