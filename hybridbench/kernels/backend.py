"""backend: one implementation of an operation, and what it must answer before it is asked.

A backend decides from a ``Problem`` alone, without tensors or work on a device, whether it supports it. If not, it
answers with a sentence, which the results table shows instead of a number.
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
from hybridbench.kernels import tuning
from hybridbench.operations.operation import Declared
from hybridbench.problem import Problem


def accepts_anything(_problem: Problem) -> str | None:
    """``unsupported`` of a backend that supports every problem."""
    return None


@dataclass(frozen=True)
class Implementation:
    """What the path of a backend names.

    Attributes:
        load: imports the backend's package and returns a callable with the operation's signature; raises
            ``Unsupported``.
        unsupported: a sentence that says why this backend does not support a problem; None where it does.
        declined: why "auto" passes it over for a problem that it supports; None where it does not.
    """

    load: Callable[[], Callable[..., Any]]
    unsupported: Callable[[Problem], str | None]
    declined: Callable[[Problem], str | None] = accepts_anything


@dataclass(frozen=True, kw_only=True)
class Backend(Declared):
    """One implementation of one operation, ready to be asked.

    Attributes:
        load, unsupported, declined: as in ``Implementation``.
        rows: how many sequences of a batch ``load``'s callable passes on at once (``by_rows``); 0 passes all.
        whole: where ``rows`` is not 0, the backend that they are passed to.
        continues: whether a scan can start from a state, which a prefill that continues from its cache needs.
    """

    load: Callable[[], Callable[..., Any]]
    unsupported: Callable[[Problem], str | None]
    declined: Callable[[Problem], str | None] = accepts_anything
    rows: int = 0
    whole: Backend | None = None
    continues: bool = True

    @property
    def ran(self) -> str:
        """Its name in records, with the number of sequences at a time if that was not the whole batch."""
        if not self.rows:
            return self.name
        return f"{self.name}, {self.rows} {'row' if self.rows == 1 else 'rows'} at a time"

    @property
    def version(self) -> str | None:
        """The installed version of ``package``, or None where it is not installed as a distribution."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return None


def imported(module: str, why: str, distribution: str = "") -> ModuleType:
    """Imports a third-party module. Where that imports Triton, ``tuning.side_by_side`` extends to it.

    Args:
        distribution: the distribution that must be installed, where another one has a module of the same name.

    Raises:
        Unsupported: it is absent or its compiled part does not load; ``why`` says what is missing. The text of the
            ``ImportError`` is kept, since a compiled extension for a wrong CUDA or torch version raises one too.
    """
    try:
        if distribution:
            importlib.metadata.version(distribution)  # raises an ImportError too
        found = importlib.import_module(module)
    except ImportError as missing:
        raise Unsupported(f"{why} ({missing})") from missing
    tuning.extend()
    return found


def own_kernel(module: str, name: str) -> Callable[[], Callable[..., Any]]:
    """The ``load`` of a function of this package's Triton kernels.

    Args:
        module: below ``hybridbench.kernels``.
    """

    def load() -> Callable[..., Any]:
        kernel: Callable[..., Any] = getattr(
            imported(f"hybridbench.kernels.{module}", "triton is not importable"), name
        )
        return kernel

    return load


def refuse_gradients(op: str, *tensors: Tensor | None) -> None:
    """Raises ``Unsupported`` where a scan from an initial state, which has no backward, would need one."""
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        raise Unsupported(f"{op} from an initial state has no gradients here; take the reference for those.")


def on_hopper() -> bool:
    """Whether PyTorch's GPU is of the Hopper generation."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9


def needs_cuda_and_float32(problem: Problem) -> str | None:
    """``unsupported`` of CUDA kernels that compute in float32 whatever the dtype of a problem."""
    if reason := needs_cuda(problem):
        return reason
    return "its kernels compute in float32" if problem.dtype == "float64" else None


def needs_cuda(problem: Problem) -> str | None:
    """``unsupported`` of a backend made of CUDA kernels."""
    if problem.device == "cuda":
        return None
    return f"its kernels run on CUDA devices only, and the device is {problem.device}"
