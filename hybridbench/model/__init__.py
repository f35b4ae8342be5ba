"""model: the architectures of ``arch`` in PyTorch: one file per mixer, each with the cache it keeps.

Tensor names carry their shape: B batch, T positions, S cache slots, D d_model, H heads, K KV heads, P head_dim (V where
the value's differs), N d_state, G groups, I d_inner, W taps, C conv channels, E experts, V vocabulary in logits.
"""

from hybridbench.model.build import build_model, resolve_backends
from hybridbench.model.language import LanguageModel

__all__ = ["LanguageModel", "build_model", "resolve_backends"]
