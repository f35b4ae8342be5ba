"""parallel: the intra-layer hybrid block as a module: two mixers on one input, normed, scaled and fused.

``hybridbench.arch.blocks.parallel`` explains the axes of fusion and what the paper leaves open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from hybridbench.arch.block import Storage
from hybridbench.arch.blocks.parallel import Parallel
from hybridbench.model.attention import AttentionModule
from hybridbench.model.block import BlockModule, Factory, Ops, Step
from hybridbench.model.cache import AttentionCache, Cache, ParallelCache
from hybridbench.model.checkpoint import cheap
from hybridbench.model.mixer import MixerModule
from hybridbench.model.quantised import stored


def _side_by_side(first: Tensor, second: Tensor) -> Tensor:
    return torch.cat((first, second), dim=-1)


_FUSE: dict[str, Callable[..., Tensor]] = {"add": torch.add, "subtract": torch.sub, "concat": _side_by_side}


class ParallelModule(BlockModule):
    """Fuses two branches.

    Args:
        spec: the branches' specs and the fusion.
        ops: the callable ``head_norms`` where the fusion has a norm.
        make: makes its parameters, and the modules of its branches.
    """

    mixes: ClassVar[bool] = True

    def __init__(self, spec: Parallel, ops: Ops, make: Factory) -> None:
        super().__init__()
        self.spec = spec
        self.ops = ops
        self.norm_eps = make.norm_eps
        projects = spec.fusion.out == "separate"
        branches: list[MixerModule] = [
            make.block(branch, borrows_value=index == spec.borrower, projects=projects)
            for index, branch in enumerate(spec.branches)
        ]
        self.first, self.second = branches
        self.traceable = all(branch.traceable for branch in branches)
        self.shares = tuple(dict.fromkeys(name for branch in branches for name in branch.shares))
        fusion, d_model = spec.fusion, spec.d_model
        self.out_proj = make.linear(spec.joint_width, d_model) if fusion.out == "joint" else None
        scale = fusion.scale
        self.scale_first = make.parameter(spec.first.out_width) if scale == "vector" else None
        self.scale_second = make.parameter(spec.second.out_width) if scale == "vector" else None
        # A single number: the factor of the second branch, or the logit of the first branch's share.
        self.scalar = make.parameter(1) if scale in ("scalar", "alpha") else None
        self.gate = make.linear(d_model, 1) if scale == "gate" else None

    @property
    @override
    def branches(self) -> tuple[MixerModule, MixerModule]:
        return self.first, self.second

    @override
    def products(self) -> Iterator[tuple[Tensor, str]]:
        """Those of its branches and its own. Every output projection counts as the parallel block's."""
        for branch in self.branches:
            for weight, operation in branch.products():
                part = operation.rpartition(" ")[2]
                yield weight, "parallel out_proj" if part == "out_proj" else operation
        if self.out_proj is not None:
            yield stored(self.out_proj).matrix_RK, "parallel out_proj"
        if self.gate is not None:
            yield self.gate.weight, "parallel gate"

    @override
    def made_for_products(self) -> dict[tuple[int, ...], str]:
        """Those of the branches, and both output projections side by side."""
        joined = (self.spec.d_model, self.spec.first.out_width + self.spec.second.out_width)
        return {**self.first.made_for_products(), **self.second.made_for_products(), joined: "parallel out_proj"}

    @override
    def make_turns(self, step: Step) -> None:
        self.first.make_turns(step)
        self.second.make_turns(step)

    @override
    def reset(self, generator: torch.Generator) -> None:
        """Scales start at one, a learned share at one half."""
        with torch.no_grad():
            for scale in (self.scale_first, self.scale_second):
                if scale is not None:
                    scale.fill_(1.0)
            if self.scalar is not None:
                self.scalar.fill_(0.0 if self.spec.fusion.scale == "alpha" else 1.0)

    def _normed(self, mixed: Tensor, heads: int) -> Tensor:
        if self.spec.fusion.norm == "none":
            return mixed
        width = mixed.shape[-1] // heads
        return F.rms_norm(torch.unflatten(mixed, -1, (heads, width)), (width,), None, self.norm_eps).flatten(-2)

    def _scaled(self, first: Tensor, second: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.scale_first is not None and self.scale_second is not None:
            return cheap(torch.mul, first, self.scale_first), cheap(torch.mul, second, self.scale_second)
        if self.gate is not None:
            share = torch.sigmoid(self.gate(x))
            return cheap(torch.mul, first, share), cheap(torch.mul, second, 1 - share)
        if self.scalar is None:
            return first, second
        if self.spec.fusion.scale == "scalar":
            return first, cheap(torch.mul, second, self.scalar)
        share = torch.sigmoid(self.scalar)
        return cheap(torch.mul, first, share), cheap(torch.mul, second, 1 - share)

    def _fuse(self, mixed_first: Tensor, mixed_second: Tensor, x: Tensor) -> Tensor:
        """Fuses two outputs operator by operator, as a decode step does."""
        first = self._normed(mixed_first, self.first.out_heads)
        return self._combined(first, self._normed(mixed_second, self.second.out_heads), x)

    def _fuse_sequence(self, mixed_first: Tensor, mixed_second: Tensor, x: Tensor) -> Tensor:
        """``_fuse`` with both norms written side by side, so that branches without a scale need one product and no sum.

        Separate output projections of branches without a scale are one product with both weights side by side, the
        second one negated for ``subtract``. That copies the weights (18 MB at 1b) but saves three passes over the
        tokens.
        """
        fusion = self.spec.fusion
        if fusion.norm == "none":
            return self._combined(mixed_first, mixed_second, x)
        joined: Tensor = self.ops["head_norms"](
            mixed_first, mixed_second, heads=(self.first.out_heads, self.second.out_heads), eps=self.norm_eps
        )
        if fusion.scale == "none" and fusion.op == "concat":
            assert self.out_proj is not None, "concatenated branches have one projection"
            out: Tensor = self.out_proj(joined)
            return out
        if fusion.scale == "none" and self.first.out_proj is not None and self.second.out_proj is not None:
            other = self.second.out_proj.weight
            weight = torch.cat((self.first.out_proj.weight, -other if fusion.op == "subtract" else other), dim=1)
            return F.linear(joined, weight)
        widths = [mixed_first.shape[-1], mixed_second.shape[-1]]
        first, second = torch.split(joined, widths, dim=-1)
        return self._combined(first, second, x)

    def _combined(self, first: Tensor, second: Tensor, x: Tensor) -> Tensor:
        """Scales, fuses and projects two outputs."""
        first, second = self._scaled(first, second, x)
        op = self.spec.fusion.op
        if self.out_proj is None:
            first, second = self.first.project(first), self.second.project(second)
            return first - second if op == "subtract" else first + second
        out: Tensor = self.out_proj(cheap(_FUSE[op], first, second))
        return out

    @override
    def forward(self, x_BTD: Tensor, step: Step, cache: ParallelCache | None = None) -> Tensor:
        caches = (None, None) if cache is None else (cache.first, cache.second)
        if self.spec.borrower == 0:
            second, value = self.second.mix(x_BTD, step, caches[1])
            first, _ = self.first.mix(x_BTD, step, caches[0], value)
        else:
            first, value = self.first.mix(x_BTD, step, caches[0])
            second, _ = self.second.mix(x_BTD, step, caches[1], value if self.spec.borrower == 1 else None)
        return self._fuse_sequence(first, second, x_BTD)

    @override
    def decode(self, x_BD: Tensor, step: Step, cache: Cache | None) -> Tensor:
        assert isinstance(cache, ParallelCache)
        if self.spec.borrower == 0:
            second, value = self.second.mix_step(x_BD, step, cache.second)
            first, _ = self.first.mix_step(x_BD, step, cache.first, value)
        else:
            first, value = self.first.mix_step(x_BD, step, cache.first)
            second, _ = self.second.mix_step(x_BD, step, cache.second, value if self.spec.borrower == 1 else None)
        return self._fuse(first, second, x_BD)

    @override
    def new_cache(self, batch: int, capacity: int, storage: Storage, device: torch.device) -> ParallelCache:
        first = self.first.new_cache(batch, capacity, storage, device)
        if self.spec.borrower == 1 and isinstance(self.second, AttentionModule) and isinstance(first, AttentionCache):
            return ParallelCache(first, self.second.new_cache(batch, capacity, storage, device, shared=first))
        return ParallelCache(first, self.second.new_cache(batch, capacity, storage, device))
