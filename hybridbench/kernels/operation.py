"""operation: every operation, one row each: what it means, how it is drawn, checked and traced, and what can run it.

What is said of an operation is said in its row of ``OPERATIONS``: ``verify`` draws and judges by it, ``resolver``
chooses among its backends, ``trace`` finds its time, ``count`` and ``model.checkpoint`` read the rest. Only its name
stands elsewhere too, in ``suite``, which says without PyTorch what each kind of block asks for.

    >>> ssd = OPERATIONS["ssd"]
    >>> ssd.order["cuda"], ssd.order["cpu"], ssd.outputs
    (('mamba-ssm', 'reference'), ('reference',), 2)

To add a backend, write its loader and its refusals and add one line to the row, at its rank on a GPU. To add an
operation, write its reference implementation, draw its inputs and add a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch.nn.attention import SDPBackend

from hybridbench.kernels import again
from hybridbench.kernels.again import Again
from hybridbench.kernels.attention import blocks, flash_attn, flex, naive, sdpa, split_kv
from hybridbench.kernels.attention import inputs as attention_inputs
from hybridbench.kernels.attention import reference as attention_reference
from hybridbench.kernels.backend import Backend, accepts_anything
from hybridbench.kernels.delta import fla, own
from hybridbench.kernels.delta import inputs as delta_inputs
from hybridbench.kernels.delta import reference as delta_reference
from hybridbench.kernels.dense import elementwise, experts
from hybridbench.kernels.dense import inputs as dense_inputs
from hybridbench.kernels.dense import reference as dense_reference
from hybridbench.kernels.drawing import Draw, Trial
from hybridbench.kernels.loss import chunked, liger
from hybridbench.kernels.loss import inputs as loss_inputs
from hybridbench.kernels.loss import reference as loss_reference
from hybridbench.kernels.optimizer import adamw
from hybridbench.kernels.optimizer import inputs as optimizer_inputs
from hybridbench.kernels.optimizer import reference as optimizer_reference
from hybridbench.kernels.scan import core, mamba3, published
from hybridbench.kernels.scan import inputs as scan_inputs
from hybridbench.kernels.scan import reference as scan_reference
from hybridbench.problem import Problem

INSTALL_CUDA = 'pip install "hybridbench[cuda]"'
INSTALL_FLASH_ATTN_4 = 'pip install "hybridbench[flash-attn-4]"'

ATTENTION, SCAN, CONV, MATMUL, LOSS = "attention", "scan", "conv", "matrix products", "loss"
OPTIMIZER, REST = "optimizer", "norm and elementwise"
"""Classes of time in a trace."""

PLAIN = "reference"
"""The name of the backend that is an operation's reference implementation."""


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        name: a key of ``OPERATIONS``.
        reference: the plain PyTorch implementation that says what the operation means.
        draw: its random inputs for a problem, one trial after the other.
        spends: the class its time belongs to in a trace.
        backends: what can run it besides the reference implementation, in the order "auto" tries them on a GPU.
        cpu_only: what can run it on a CPU and never on a GPU.
        on_cpu: the names of those "auto" tries on a CPU, in order.
        kernels: regular expressions of names of kernels that do its class of work.
        outputs: how many tensors it returns.
        sequences: whether it is over sequences that know nothing of each other, so that some of a batch can run alone.
        cancels: tensors whose gradient is a sum of terms that nearly cancel, to how many times the bound it may be off.
        sums: parameters whose gradient is the plain sum, over batch and positions, of another tensor's gradient.
        again: how its outputs are made again where they are not worth keeping; None where they are.
    """

    name: str
    reference: Callable[..., Any]
    draw: Callable[[Problem, Draw], Iterator[Trial]]
    spends: str
    backends: tuple[Backend, ...] = ()
    cpu_only: tuple[Backend, ...] = ()
    on_cpu: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    outputs: int = 1
    sequences: bool = False
    cancels: Mapping[str, float] = field(default_factory=dict)
    sums: Mapping[str, str] = field(default_factory=dict)
    again: Again | None = None

    @property
    def order(self) -> dict[str, tuple[str, ...]]:
        """Device to the names "auto" tries, in order. The reference implementation runs anywhere and comes last."""
        return {"cuda": (*(backend.name for backend in self.backends), PLAIN), "cpu": (*self.on_cpu, PLAIN)}

    @property
    def by_name(self) -> dict[str, Backend]:
        """Every backend by its name, the reference implementation first."""
        plain = Backend(self.name, PLAIN, "hybridbench", "", lambda: self.reference, accepts_anything)
        others = (*self.backends, *self.cpu_only)
        return {PLAIN: plain} | {backend.name: replace(backend, op=self.name) for backend in others}


_Load = Callable[[], Callable[..., Any]]
_Refuses = Callable[[Problem], str | None]


# What rows are made of. A backend gets its operation's name from the row it stands in.


def _own(name: str, package: str, load: _Load, refuses: _Refuses = accepts_anything) -> Backend:
    """A backend of PyTorch, or written here."""
    return Backend("", name, package, "", load, refuses)


def _public(name: str, package: str, load: _Load, refuses: _Refuses, install: str = INSTALL_CUDA) -> Backend:
    """A package's kernel, which no operator counter sees."""
    return Backend("", name, package, install, load, refuses, dispatched=False)


def _sdpa(name: str, kernel: SDPBackend) -> Backend:
    return _own(name, "torch", lambda: sdpa.load_sdpa(kernel), sdpa.refuses_sdpa(kernel))


def _elementwise(op: str) -> Backend:
    return _own("triton", "triton", lambda: elementwise.load(op), elementwise.refuses)


def _delta(op: str) -> Backend:
    return _own("triton", "triton", lambda: own.load_triton(op), fla.refuses_step)


_FLEX = Backend("", "flex", "torch", "", flex.load_flex, flex.refuses_flex, dispatched=False, compiles_per_length=True)

_SUMS_DT = {"dt_bias_H": "dt_BTH"}

_ROWS = (
    Operation(
        "attention",
        attention_reference.attention,
        attention_inputs.attention,
        ATTENTION,
        # Of heads of 64 an H200 ran, forward at 8k and 32k and backward at 8k, 509, 525 and 381 TFLOP/s with
        # flash-attn-4, 441, 456 and 326 with cuDNN, 301, 309 and 228 with flash-attn; in a window of 512 flash-attn-4
        # 295, 290 and 196, flex 219, 227 and 130, flash-attn 143, 152 and 130. flash-attn before SDPA flash: it pads
        # unequal widths and has windows. Sinks only flex has.
        backends=(
            _public(
                "flash-attn-4",
                "flash-attn-4",
                flash_attn.load_flash_attn_4,
                flash_attn.refuses_flash_attn_4,
                INSTALL_FLASH_ATTN_4,
            ),
            _sdpa("sdpa-cudnn", SDPBackend.CUDNN_ATTENTION),
            _public("flash-attn", "flash_attn", flash_attn.load_flash_attn, flash_attn.refuses_flash_attn),
            _sdpa("sdpa-flash", SDPBackend.FLASH_ATTENTION),
            _FLEX,
            _sdpa("sdpa-efficient", SDPBackend.EFFICIENT_ATTENTION),
            _sdpa("sdpa-math", SDPBackend.MATH),
        ),
        cpu_only=(_own("sdpa-blocks", "torch", blocks.load_blocks, blocks.refuses_blocks),),
        # the flash kernel is blocked and threaded, with windows, sinks and unequal widths too; not the math kernel,
        # which takes H x T x T
        on_cpu=("sdpa-flash", "sdpa-blocks"),
        kernels=("flash", "fmha", "attention", "sdpa", "cudnn::fusion"),
        sequences=True,
    ),
    Operation(
        "attention_decode",
        attention_reference.attention_decode,
        attention_inputs.attention_decode,
        ATTENTION,
        # Of the 1B Transformer's cache at 4k, 32k and 128k an H200 read 2.4, 3.8 and 4.3 TB/s with triton, and 1.5, 3.0
        # and 3.5 with flash-attn. These two read the live part only, the mask all of it; naive is for mode published.
        backends=(
            _public("triton", "triton", split_kv.load_triton_decode, split_kv.refuses_triton_decode),
            _public("flash-attn", "flash_attn", flash_attn.load_flash_decode, flash_attn.refuses_flash_decode),
            _own("sdpa-mask", "torch", sdpa.load_sdpa_mask),
            _own("naive", "hybridbench", lambda: naive.attention_decode),
        ),
        # no float32 copy of the cache at each step, as the reference makes
        on_cpu=("sdpa-mask",),
        sequences=True,
    ),
    # Of the scans and convolutions the published kernels, then plain PyTorch: there is nothing in between.
    Operation(
        "ssd",
        scan_reference.ssd,
        scan_inputs.ssd,
        SCAN,
        backends=(_public("mamba-ssm", "mamba_ssm", published.load_ssd, published.refuses_ssd),),
        kernels=("chunk_(scan|state|cumsum)", "state_passing", "bmm_chunk", "ssd"),
        outputs=2,
        sequences=True,
        sums=_SUMS_DT,
    ),
    Operation(
        "ssd_step",
        scan_reference.ssd_step,
        scan_inputs.ssd_step,
        SCAN,
        backends=(_public("mamba-ssm", "mamba_ssm", published.load_ssd_step, published.refuses_ssd_step),),
        kernels=("update_state",),
        sequences=True,
    ),
    Operation(
        "conv1d",
        scan_reference.conv1d,
        scan_inputs.conv1d,
        CONV,
        backends=(_public("causal-conv1d", "causal_conv1d", published.load_conv1d, published.refuses_conv1d),),
        kernels=("causal_conv1d", "conv1d", "convolution"),
        sequences=True,
        again=again.of_whole,
    ),
    Operation(
        "conv1d_step",
        scan_reference.conv1d_step,
        scan_inputs.conv1d_step,
        CONV,
        backends=(_public("causal-conv1d", "causal_conv1d", published.load_conv1d_step, published.refuses_conv1d),),
        sequences=True,
    ),
    Operation(
        "mamba2_core",
        scan_reference.mamba2_core,
        scan_inputs.mamba2_core,
        SCAN,
        # without a fused one, its parts are resolved in its place
        backends=(
            replace(
                _own(core.ONE_PASS, "causal_conv1d", core.load_one_pass, core.refuses_one_pass), install=INSTALL_CUDA
            ),
            replace(
                _own("fused", "mamba_ssm", core.load_mamba2_fused, core.refuses_mamba2_fused), install=INSTALL_CUDA
            ),
            _public("mamba-ssm", "mamba_ssm", core.load_mamba2_core, core.refuses_mamba2_core),
        ),
        kernels=(r"^scan_(forward|reverse|steps|finish|d_[xbc])_kernel$",),
        outputs=2,
        sequences=True,
        sums=_SUMS_DT,
        again=again.of_core,
    ),
    Operation(
        "selective_scan",
        scan_reference.selective_scan,
        scan_inputs.selective_scan,
        SCAN,
        backends=(_public("mamba-ssm", "mamba_ssm", published.load_selective_scan, published.refuses_selective_scan),),
        kernels=("selective_(scan|state)",),
        outputs=2,
        sequences=True,
        sums={"dt_bias_I": "dt_BTI"},
    ),
    Operation(
        "selective_step",
        scan_reference.selective_step,
        scan_inputs.selective_step,
        SCAN,
        backends=(_public("mamba-ssm", "mamba_ssm", published.load_selective_step, published.refuses_ssd_step),),
        sequences=True,
    ),
    Operation(
        "mamba3_scan",
        scan_reference.mamba3_scan,
        scan_inputs.mamba3_scan,
        SCAN,
        backends=(_public("mamba-ssm", "mamba_ssm", mamba3.load_mamba3_scan, mamba3.refuses_mamba3),),
        kernels=("mamba3_siso_", "angle_dt_"),
        outputs=5,
        sequences=True,
        # Turning C and B alike from some position on changes nothing among the positions after it. What the public
        # kernels round, emulated beside exact arithmetic, makes 1.6% of this gradient at length 65, 3.3% at 1024; an
        # H200 3.9%.
        cancels={"angle_BTR": 3},
        sums=_SUMS_DT,
    ),
    Operation(
        "mamba3_step",
        scan_reference.mamba3_step,
        scan_inputs.mamba3_step,
        SCAN,
        backends=(_public("mamba-ssm", "mamba_ssm", mamba3.load_mamba3_step, mamba3.refuses_mamba3),),
        sequences=True,
    ),
    Operation(
        "gated_delta",
        delta_reference.gated_delta,
        delta_inputs.gated_delta,
        SCAN,
        backends=(
            _public("fla", "fla-core", fla.load_gated_delta, fla.refuses_gated_delta),
            _public("fla-kda", "fla-core", fla.load_gated_delta_as_kda, fla.refuses_chunked("kda")),
        ),
        # flash-linear-attention's parts of a delta rule
        kernels=(
            "chunk_gated",
            "chunk_(local_cumsum|(fwd|bwd)_kernel)",
            "gdn_gate",
            "l2norm_",
            "recompute_w_u",
            "prepare_wy",
            "merge_16x16",
            "solve_tril",
        ),
        outputs=2,
        sequences=True,
        sums=_SUMS_DT,
    ),
    Operation(
        "gated_delta_step",
        delta_reference.gated_delta_step,
        delta_inputs.gated_delta_step,
        SCAN,
        # in place, where fla's kernel writes a new state in float32 that is then copied
        backends=(
            _delta("gated_delta_step"),
            _public("fla", "fla-core", fla.load_gated_delta_step, fla.refuses_step),
        ),
        kernels=("fused_(beta_sigmoid|recurrent)", "_delta_step"),
        sequences=True,
    ),
    Operation(
        "kda",
        delta_reference.kda,
        delta_inputs.kda,
        SCAN,
        backends=(_public("fla", "fla-core", fla.load_kda, fla.refuses_chunked("kda")),),
        kernels=("chunk_(kda|gla)", "kda_gate"),
        outputs=2,
        sequences=True,
        sums={"dt_bias_HP": "dt_BTHP"},
    ),
    Operation(
        "kda_step",
        delta_reference.kda_step,
        delta_inputs.kda_step,
        SCAN,
        backends=(_delta("kda_step"), _public("fla", "fla-core", fla.load_kda_step, fla.refuses_step)),
        sequences=True,
    ),
    Operation(
        "norm_gate",
        delta_reference.norm_gate,
        delta_inputs.norm_gate,
        REST,
        backends=(_delta("norm_gate"),),
        again=again.of_whole,
    ),
    # What stands between products: one pass over memory each.
    Operation(
        "swiglu",
        dense_reference.swiglu,
        dense_inputs.swiglu,
        REST,
        backends=(_elementwise("swiglu"),),
        again=again.of_whole,
    ),
    Operation(
        "add_rms_norm",
        dense_reference.add_rms_norm,
        dense_inputs.add_rms_norm,
        REST,
        backends=(_elementwise("add_rms_norm"),),
        outputs=2,
        again=again.of_norm,
    ),
    Operation(
        "rotary",
        dense_reference.rotary,
        dense_inputs.rotary,
        REST,
        backends=(_elementwise("rotary"),),
        outputs=3,
    ),
    Operation(
        "gate",
        dense_reference.gate,
        dense_inputs.gate,
        REST,
        backends=(_elementwise("gate"),),
        again=again.of_whole,
    ),
    Operation(
        "head_norms",
        dense_reference.head_norms,
        dense_inputs.head_norms,
        REST,
        backends=(_elementwise("head_norms"),),
        again=again.of_whole,
    ),
    Operation(
        "experts",
        dense_reference.experts,
        dense_inputs.experts,
        MATMUL,
        backends=(_own("grouped-mm", "torch", experts.load_grouped_mm, experts.refuses_grouped_mm),),
        on_cpu=("grouped-mm",),
        kernels=("::_grouped_mm$",),
    ),
    Operation(
        "linear_cross_entropy",
        loss_reference.linear_cross_entropy,
        loss_inputs.linear_cross_entropy,
        LOSS,
        # whole logits last: they are what makes long training steps run out of memory
        backends=(
            _own("fused", "triton", chunked.load_fused, chunked.refuses_fused),
            _public("liger", "liger_kernel", liger.load_liger, liger.refuses_liger),
            _own("chunked", "hybridbench", chunked.load_chunked),
        ),
        on_cpu=("chunked",),
        kernels=("^_scaled$", "cross_entropy", "log_softmax", "nll_loss", "logsumexp"),
    ),
    Operation(
        "adamw",
        optimizer_reference.adamw,
        optimizer_inputs.adamw,
        OPTIMIZER,
        # one pass in float32; torch's kernel computes in float64 in part, which takes three times as long
        backends=(
            _own("triton", "triton", adamw.load_triton, adamw.refuses_triton),
            _own("torch", "torch", adamw.load_torch),
        ),
        on_cpu=("torch",),
        kernels=("multi_tensor_apply", "adam", "_foreach_"),
    ),
)

OPERATIONS = {row.name: row for row in _ROWS}
"""Every operation by its name."""


def reference_of(op: str) -> Callable[..., Any]:
    """An operation's reference implementation."""
    return OPERATIONS[op].reference
