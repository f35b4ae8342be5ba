"""layouts: the bytes of a cache as libraries and engines store it: their dtypes and columns, and their pages.

    ours            everything in the model's dtype; the conv keeps d_conv columns
    paper           arXiv 2510.04800's formulas: the same, in bf16 whatever the model's dtype
    mamba_ssm       ``Mamba2.allocate_inference_cache``: SSM and conv state in the dtype of the weights, d_conv columns
    transformers    the SSM state in float32, lightning attention's in the model's dtype, d_conv columns (transformers
                    5.23, its Mamba-2 and hybrids); a window keeps one token fewer than it sees, since the new one joins
                    when it is read
    vllm            the SSM state in the dtype that the model's file names, KDA's in float32 and lightning attention's
                    in the model's; d_conv - 1 columns; a page of attention, in multiples of 16 tokens, is as large as a
                    state (``mamba_utils.py``, ``HybridAttentionMambaModelConfig``)
    sglang          a pool of states beside the pages of attention, of one token: the SSM state in float32 unless the
                    file names another, the conv state in bfloat16, d_conv - 1 columns (``mamba_utils.py``)
    llama.cpp       keys and values in float16, in cells padded to 256; states in float32, d_conv - 1 columns
                    (``llama_hparams::n_embd_r``, ``n_embd_s``); a window keeps the tokens of a micro-batch besides
                    (``llama_kv_cache_iswa``)

A serving engine keeps its caches in pages that every layer's cache must fill whole (vLLM's hybrid cache manager: one
page size for all layers, attention pages made long enough to hold a state, states padded to that page).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from hybridbench.arch import model as arch
from hybridbench.arch.block import DTYPE_BYTES, CacheBytes, CachePart, Storage
from hybridbench.arch.kinds import BLOCKS
from hybridbench.arch.model import ModelSpec, mixers
from hybridbench.arch.stored import Dtypes
from hybridbench.errors import BadInput, unknown_name

PAGE_TOKENS = 16
"""Tokens of an attention page, vLLM's default."""
MICRO_BATCH = 512
"""llama.cpp's default ``n_ubatch``: tokens that a window has room for beside its own."""

MAMBAS = frozenset(kind for kind in BLOCKS if kind.startswith("mamba"))
"""Every version of Mamba: mamba_ssm has them all."""


@dataclass(frozen=True)
class Layout:
    """How a library or an engine stores caches.

    Args:
        kinds: of mixers that it has; None for all.
        kv, state, conv: the dtypes that it fixes; None for the model's own.
        state_least: the state's dtype, unless the model's is wider.
        state_default: the state's dtype where neither an option nor the file names one.
        own_state: kinds whose state has another dtype, with its name; empty for the model's.
        short_conv: d_conv - 1 columns.
        window_extra: tokens that a full window keeps more than it sees.
        page_tokens: of an attention page.
        aligned: states share the pages of attention.
        built: modules here keep such a cache, so that its tensors can be built.
    """

    kinds: frozenset[str] | None = None
    kv: str | None = None
    state: str | None = None
    conv: str | None = None
    state_least: str | None = None
    state_default: str | None = None
    own_state: tuple[tuple[str, str], ...] = ()
    short_conv: bool = False
    window_extra: int = 0
    page_tokens: int = PAGE_TOKENS
    aligned: bool = True
    built: bool = True


_COMMON = frozenset(("attention", "latent", "mamba2", "gated_delta", "kda", "short_conv"))

OURS = "ours"
LAYOUTS: dict[str, Layout] = {
    OURS: Layout(),
    "paper": Layout(frozenset(("attention", "mamba2")), kv="bfloat16", state="bfloat16", conv="bfloat16"),
    "mamba_ssm": Layout(frozenset(("attention", *MAMBAS)), state=""),
    "transformers": Layout(
        _COMMON | {"mamba1", "lightning", "rg_lru"},
        state_least="float32",
        own_state=(("lightning", ""),),
        window_extra=-1,
    ),
    "vllm": Layout(
        _COMMON | {"mamba1", "lightning"},
        own_state=(("kda", "float32"), ("lightning", "")),
        short_conv=True,
        built=False,
    ),
    "sglang": Layout(
        _COMMON | {"lightning"},
        conv="bfloat16",
        state_default="float32",
        short_conv=True,
        page_tokens=1,
        aligned=False,
        built=False,
    ),
    "llama.cpp": Layout(
        _COMMON | {"mamba1"},
        kv="float16",
        state="float32",
        conv="float32",
        short_conv=True,
        window_extra=MICRO_BATCH,
        page_tokens=256,
        aligned=False,
        built=False,
    ),
}
"""Every layout by its name. A fixed dtype of an empty name is that of the weights."""


def find_layout(name: str) -> Layout:
    """The layout of a name.

    Raises:
        BadInput: there is none.
    """
    if name not in LAYOUTS:
        raise unknown_name("cache layout", name, LAYOUTS)
    return LAYOUTS[name]


def missing_mixers(spec: ModelSpec, layout: Layout) -> list[str]:
    """Kinds of mixer that a model has and a library lacks."""
    kinds = dict.fromkeys(mixer.kind for _, mixer in mixers(spec))
    return [] if layout.kinds is None else [kind for kind in kinds if kind not in layout.kinds]


def layouts_of(spec: ModelSpec) -> list[str]:
    """The layouts of the libraries that have all mixers of a model."""
    return [name for name, layout in LAYOUTS.items() if not missing_mixers(spec, layout)]


def check_layout(spec: ModelSpec, name: str) -> None:
    """Check that a library has the mixers of a model.

    Raises:
        BadInput: it lacks one, or there is no such layout.
    """
    if missing := missing_mixers(spec, find_layout(name)):
        raise BadInput(
            f"--cache-layout {name}: it has no {' and no '.join(missing)}, which {spec.label} has; "
            f"give {', '.join(layouts_of(spec))}."
        )


def dtypes_in(name: str, dtypes: Dtypes, state_named: bool = True, kinds: Collection[str] = ()) -> Dtypes:
    """The dtypes of a model's caches in a layout.

    Args:
        dtypes: of the model as asked for.
        state_named: an option or the model's file names the state's dtype.
        kinds: of the model's mixers with a state; where the layout has one dtype of its own for all, that is the
            state's.

    Raises:
        BadInput: an unknown layout.
    """
    layout = find_layout(name)
    state = dtypes.state if state_named or layout.state_default is None else layout.state_default
    if layout.state is not None:
        state = layout.state or dtypes.weights
    if layout.state_least is not None:
        state = max(layout.state_least, dtypes.weights, key=DTYPE_BYTES.__getitem__)
    own = {dict(layout.own_state).get(kind, state) or dtypes.weights for kind in kinds}
    if len(own) == 1:
        (state,) = own
    return replace(dtypes, kv=layout.kv or dtypes.kv, state=state, conv=layout.conv or dtypes.conv)


def storage_of(name: str, dtypes: Dtypes) -> Storage:
    """Bytes per element and columns of each state in a layout, whose dtypes are ``dtypes_in``.

    The scales of quantised keys and values are those of modules here. An engine's are few, and left out.
    """
    layout = find_layout(name)
    own = tuple((kind, Dtypes.of(dtype or dtypes.weights).storage.ssm_bytes) for kind, dtype in layout.own_state)
    storage = replace(dtypes.storage, own_state_bytes=own, short_conv=layout.short_conv)
    return storage if name == OURS else replace(storage, kv_codes="", kv_scale_bytes=0)


def _parts(spec: ModelSpec, context: int, layout: Layout, storage: Storage) -> Iterator[CachePart]:
    """The caches of one sequence that a library allocates, one by one."""
    for block in spec.placed:
        for part in block.cache_parts(context, storage):
            extra = max(min(layout.window_extra, context - part.tokens), -part.tokens) if part.slides else 0
            # Only a window without spare cells starts and ends inside pages as it slides.
            yield replace(part, tokens=part.tokens + extra, slides=part.slides and layout.window_extra <= 0)


def layout_bytes(spec: ModelSpec, context: int, name: str, storage: Storage) -> CacheBytes:
    """Bytes one sequence keeps at a context in a layout."""
    kept = arch.cache_bytes(spec, context, storage)
    held = sum(part.tokens * part.token_bytes for part in _parts(spec, context, find_layout(name), storage))
    scales = kept.kv - arch.cache_bytes(spec, context, replace(storage, kv_scale_bytes=0)).kv
    return replace(kept, kv=held + scales)


@dataclass(frozen=True)
class Paged:
    """The bytes of a sequence's cache in pages, and why they are more than the cache's own.

    Args:
        page_tokens: tokens of an attention page, after alignment with states. page_bytes: bytes of every page; 0 where
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
    spec: ModelSpec,
    context: int,
    storage: Storage,
    page_tokens: int = PAGE_TOKENS,
    align_states: bool = True,
    name: str = "ours",
) -> Paged:
    """The pages of one sequence in a layout.

    Each attention layer takes whole pages of ``page_tokens`` tokens; a window, which slides over page borders, one more
    than it would fill. With ``align_states``, and where a model has states, all layers share one size of page: the
    tokens of an attention page grow, in multiples of ``page_tokens``, until the widest layer's page holds the largest
    state, and everything is padded to it. A model without attention keeps its states as they are.

    Raises:
        BadInput: a page of no tokens.
    """
    if page_tokens < 1:
        raise BadInput(f"page size {page_tokens}: give 1 token or more.")
    parts = list(_parts(spec, context, find_layout(name), storage))
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
