"""problem: what an operation is asked to do, and what a backend must answer before it is asked.

A backend says yes or no from a ``Problem`` alone: no tensors, no device work. What it says no to is a sentence, because
the sentence ends up in a results table where the number would have been.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from hybridbench.errors import Unsupported
from hybridbench.kernels.tuning import compile_side_by_side


@dataclass(frozen=True)
class Problem:
    """What one operation is asked to do: enough for a backend to say yes or no. Zero means not applicable.

    Attributes:
        device: ``"cpu"`` or ``"cuda"``.
        dtype: of the activations: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"float64"``.
        head_dim: P, the width of a query, key or SSM head.
        v_head_dim: V, the width of a value head; 0 means the same as ``head_dim``.
        n_heads: H, query or SSM heads.
        width: D of a norm, F of a gated activation, the channels of a gate.
        n_kv_heads: K, key/value heads; 0 means as many as ``n_heads``.
        window: a query sees this many latest keys, itself included; None sees all.
        sinks: the first keys that stay visible outside the window.
        d_state: N, columns of the SSM state.
        n_groups: G, groups of B and C vectors.
        n_angles: R, rotary angles a head of Mamba-3 turns B and C by.
        chunk_size: Q, positions per chunk of the SSD scan.
        d_conv: W, taps of the depthwise convolution.
        training: gradients are needed.
        length: the longest sequence or cache, in tokens; 0 is unknown.
    """

    device: str
    dtype: str
    head_dim: int = 0
    v_head_dim: int = 0
    n_heads: int = 0
    n_kv_heads: int = 0
    window: int | None = None
    sinks: int = 0
    d_state: int = 0
    n_groups: int = 1
    chunk_size: int = 0
    d_conv: int = 0
    training: bool = False
    length: int = 0
    width: int = 0
    n_angles: int = 0

    @property
    def value_dim(self) -> int:
        """V, the width of a value head."""
        return self.v_head_dim or self.head_dim

    @property
    def kv_heads(self) -> int:
        """K, the number of key/value heads."""
        return self.n_kv_heads or self.n_heads


@dataclass(frozen=True)
class Backend:
    """One implementation of one operation.

    Attributes:
        op: the operation's name, a key of ``BACKENDS``.
        name: what a person types after ``--backend OP=``.
        package: the distribution it comes from (``"torch"`` and ``"hybridbench"`` included).
        install: the command that installs that distribution; empty when there is nothing to install.
        load: returns the callable with the operation's signature, importing its package; raises ``Unsupported``.
        refuses: a sentence why this backend cannot do a problem, or None.
        dispatched: whether its arithmetic passes through PyTorch's dispatcher, where operator counters see it.
        compiles_per_length: whether every new length costs a compilation, so that few are tried.
    """

    op: str
    name: str
    package: str
    install: str
    load: Callable[[], Callable[..., Any]]
    refuses: Callable[[Problem], str | None]
    dispatched: bool = True
    compiles_per_length: bool = False

    @property
    def version(self) -> str | None:
        """The installed version of ``package``, or None where it is not installed as a distribution."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return None


def imported(module: str, why: str, distribution: str = "") -> ModuleType:
    """Import a third party's module. Where it brings Triton's kernels, those that tune themselves compile side by side.

    Args:
        distribution: that must be installed, where another one brings a module of the same name.

    Raises:
        Unsupported: it is absent or its compiled part does not load; ``why`` says what is missing. An ``ImportError``
            of a compiled extension (a wrong CUDA or torch version) reads the same as an absent package, so its own
            text is kept.
    """
    try:
        if distribution:
            importlib.metadata.version(distribution)  # what it raises is an ImportError too
        found = importlib.import_module(module)
    except ImportError as missing:
        raise Unsupported(f"{why} ({missing})") from missing
    compile_side_by_side()
    return found


def refuse_gradients(op: str, *tensors: Tensor | None) -> None:
    """Raises ``Unsupported`` where a scan from an initial state, which goes forward only, would need a backward."""
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        raise Unsupported(f"{op} from an initial state has no gradients here; take the reference for those.")


def accepts_anything(_problem: Problem) -> str | None:
    """The refusal of a backend that refuses nothing."""
    return None


def on_hopper() -> bool:
    """Whether PyTorch's GPU is of the Hopper generation."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9


def needs_cuda(problem: Problem) -> str | None:
    """The refusal of a backend made of CUDA kernels."""
    if problem.device == "cuda":
        return None
    return f"its kernels run on CUDA devices only, and the device is {problem.device}"
