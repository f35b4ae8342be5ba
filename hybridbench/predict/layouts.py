"""layouts: the bytes of a cache as other libraries store it: their dtypes and columns, and a serving engine's pages.

    ours            everything in the model's dtype; the conv keeps d_conv columns
    paper           arXiv 2510.04800's formulas: the same, in bf16 whatever the model's dtype
    mamba_ssm       ``Mamba2.allocate_inference_cache``: SSM and conv state in the dtype of the weights, d_conv columns
    transformers    the SSM state in float32, d_conv columns (transformers 5.23 ``Mamba2`` and its hybrids); a window
                    keeps one token fewer than it sees, since the new one joins when it is read

A serving engine keeps its caches in pages that every layer's cache must fill whole (vLLM's hybrid cache manager: one
page size for all layers, attention pages made long enough to hold a state, states padded to that page).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hybridbench.arch import model as arch
from hybridbench.arch.block import CacheBytes, Storage
from hybridbench.arch.model import ModelSpec
from hybridbench.errors import BadInput, unknown_name

LAYOUTS = ("ours", "paper", "mamba_ssm", "transformers")
PAGE_TOKENS = 16
"""Tokens of an attention page, vLLM's default."""


def storage_of(layout: str, dtype: str = "bfloat16", state_dtype: str | None = None) -> Storage:
    """Bytes per element and columns of each state in a layout.

    Raises:
        BadInput: an unknown layout, or a state dtype for a layout that fixes its own.
    """
    if layout not in LAYOUTS:
        raise unknown_name("cache layout", layout, LAYOUTS)
    if state_dtype is not None and layout != "ours":
        raise BadInput(f"--state-dtype with layout {layout}: that layout fixes the dtype of the SSM state.")
    if layout == "paper":
        return Storage.of("bfloat16")
    storage = Storage.of(dtype, state_dtype)
    return replace(storage, ssm_bytes=max(4, storage.ssm_bytes)) if layout == "transformers" else storage


def layout_bytes(spec: ModelSpec, context: int, layout: str, storage: Storage) -> CacheBytes:
    """Bytes one sequence keeps at a context in a layout."""
    kept = arch.cache_bytes(spec, context, storage)
    if layout != "transformers":
        return kept
    short = sum(
        n * part.token_bytes for block, n in spec.uses for part in block.cache_parts(context, storage) if part.slides
    )
    return kept + CacheBytes(kv=-short)


@dataclass(frozen=True)
class Paged:
    """The bytes of a sequence's cache in pages, and why they are more than the cache's own.

    Args:
        page_tokens: tokens of an attention page once states are aligned with; ``page_bytes`` of any page, 0 where
            states are not aligned with attention.
        bytes: bytes of the cache itself.
        last_pages: unused bytes in the last pages of sequences and windows.
        padding: bytes that pad states and narrower attention layers to a page.
    """

    page_tokens: int
    page_bytes: int
    bytes: int
    last_pages: int
    padding: int

    @property
    def total(self) -> int:
        """Bytes that have to be reserved."""
        return self.bytes + self.last_pages + self.padding


def paged(
    spec: ModelSpec, context: int, storage: Storage, page_tokens: int = PAGE_TOKENS, align_states: bool = True
) -> Paged:
    """The pages of one sequence.

    Each attention layer takes whole pages of ``page_tokens`` tokens; a window, which slides over page borders, one more
    than it would fill. With ``align_states``, and where a model has states, all layers share one size of page: the
    tokens of an attention page grow, in multiples of ``page_tokens``, until the widest layer's page holds the largest
    state, and everything is padded to it. A model without attention keeps its states as they are.

    Raises:
        BadInput: a page of no tokens.
    """
    if page_tokens < 1:
        raise BadInput(f"page size {page_tokens}: give 1 token or more.")
    parts = [part for block in spec.placed for part in block.cache_parts(context, storage)]
    widest = max((part.token_bytes for part in parts), default=0)
    state = max((part.state_bytes for part in parts), default=0)
    aligned = align_states and bool(state) and bool(widest)
    tokens = page_tokens * max(1, -(-state // (widest * page_tokens))) if aligned else page_tokens
    page_bytes = tokens * widest if aligned else 0
    held = last = padding = 0
    for part in parts:
        held += part.tokens * part.token_bytes + part.state_bytes
        if part.state_bytes:
            padding += page_bytes - part.state_bytes if aligned else 0
            continue
        pages = -(-part.tokens // tokens)
        if part.slides:
            pages = -(-part.sinks // tokens) + -(-(part.tokens - part.sinks - 1) // tokens) + 1
        last += pages * tokens * part.token_bytes - part.tokens * part.token_bytes
        padding += pages * (page_bytes - tokens * part.token_bytes) if aligned else 0
    return Paged(tokens, page_bytes, held, last, padding)
