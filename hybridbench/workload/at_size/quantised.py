"""quantised: a model's weights, keys and values become codes, and a decode step says how far that moves its logits.

The step runs module by module before and after, over the same random keys, values and states. How far its logits move
is what the format does to this model, and no error of a kernel: initial weights pass rounding on from layer to layer,
and amplify it. bfloat16's own, 16 times finer than E4M3's, moves them by 2e-2 to 4e-2 (1b). So the bound only tells a
step that still computes the model from one that does not; each matrix has a tight one (``Scheme.rounding``).
"""

from __future__ import annotations

from copy import deepcopy

import torch

from hybridbench.arch.block import KV_FORMATS
from hybridbench.arch.stored import Dtypes
from hybridbench.arch.weights import SCHEMES
from hybridbench.errors import WrongResult
from hybridbench.model.cache import AttentionCache, Cache, ParallelCache
from hybridbench.model.language import LanguageModel
from hybridbench.model.quantised import check_rounding
from hybridbench.model.quantised_cache import QuantisedAttentionCache
from hybridbench.record import SizeCheck
from hybridbench.suite.case import Case
from hybridbench.workload.at_size.errors import SHORT, of_whole
from hybridbench.workload.prepared import present

QUANTISED = "a quantised decode step"
COARSE = 5e-2
"""A record whose logits are moved by more has a caveat."""
ROWS = 2
"""The most sequences that are compared."""
BOUND = 0.7
"""Logits that have nothing to do with each other differ by 1.4."""


def quantise_as(case: Case, model: LanguageModel, *, compare: bool) -> list[SizeCheck]:
    """Quantises the weights of an allocated model as its case asks; the comparisons that were made.

    Args:
        compare: take a step before and after.

    Raises:
        WrongResult: a matrix or the logits are further from what they were than the format explains.
    """
    execution, work = case.execution, case.workload
    if not execution.quantises:
        return []
    before = _Before(case, model) if compare else None
    checks = []
    if execution.weight_dtype is not None:
        name = execution.weight_dtype
        error = float(model.quantise(name))
        check_rounding(name, error)
        if model.embedding_VD.is_cuda:
            torch.cuda.empty_cache()  # the plain weights' memory is for caches now
        what, against = f"weights in {name}", f"those in {execution.dtype}"
        matrices = sum(not parameter.requires_grad for parameter in model.parameters())
        size = work.batch, work.context, matrices
        checks.append(SizeCheck(what, against, *size, "a matrix", error, SCHEMES[name].rounding))
    return checks if before is None else [*checks, before.compared_with(case, model)]


class _Before:
    """A step of a model whose weights are not quantised yet, and what it read."""

    def __init__(self, case: Case, model: LanguageModel) -> None:
        execution, work = case.execution, case.workload
        self.batch, self.context = min(work.batch, ROWS), min(work.context, SHORT)
        device, plain = model.embedding_VD.device, Dtypes.of(execution.dtype, execution.state_dtype).storage
        generator = torch.Generator(device=device).manual_seed(execution.seed)
        caches = model.new_caches(self.batch, self.context + 1, plain)
        for cache in present(caches):
            cache.fill(generator)
        self.token_B = torch.randint(case.model.vocab_size, (self.batch,), device=device, generator=generator)
        self.position_B = torch.full((self.batch,), self.context, device=device)
        codes = "" if execution.kv_dtype is None else KV_FORMATS[execution.kv_dtype].codes
        self.caches = [None if cache is None else quantised_copy(cache, codes) for cache in caches]
        with torch.no_grad():
            self.logits_BV = model.decode(self.token_B, self.position_B, caches)

    def compared_with(self, case: Case, model: LanguageModel) -> SizeCheck:
        """How far the same step of the model as it is now moves the logits.

        Raises:
            WrongResult: so far that it is no step of this model.
        """
        execution = case.execution
        with torch.no_grad():
            error = float(of_whole(model.decode(self.token_B, self.position_B, self.caches), self.logits_BV))
        if not error <= BOUND:
            raise WrongResult(
                f"a decode step with quantised weights, keys or values has other logits than in {execution.dtype}: "
                f"relative error {error:.2g}, and at most {BOUND:.2g} is allowed. Decode without --weight-dtype and "
                f"--kv-dtype."
            )
        against = f"the same step in {execution.dtype}"
        return SizeCheck(QUANTISED, against, self.batch, self.context, 1, "logits", error, BOUND)


def quantised_copy(cache: Cache, codes: str) -> Cache:
    """A copy of a plain cache; where there are ``codes``, its keys and values are quantised."""
    if not codes:
        return deepcopy(cache)
    if isinstance(cache, ParallelCache):
        first, second = quantised_copy(cache.first, codes), cache.second
        if isinstance(second, AttentionCache) and not second.owns_value:
            assert isinstance(first, QuantisedAttentionCache), "a value is lent by the first branch"
            return ParallelCache(first, QuantisedAttentionCache.of(second, getattr(torch, codes), first))
        return ParallelCache(first, quantised_copy(second, codes))
    if isinstance(cache, AttentionCache):
        return QuantisedAttentionCache.of(cache, getattr(torch, codes))
    return deepcopy(cache)
