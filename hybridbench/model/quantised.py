"""quantised: weights of products in codes of 8 bits with a scale for each row: how they are made, held and read.

A format is a row of ``arch.weights.SCHEMES`` with ``codes``, from which predictions count its bytes. Modules multiply
by the dequantised matrix, which they make anew for each product: that is what the fused step's kernels are held to.
Those load codes, convert them to float16 in registers (``kernels.triton_narrow``), multiply by activations in float16,
and scale the sums. 8 bits are exact in 16. The rows of a step are so few that memory bounds it: tensor cores for 8
bits would make nothing faster, and need activations in 8 bits too.

A scale is the largest of its row over the largest code. Blocks within a row make E4M3 no better, whose rounding is
relative: 6.1e-2 of the logits by rows, 6.2e-2 by blocks of 128 x 128, 6.4e-2 by matrices (transformer, tiny).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from hybridbench.arch.weights import SCHEMES, Scheme
from hybridbench.errors import WrongResult
from hybridbench.model.block import BlockModule
from hybridbench.sizes import DEQUANTISED_ELEMENTS


def largest(codes: torch.dtype) -> float:
    """The largest code."""
    return float(torch.finfo(codes).max if codes.is_floating_point else torch.iinfo(codes).max)


def coded(x: Tensor, codes: torch.dtype) -> Tensor:
    """Scaled numbers in float32 as codes, the nearest ones; beyond the largest code they are that one."""
    most = largest(codes)
    x = x.clamp(-most, most)
    return (x if codes.is_floating_point else x.round()).to(codes)


def quantise_rows(matrix_RK: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Codes (R, K) and scales (R) of a matrix; the scales are float32, or bfloat16 where the scheme has two bytes."""
    codes: torch.dtype = getattr(torch, scheme.codes)
    wide = matrix_RK.float()
    scale_R = wide.abs().amax(-1) * (1 / largest(codes))  # a GPU rounds a quotient by a number in another way
    scale_R = torch.where(scale_R > 0, scale_R, 1.0).to(torch.float32 if scheme.scale_bytes == 4 else torch.bfloat16)
    return coded(wide / scale_R.float()[:, None], codes), scale_R


def dequantise(codes_RK: Tensor, scale_R: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix that codes and scales stand for, rounded to a dtype; some rows at a time, so that float32 fits."""
    plain = torch.empty(codes_RK.shape, dtype=dtype, device=codes_RK.device)
    rows = max(1, DEQUANTISED_ELEMENTS // codes_RK.shape[1])
    for first in range(0, codes_RK.shape[0], rows):
        part = slice(first, first + rows)
        plain[part] = codes_RK[part].float() * scale_R[part].float()[:, None]
    return plain


@dataclass(frozen=True)
class Weight:
    """A matrix as kernels read it: (R, K), of codes where ``scale_R`` is given, and the name of their scheme."""

    matrix_RK: Tensor
    scale_R: Tensor | None = None
    scheme: str = ""

    def from_column(self, first: int) -> Weight:
        """Its columns from ``first`` on."""
        return Weight(self.matrix_RK[:, first:], self.scale_R, self.scheme)


class QuantisedLinear(nn.Module):
    """A projection in place of an ``nn.Linear``, whose ``weight`` is made anew from codes whenever it is asked for.

    ``error`` is the relative error of the dequantised matrix.
    """

    scale_R: Tensor

    def __init__(self, linear: nn.Linear, scheme: Scheme) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scheme, self.dtype = scheme, linear.weight.dtype
        self.codes, scale_R, self.error = quantised(linear.weight, scheme)
        self.register_buffer("scale_R", scale_R)

    @property
    def weight(self) -> Tensor:
        """The dequantised matrix."""
        return dequantise(self.codes, self.scale_R, self.dtype)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


def stored(linear: nn.Module) -> Weight:
    """The weight of a projection as it is stored."""
    if isinstance(linear, QuantisedLinear):
        return Weight(linear.codes, linear.scale_R, linear.scheme.name)
    assert isinstance(linear, nn.Linear)
    return Weight(linear.weight)


def dtype_of(linear: nn.Module) -> torch.dtype:
    """The dtype in which a projection computes."""
    if isinstance(linear, QuantisedLinear):
        return linear.dtype
    assert isinstance(linear, nn.Linear)
    return linear.weight.dtype


def quantise_projections(modules: nn.Module, scheme: Scheme) -> list[Tensor]:
    """Replaces the ``projections`` of all blocks; the relative error of each of their matrices."""
    errors = []
    for module in modules.modules():
        for which in module.projections if isinstance(module, BlockModule) else ():
            linear = getattr(module, which, None)
            if isinstance(linear, nn.Linear):
                made = QuantisedLinear(linear, scheme)
                setattr(module, which, made)
                errors.append(made.error)
    return errors


def quantised(weight_RK: Tensor, scheme: Scheme) -> tuple[nn.Parameter, Tensor, Tensor]:
    """Codes, scales and the relative error of a matrix, some rows at a time."""
    rows = max(1, DEQUANTISED_ELEMENTS // weight_RK.shape[1])
    codes, scales, sums = [], [], torch.zeros(2, device=weight_RK.device)
    with torch.no_grad():
        for part in weight_RK.split(rows):
            codes_RK, scale_R = quantise_rows(part, scheme)
            codes.append(codes_RK)
            scales.append(scale_R)
            wide = part.float()
            apart = codes_RK.float() * scale_R.float()[:, None] - wide
            sums += torch.stack((apart.square().sum(), wide.square().sum()))
    error = torch.where(sums[1] > 0, sums[0] / sums[1], 0.0).sqrt()
    # as bytes, which every operator of a GPU can move
    whole = torch.cat([part.view(torch.uint8) for part in codes]).view(codes[0].dtype)
    return nn.Parameter(whole, requires_grad=False), torch.cat(scales), error


def check_rounding(name: str, error: float) -> None:
    """Check that no matrix is further from its weights than a scheme rounds.

    Raises:
        WrongResult: one is.
    """
    bound = SCHEMES[name].rounding
    if not error <= bound:
        raise WrongResult(
            f"weights in {name} differ from those that they were made of: relative error {error:.2g} in a matrix, and "
            f"at most {bound:.2g} is allowed. Decode without --weight-dtype."
        )
