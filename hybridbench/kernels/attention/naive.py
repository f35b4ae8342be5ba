"""naive: a decode step of attention as plain eager code writes it, for what was published without a fused kernel.

It runs operator by operator, as ``eager_attention_forward`` of Hugging Face transformers' Llama does: it copies keys
and values to all query heads, then does a batched product, a softmax in float32 and a batched product.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def attention_decode(
    q_BHP: Tensor, k_cache_BSKP: Tensor, v_cache_BSKV: Tensor, length_B: Tensor | None = None
) -> Tensor:
    """One query per sequence against the first ``length_B[b]`` slots of a cache, or against all without lengths.

    Returns:
        out_BHV in the dtype of ``q_BHP``.
    """
    times = q_BHP.shape[1] // k_cache_BSKP.shape[2]
    k_BHSP = k_cache_BSKP.transpose(1, 2).repeat_interleave(times, 1)
    v_BHSV = v_cache_BSKV.transpose(1, 2).repeat_interleave(times, 1)
    scores = torch.matmul(q_BHP.unsqueeze(2), k_BHSP.transpose(2, 3)) / math.sqrt(q_BHP.shape[-1])
    if length_B is not None:
        live_BS = torch.arange(k_BHSP.shape[2], device=q_BHP.device) < length_B[:, None]
        scores = scores.masked_fill(~live_BS[:, None, None], -math.inf)
        v_BHSV = v_BHSV.masked_fill(~live_BS[:, None, :, None], 0.0)  # 0 x NaN in an unused slot is not 0
    wide = torch.float64 if q_BHP.dtype == torch.float64 else torch.float32
    weights = scores.softmax(-1, dtype=wide).to(q_BHP.dtype)
    return torch.matmul(weights, v_BHSV).squeeze(2)
