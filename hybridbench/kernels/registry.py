"""registry: every implementation of every operation by name, which ones can run here, and the order "auto" tries.

    >>> problem = Problem(device="cpu", dtype="float32", head_dim=64, n_heads=8, n_kv_heads=2)
    >>> resolve("attention", "auto", problem).name
    'sdpa-flash'

A named backend runs or raises ``Unsupported``. Only "auto" chooses, and what it chose is in the record. A backend that
is right on fewer sequences than a batch has runs on groups of them, and its ``ran`` says so; where it is wrong on a
single one, it cannot run (``limits``).
To add a backend, write its loader and its refusals and add one line to ``_ALL``.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend

from hybridbench.errors import BadInput, Unsupported, unknown_name
from hybridbench.kernels import adamw, attention, delta, elementwise, experts, loss, mamba3, naive, reference, ssm
from hybridbench.kernels.by_rows import in_groups
from hybridbench.kernels.problem import Backend, Problem, accepts_anything
from hybridbench.limits import beyond, rows_at_once

_Load = Callable[[], Callable[..., Any]]
_Refuses = Callable[[Problem], str | None]

INSTALL_CUDA = 'pip install "hybridbench[cuda]"'
INSTALL_FLASH_ATTN_4 = 'pip install "hybridbench[flash-attn-4]"'


def _reference(op: str) -> Backend:
    twin: Callable[..., Any] = getattr(reference, op)
    return Backend(op, "reference", "hybridbench", "", lambda: twin, accepts_anything)


def _sdpa(name: str, kernel: SDPBackend) -> Backend:
    load = lambda: attention.load_sdpa(kernel)  # noqa: E731
    return Backend("attention", name, "torch", "", load, attention.refuses_sdpa(kernel))


def _extra(op: str, name: str, package: str, load: _Load, refuses: _Refuses) -> Backend:
    return Backend(op, name, package, INSTALL_CUDA, load, refuses, dispatched=False)


def _elementwise(op: str) -> Backend:
    return Backend(op, "triton", "triton", "", lambda: elementwise.load(op), elementwise.refuses)


def _delta(op: str) -> Backend:
    return Backend(op, "triton", "triton", "", lambda: delta.load_triton(op), delta.refuses_step)


def _flex() -> Backend:
    load, refuses = attention.load_flex, attention.refuses_flex
    return Backend("attention", "flex", "torch", "", load, refuses, dispatched=False, compiles_per_length=True)


_ALL = [
    _reference("attention"),
    _sdpa("sdpa-math", SDPBackend.MATH),
    _sdpa("sdpa-flash", SDPBackend.FLASH_ATTENTION),
    _sdpa("sdpa-efficient", SDPBackend.EFFICIENT_ATTENTION),
    _sdpa("sdpa-cudnn", SDPBackend.CUDNN_ATTENTION),
    Backend("attention", "sdpa-blocks", "torch", "", attention.load_blocks, attention.refuses_blocks),
    _flex(),
    _extra("attention", "flash-attn", "flash_attn", attention.load_flash_attn, attention.refuses_flash_attn),
    Backend(
        "attention",
        "flash-attn-4",
        "flash-attn-4",
        INSTALL_FLASH_ATTN_4,
        attention.load_flash_attn_4,
        attention.refuses_flash_attn_4,
        dispatched=False,
    ),
    _reference("attention_decode"),
    Backend("attention_decode", "sdpa-mask", "torch", "", attention.load_sdpa_mask, accepts_anything),
    Backend("attention_decode", "naive", "hybridbench", "", lambda: naive.attention_decode, accepts_anything),
    _extra("attention_decode", "flash-attn", "flash_attn", attention.load_flash_decode, attention.refuses_flash_decode),
    _extra("attention_decode", "triton", "triton", attention.load_triton_decode, attention.refuses_triton_decode),
    _reference("ssd"),
    _extra("ssd", "mamba-ssm", "mamba_ssm", ssm.load_ssd, ssm.refuses_ssd),
    _reference("ssd_step"),
    _extra("ssd_step", "mamba-ssm", "mamba_ssm", ssm.load_ssd_step, ssm.refuses_ssd_step),
    _reference("conv1d"),
    _extra("conv1d", "causal-conv1d", "causal_conv1d", ssm.load_conv1d, ssm.refuses_conv1d),
    _reference("conv1d_step"),
    _extra("conv1d_step", "causal-conv1d", "causal_conv1d", ssm.load_conv1d_step, ssm.refuses_conv1d),
    _reference("mamba2_core"),
    Backend("mamba2_core", "fused", "mamba_ssm", INSTALL_CUDA, ssm.load_mamba2_fused, ssm.refuses_mamba2_fused),
    Backend("mamba2_core", ssm.ONE_PASS, "causal_conv1d", INSTALL_CUDA, ssm.load_one_pass, ssm.refuses_one_pass),
    _extra("mamba2_core", "mamba-ssm", "mamba_ssm", ssm.load_mamba2_core, ssm.refuses_mamba2_core),
    _reference("selective_scan"),
    _extra("selective_scan", "mamba-ssm", "mamba_ssm", ssm.load_selective_scan, ssm.refuses_selective_scan),
    _reference("selective_step"),
    _extra("selective_step", "mamba-ssm", "mamba_ssm", ssm.load_selective_step, ssm.refuses_ssd_step),
    _reference("mamba3_scan"),
    _extra("mamba3_scan", "mamba-ssm", "mamba_ssm", mamba3.load_mamba3_scan, mamba3.refuses_mamba3),
    _reference("mamba3_step"),
    _extra("mamba3_step", "mamba-ssm", "mamba_ssm", mamba3.load_mamba3_step, mamba3.refuses_mamba3),
    _reference("gated_delta"),
    _extra("gated_delta", "fla", "fla-core", delta.load_gated_delta, delta.refuses_gated_delta),
    _extra("gated_delta", "fla-kda", "fla-core", delta.load_gated_delta_as_kda, delta.refuses_chunked("kda")),
    _reference("gated_delta_step"),
    _delta("gated_delta_step"),
    _extra("gated_delta_step", "fla", "fla-core", delta.load_gated_delta_step, delta.refuses_step),
    _reference("kda"),
    _extra("kda", "fla", "fla-core", delta.load_kda, delta.refuses_chunked("kda")),
    _reference("kda_step"),
    _delta("kda_step"),
    _extra("kda_step", "fla", "fla-core", delta.load_kda_step, delta.refuses_step),
    _reference("norm_gate"),
    _delta("norm_gate"),
    *(maker(op) for op in elementwise.OPS for maker in (_reference, _elementwise)),
    _reference("experts"),
    Backend("experts", "grouped-mm", "torch", "", experts.load_grouped_mm, experts.refuses_grouped_mm),
    _reference("linear_cross_entropy"),
    Backend("linear_cross_entropy", "fused", "triton", "", loss.load_fused, loss.refuses_fused),
    Backend("linear_cross_entropy", "chunked", "hybridbench", "", loss.load_chunked, accepts_anything),
    _extra("linear_cross_entropy", "liger", "liger_kernel", loss.load_liger, loss.refuses_liger),
    _reference("adamw"),
    Backend("adamw", "torch", "torch", "", adamw.load_torch, accepts_anything),
    Backend("adamw", "triton", "triton", "", adamw.load_triton, adamw.refuses_triton),
]

BACKENDS: dict[str, dict[str, Backend]] = {}
"""Operation to name to backend."""
for _backend in _ALL:
    BACKENDS.setdefault(_backend.op, {})[_backend.name] = _backend

DEFAULT_ORDER: dict[str, dict[str, tuple[str, ...]]] = {
    "attention": {
        # Of heads of 64 an H200 ran, forward at 8k and 32k and backward at 8k, 509, 525 and 381 TFLOP/s with
        # flash-attn-4, 441, 456 and 326 with cuDNN, 301, 309 and 228 with flash-attn; in a window of 512 flash-attn-4
        # 295, 290 and 196, flex 219, 227 and 130, flash-attn 143, 152 and 130. flash-attn before SDPA flash: it pads
        # unequal widths and has windows. Sinks only flex has.
        "cuda": (
            "flash-attn-4",
            "sdpa-cudnn",
            "flash-attn",
            "sdpa-flash",
            "flex",
            "sdpa-efficient",
            "sdpa-math",
            "reference",
        ),
        # the flash kernel is blocked and threaded, with windows, sinks and unequal widths too; not the math kernel,
        # which takes H x T x T
        "cpu": ("sdpa-flash", "sdpa-blocks", "reference"),
    },
    "attention_decode": {
        # Of the 1B Transformer's cache at 4k, 32k and 128k an H200 read 2.4, 3.8 and 4.3 TB/s with triton, and 1.5, 3.0
        # and 3.5 with flash-attn. These two read the live part only, the mask all of it; naive is for mode published.
        "cuda": ("triton", "flash-attn", "sdpa-mask", "naive", "reference"),
        # no float32 copy of the cache at each step, as the reference makes
        "cpu": ("sdpa-mask", "reference"),
    },
    # the published kernels, then plain PyTorch: there is nothing in between
    "ssd": {"cuda": ("mamba-ssm", "reference"), "cpu": ("reference",)},
    "ssd_step": {"cuda": ("mamba-ssm", "reference"), "cpu": ("reference",)},
    "conv1d": {"cuda": ("causal-conv1d", "reference"), "cpu": ("reference",)},
    "conv1d_step": {"cuda": ("causal-conv1d", "reference"), "cpu": ("reference",)},
    # without a fused one, its parts are resolved in its place
    "mamba2_core": {"cuda": (ssm.ONE_PASS, "fused", "mamba-ssm", "reference"), "cpu": ("reference",)},
    **{op: {"cuda": ("mamba-ssm", "reference"), "cpu": ("reference",)} for op in ("selective_scan", "selective_step")},
    **{op: {"cuda": ("mamba-ssm", "reference"), "cpu": ("reference",)} for op in ("mamba3_scan", "mamba3_step")},
    "gated_delta": {"cuda": ("fla", "fla-kda", "reference"), "cpu": ("reference",)},
    "kda": {"cuda": ("fla", "reference"), "cpu": ("reference",)},
    # in place, where fla's kernel writes a new state in float32 that is then copied
    **{op: {"cuda": ("triton", "fla", "reference"), "cpu": ("reference",)} for op in ("gated_delta_step", "kda_step")},
    "norm_gate": {"cuda": ("triton", "reference"), "cpu": ("reference",)},
    # one pass over memory each
    **{op: {"cuda": ("triton", "reference"), "cpu": ("reference",)} for op in elementwise.OPS},
    "experts": {"cuda": ("grouped-mm", "reference"), "cpu": ("grouped-mm", "reference")},
    # whole logits last: they are what makes long training steps run out of memory
    "linear_cross_entropy": {"cuda": ("fused", "liger", "chunked", "reference"), "cpu": ("chunked", "reference")},
    # one pass in float32; torch's kernel computes in float64 in part, which takes three times as long
    "adamw": {"cuda": ("triton", "torch", "reference"), "cpu": ("torch", "reference")},
}
"""Operation to device to the names "auto" tries, in order."""


def available(backend: Backend, problem: Problem | None = None) -> str | None:
    """Why ``backend`` cannot run here (on ``problem``, if given), as a sentence without a full stop; None if it can."""
    if problem is not None:
        if reason := backend.refuses(problem):
            return reason
        if reason := beyond(backend.op, backend.name, problem):
            return reason
        if problem.device == "cuda" and not torch.cuda.is_available():
            return "PyTorch finds no CUDA device on this machine"
    try:
        backend.load()
    except Unsupported as missing:
        return f"{missing}; install it with: {backend.install}" if backend.install else str(missing)
    return None


def resolve(op: str, asked: str, problem: Problem) -> Backend:
    """The backend that will run ``op`` on ``problem``, in groups of sequences where it is right on those only.

    Args:
        asked: ``"auto"``, a name of ``BACKENDS[op]``, or ``package.module:function`` for a callable of one's own with
            the operation's signature.

    Raises:
        BadInput: no such operation or name.
        Unsupported: the named backend cannot do this here; the text says why and what can.
    """
    if op not in BACKENDS:
        raise unknown_name("operation", op, BACKENDS)
    if ":" in asked:
        return by_path(op, asked)
    if asked == "auto":
        reasons = []
        for name in DEFAULT_ORDER[op][problem.device]:
            reason = available(BACKENDS[op][name], problem)
            if reason is None:
                return _right_at_size(BACKENDS[op][name], problem)
            reasons.append(f"{name}: {reason}")
        raise Unsupported(f"no {op} backend can run here. {'. '.join(reasons)}.")
    if asked not in BACKENDS[op]:
        raise unknown_name(f"{op} backend", asked, [*BACKENDS[op], "auto"])
    if reason := available(BACKENDS[op][asked], problem):
        others = [name for name, other in BACKENDS[op].items() if available(other, problem) is None]
        can = f"What can run here: {', '.join(others)}" if others else "No other backend can run it here either"
        raise Unsupported(f"{op} backend '{asked}' cannot run here: {reason}. {can}.")
    return _right_at_size(BACKENDS[op][asked], problem)


def _right_at_size(backend: Backend, problem: Problem) -> Backend:
    """The backend, handed as many sequences at a time as it is right on; of one, ``available`` made sure."""
    rows = rows_at_once(backend.op, backend.name, problem)
    return backend if rows >= problem.batch else in_groups(backend, rows)


def by_path(op: str, path: str) -> Backend:
    """A backend from ``package.module:function``; it refuses nothing and is verified like any other.

    A scan without a parameter for an initial state is taken too: it is never given one.

    Raises:
        BadInput: the module cannot be imported or has no such function.
    """
    module_name, _, function_name = path.partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as problem:
        raise BadInput(
            f"{op} kernel '{path}' cannot be loaded ({problem}); write it as package.module:function, importable here."
        ) from problem
    package = module_name.partition(".")[0]
    continues = _takes_initial_state(op, function)
    kernel = function if continues else _from_nothing(op, path, function)
    return Backend(op, path, package, "", lambda: kernel, accepts_anything, dispatched=False, continues=continues)


def _takes_initial_state(op: str, function: Callable[..., Any]) -> bool:
    """Whether a function has the operation's parameter for a state to start from, where the operation has one."""
    wanted = {name for name in inspect.signature(getattr(reference, op)).parameters if name.startswith("initial")}
    try:
        given = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a compiled function may have no signature that Python sees
        return True
    return wanted <= given.keys() or any(one.kind is one.VAR_KEYWORD for one in given.values())


def _from_nothing(op: str, path: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A scan that starts from an empty state only."""

    def call(*given: Any, **options: Any) -> Any:
        started = {name for name, value in options.items() if name.startswith("initial") and value is not None}
        if started:
            raise Unsupported(f"{op} kernel '{path}' has no parameter {min(started)}, to start from a state.")
        return function(*given, **{name: value for name, value in options.items() if not name.startswith("initial")})

    return call
