"""liger: the head and its cross entropy by liger_kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hybridbench.kernels.backend import Implementation, imported, needs_cuda_and_float32


def load_liger() -> Callable[..., Any]:
    """``linear_cross_entropy`` by liger_kernel, the weight's gradient summed over chunks in float32 as in ``chunked``.

    The number of targets is read on the host once per call.
    """
    function = imported(
        "liger_kernel.ops.fused_linear_cross_entropy", "liger_kernel is not importable"
    ).LigerFusedLinearCrossEntropyFunction

    def linear_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> Tensor:
        if not torch.is_grad_enabled():  # it looks at requires_grad only, and would compute gradients that are not used
            hidden_ND, weight_VD = hidden_ND.detach(), weight_VD.detach()
        # bias, class weights, ignore_index, lse_square_scale, label_smoothing, reduction, softcap, z-loss, accum_dtype
        settings = (None, None, -100, 0.0, 0.0, "mean", None, False, torch.float32)
        loss: Tensor = function.apply(hidden_ND, weight_VD, target_N, *settings)[0]
        return loss

    return linear_cross_entropy


linear_cross_entropy = Implementation(load_liger, needs_cuda_and_float32)
