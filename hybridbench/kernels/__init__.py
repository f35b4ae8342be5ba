"""kernels: interchangeable implementations of a few operations, each with a reference implementation in plain PyTorch.

| operation | signature |
|---|---|
| ``attention`` | ``(q_BTHP, k_BTKP, v_BTKV, *, window=None, sinks=0) -> out_BTHV`` |
| ``attention_decode`` | ``(q_BHP, k_cache_BSKP, v_cache_BSKV, length_B) -> out_BHV`` |
| ``ssd`` | ``(x_BTHP, dt_BTH, A_H, B_BTGN, C_BTGN, D_H, dt_bias_H, *, chunk_size, initial_state_BHPN=None)``
  ``-> (y_BTHP, final_state_BHPN)`` |
| ``ssd_step`` | ``(state_BHPN, x_BHP, dt_BH, A_H, B_BGN, C_BGN, D_H, dt_bias_H) -> y_BHP``, state in place |
| ``conv1d`` | ``(x_BTC, weight_CW, bias_C) -> y_BTC`` |
| ``conv1d_step`` | ``(state_BCW, x_BC, weight_CW, bias_C) -> y_BC``, state in place |
| ``mamba2_core`` | ``(packed_BTC, conv_weight_CW, conv_bias_C, A_H, D_H, dt_bias_H, norm_weight_I | None, *,``
  ``head_dim, n_groups, chunk_size, eps, initial_state_BHPN=None) -> (out_BTI, final_state_BHPN)`` |
| ``selective_scan`` | ``(x_BTI, dt_BTI, A_IN, B_BTN, C_BTN, D_I, z_BTI, dt_bias_I, *, initial_state_BIN=None)``
  ``-> (y_BTI, final_state_BIN)`` |
| ``swiglu`` | ``(packed) -> out``, (..., 2F) to (..., F) |
| ``add_rms_norm`` | ``(x, residual | None, weight, *, eps) -> (normed, x + residual)`` |
| ``rotary`` | ``(packed_BTC, cos_TR, sin_TR, *, n_heads, n_kv_heads, head_dim) -> (q_BTHP, k_BTKP, rest_BTC)`` |
| ``gate`` | ``(y, z, weight | None, *, eps) -> out`` |
| ``head_norms`` | ``(first, second, *, heads, eps) -> joined``, (..., I) and (..., J) to (..., I + J) |
| ``experts`` | ``(x_ND, chosen_NK, weight_NK, in_weight_EFD, out_weight_EDF) -> out_ND`` |
| ``linear_cross_entropy`` | ``(hidden_ND, weight_VD, target_N) -> loss`` |
| ``adamw`` | ``(parameters, *, lr) -> optimizer``, a ``torch.optim.Optimizer`` with AdamW's state |

Letters: B batch, T positions, S cache slots, H heads, K key/value heads, P head_dim, V value width (vocabulary in the
loss), N d_state (tokens in the loss), G groups of B and C, C conv channels, W taps, D d_model, Q chunk_size, and
R = H/K or H/G, the heads that share one group.

What each means is in ``reference``; the table of all that belongs to each is ``operation``. What runs is chosen by
``resolver`` and checked by ``verify`` before it is timed; what kernels keep per shape is freed by ``release``.
No third-party package is imported until one of its kernels is resolved.
"""

from __future__ import annotations

from hybridbench.kernels.backend import Backend
from hybridbench.kernels.kept import release
from hybridbench.kernels.operation import OPERATIONS, Operation, reference_of
from hybridbench.kernels.resolver import BACKENDS, DEFAULT_ORDER, Resolution, available, choose, resolve
from hybridbench.kernels.verify import Check, verify
from hybridbench.problem import Problem

__all__ = [
    "BACKENDS",
    "DEFAULT_ORDER",
    "OPERATIONS",
    "Backend",
    "Check",
    "Operation",
    "Problem",
    "Resolution",
    "available",
    "choose",
    "reference_of",
    "release",
    "resolve",
    "verify",
]
