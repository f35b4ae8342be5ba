"""tune: searches tilings of a fused decode step's products on the GPU at hand, and verifies what it finds.

Every candidate plans the whole step, so its launches have the arguments, neighbours in memory and alignments of a real
one. A product is timed as its launches of all layers, one after the other, so that weights come from memory and not
from the L2 cache.

    rules' plan ──► candidates ──► plans, compiled side by side ──► each against the rules' logits and states
                                                               └─► each product timed ──► the fastest of each
    the fastest, one after the other into a whole step ──► those with which it is faster, in a table

A product that is faster by itself may make its step slower: launches overlap, so that the next one reads its weights
while this one ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from hybridbench.capture import captured
from hybridbench.errors import BadInput
from hybridbench.kernels.tuning import compile_together
from hybridbench.machine import usable_cores
from hybridbench.model.build import build_model, resolve_backends
from hybridbench.model.cache import Cache
from hybridbench.model.fused import FusedStep
from hybridbench.model.language import LanguageModel
from hybridbench.model.step import BOUND, both_ways, ruled_out_by
from hybridbench.model.tiling import Tiling, first_shared, stage_bytes
from hybridbench.model.tiling_table import STATES, Searched, TiledProduct
from hybridbench.suite.case import Case

Key = tuple[str, int, int]
Timer = Callable[[Sequence[Callable[[], object]]], float]
"""The time of launches one after the other, in us."""

SHARED_BYTES = 227 << 10
"""What a program may have of a Hopper SM."""

LEAST_GAIN = 0.002
"""Share of a step that a tiling must gain to be kept, or cost to be taken out: replays of one step differ by less."""

COMPILE_S, TIME_S, PLAN_S = 1.5, 0.06, 0.5
"""Rough seconds of one compilation on a core, of timing one product, and of one step planned and verified."""


@dataclass(frozen=True)
class Told:
    """What a search tells as it goes on: ``done`` of ``total`` candidates, and those that were dropped with why."""

    done: int
    total: int
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True)
class WholeStep:
    """What tilings do to a whole step.

    Attributes:
        kept: those that were found and with which the step is faster.
        slower: products whose tiling makes this step slower, of this search or of other models'.
        us, rules_us: the step with those that are kept, and by the rules.
    """

    kept: dict[TiledProduct, Searched]
    slower: set[TiledProduct]
    us: float
    rules_us: float


@dataclass(frozen=True)
class StepInputs:
    """A model on its device, ready to decode: ``fill`` puts the caches into a plausible state."""

    model: LanguageModel
    caches: list[Cache | None]
    token_B: Tensor
    position_B: Tensor
    fill: Callable[[], None]

    def plan(self, tilings: dict[Key, Tiling]) -> FusedStep:
        """A step with these tilings, and the rules' for the rest, not compiled yet."""
        return FusedStep(
            self.model, self.caches, self.token_B, self.position_B, advance=False, tilings=tilings, compiles=False
        )


def candidates(key: Key, rule: Tiling, tokens: int, n_sms: int) -> list[Tiling]:
    """Tilings of one product to try, without the rules' own: all that fill the GPU and fit on it.

    - Rows of 32 where ``mma`` serves, and of 64, 128 and 256 for wgmma, up to sums of 128 x 256.
    - Two warps too where weights are codes: of 4, two convert the same ones if a tile has 32 rows, and two warps take
      64 rows by ``mma``.
    - Splits that give 0.7 to 4 programs per SM. The head is never split.
    - Stages so that one, two or three programs fit into an SM's shared memory.
    """
    named, n_rows, k = key
    if named in STATES:
        return _of_state(n_rows, rule)
    scheme, _, name = named.rpartition(" ")
    size, widths = (1, (64, 128, 256, 512)) if scheme else (2, (32, 64, 128, 256))
    found = []
    for rows, block_k, warps in itertools.product((32, 64, 128, 256), widths, (2, 4, 8) if scheme else (4, 8)):
        if warps == 2 and (rows > 64 or tokens > 16):
            continue
        if (rows == 32 and tokens > 16) or rows * tokens > 128 * 256 or k % block_k or rows > max(64, n_rows):
            continue
        if rows * tokens > 64 * 128 * warps // 4 * 2 or (warps == 8 and rows * tokens < 64 * 64):
            continue
        tiles = -(-n_rows // rows)
        for splits in (1,) if name == "head" else (1, 2, 3, 4, 6, 8, 12, 16):
            programs = tiles * splits / n_sms
            if splits > k // max(block_k, 128) or programs < 0.7 or (splits > 1 and programs > 4):
                continue
            for per_sm in (1, 2, 3):
                fitting = (SHARED_BYTES // per_sm - 1024) // stage_bytes(rows, block_k, tokens, size)
                stages = min(8, fitting - first_shared(rows, tokens, size))
                if stages >= 3:
                    found.append(Tiling(rows, splits, block_k, stages, warps))
    return [one for one in dict.fromkeys(found) if one != rule]


def _of_state(head_dim: int, rule: Tiling) -> list[Tiling]:
    """Rows of a head per program, with 16 to 128 elements a thread."""
    found = [
        replace(rule, rows=rows, warps=warps, stages=stages)
        for rows, warps, stages in itertools.product((8, 16, 32, 64, 128), (1, 2, 4, 8), (2, 3, 4))
        if head_dim % rows == 0 and 16 <= rows * rule.block_k // (32 * warps) <= 128
    ]
    return [one for one in found if one != rule]


def near(found: Sequence[Tiling], rule: Tiling, most: int) -> list[Tiling]:
    """At most so many of some tilings, those that differ least from the rules'."""

    def apart(one: Tiling) -> float:
        pairs = ((one.rows, rule.rows), (one.splits, rule.splits), (one.block_k, rule.block_k), (one.warps, rule.warps))
        return sum(max(a, b) / min(a, b) - 1 for a, b in pairs) + abs(one.stages - rule.stages) / 4

    return sorted(found, key=apart)[:most]


def seconds(tried: Mapping[Key, Sequence[Tiling]]) -> float:
    """Roughly how long a search takes here: compilations side by side, then one candidate after the other."""
    total = sum(len(found) + 1 for found in tried.values())
    plans = max((len(found) for found in tried.values()), default=0) + 1
    return 2 * COMPILE_S * total / usable_cores() + TIME_S * total + PLAN_S * plans


def check_fused(case: Case) -> None:
    """Check that a case has products to search.

    Raises:
        BadInput: the fused step does not run it; the text says why.
    """
    if (reason := ruled_out_by(case)) is not None:
        raise BadInput(f"{case.model.label} has no tilings to search: the fused step does not run it, since {reason}.")


def inputs_of(case: Case, device: torch.device) -> StepInputs:
    """The model of a case on a device, with caches for the case's batch and context.

    Raises:
        BadInput: the fused step does not run the case; the text says why.
    """
    check_fused(case)
    model = build_model(case, resolve_backends(case))
    model.allocate(device, 0)
    if case.execution.weight_dtype is not None:
        model.quantise(case.execution.weight_dtype)
    work = case.workload
    with device:
        caches = model.new_caches(work.batch, work.context + 1, case.execution.storage)
    token_B = torch.zeros(work.batch, dtype=torch.int64, device=device)
    position_B = torch.full((work.batch,), work.context, dtype=torch.int64, device=device)
    return StepInputs(model, caches, token_B, position_B, partial(_filled, caches, token_B, position_B, work.context))


def _filled(caches: list[Cache | None], token_B: Tensor, position_B: Tensor, context: int) -> None:
    generator = torch.Generator(device=token_B.device).manual_seed(0)
    for cache in caches:
        if cache is not None:
            cache.fill(generator)
    token_B.zero_()
    position_B.fill_(context)


class TilingSearch:
    """A search over the products of one model at one batch.

    Args:
        inputs: the model, allocated, with caches of the batch.
        timer: times launches; ``graph_timer`` on a GPU.
        most: candidates of each product.
        only: names of the products to search; all where it is empty.
        known: products that are not searched again.
    """

    def __init__(
        self,
        inputs: StepInputs,
        timer: Timer,
        *,
        most: int = 32,
        only: Collection[str] = (),
        known: Collection[TiledProduct] = (),
    ) -> None:
        self.inputs, self.timer = inputs, timer
        self.rules = inputs.plan({})
        self.tried = {
            key: near(candidates(key, rule, self.rules.tokens, self.rules.n_sms), rule, most)
            for key, rule in self.rules.cut.items()
            if (not only or key[0].split()[-1] in only) and TiledProduct(*key, self.rules.tokens) not in known
        }
        self.dropped: list[str] = []

    @property
    def names(self) -> set[str]:
        """Names of the products of the model's step, without that of a format of weights."""
        return {name.split()[-1] for name, _, _ in self.rules.cut}

    @property
    def seconds(self) -> float:
        """Roughly how long ``run`` takes."""
        return seconds(self.tried)

    def run(self, tell: Callable[[Told], None] = lambda _: None) -> dict[TiledProduct, Searched]:
        """The fastest tiling of each product, its time and that of the rules'. The rules' own is one of the candidates.

        A candidate that does not compile, or whose step differs from the rules' by more than ``step.BOUND``, is
        dropped.
        """
        compile_together([*self.rules.compilations, *self._compilations()])
        self.inputs.fill()
        rules_us = {key: self._timed(self.rules, key) for key in self.tried}
        best = {key: (rules_us[key], self.rules.cut[key]) for key in self.tried}
        total = sum(map(len, self.tried.values()))
        done = 0
        for chosen in self._rounds():
            done += len(chosen)
            plan = self._verified(chosen)
            if plan is not None:
                for key, tiling in chosen.items():
                    best[key] = min(best[key], (self._timed(plan, key), tiling), key=lambda one: one[0])
            tell(Told(done, total, tuple(self.dropped)))
        return {
            TiledProduct(*key, self.rules.tokens): Searched(tiling, us, rules_us[key])
            for key, (us, tiling) in best.items()
        }

    def together(self, found: Mapping[TiledProduct, Searched], known: Mapping[TiledProduct, Searched]) -> WholeStep:
        """What is left of tilings once whole steps are timed: each is added if the step is faster with it. Where the
        rules' own is the fastest there is nothing to add.

        Args:
            found: of this search; what gains most by itself goes first.
            known: of earlier searches, of other models maybe; those that this model has are in its step already.
        """
        here = {product: one for product, one in known.items() if self._has(product)}
        rules_us = self._step_us({})
        us = self._step_us(here) if here else rules_us
        slower, kept = set[TiledProduct](), dict[TiledProduct, Searched]()
        for product in list(here):
            fewer = {name: one for name, one in here.items() if name != product}
            without_us = self._step_us(fewer)
            if without_us < us * (1 - LEAST_GAIN):
                here, us = fewer, without_us
                slower.add(product)
        better = {product: one for product, one in found.items() if one.tiling != self.rules.cut[_key(product)]}
        for product in sorted(better, key=lambda name: -self._gain_us(name, better[name])):
            more_us = self._step_us({**here, **kept, product: found[product]})
            if more_us < us * (1 - LEAST_GAIN):
                kept[product], us = found[product], more_us
            elif more_us > us * (1 + LEAST_GAIN):
                slower.add(product)
        return WholeStep(kept, slower, us, rules_us)

    def _has(self, product: TiledProduct) -> bool:
        """Whether this model's step has such a product."""
        return product.tokens == self.rules.tokens and _key(product) in self.rules.cut

    def _gain_us(self, product: TiledProduct, one: Searched) -> float:
        """What its launches in all layers gain by themselves."""
        return (one.rules_us - one.us) * len(self.rules.products[_key(product)])

    def _step_us(self, tilings: Mapping[TiledProduct, Searched]) -> float:
        """The time of a whole step with these tilings, and the rules' for the rest; us."""
        cut = {_key(product): one.tiling for product, one in tilings.items()}
        plan = self.inputs.plan(cut) if cut else self.rules
        compile_together(plan.compilations)
        self.inputs.fill()
        return self.timer([plan])

    def _rounds(self) -> Iterator[dict[Key, Tiling]]:
        """Candidates of all products that are planned in one step."""
        for at in range(max(map(len, self.tried.values()), default=0)):
            yield {key: found[at] for key, found in self.tried.items() if at < len(found)}

    def _compilations(self) -> list[Callable[[], object]]:
        """Those of all candidates, so that they run side by side."""
        found: list[Callable[[], object]] = []
        for chosen in self._rounds():
            plan = self.inputs.plan(chosen)
            found += [compile_only for key in chosen for _, compile_only in plan.products[key]]
        return found

    def _verified(self, chosen: dict[Key, Tiling]) -> FusedStep | None:
        """The plan of some candidates, of which those that are wrong by themselves are taken out; None without any."""
        plan, why = self._checked(chosen)
        if why is None:
            return plan
        for key, tiling in list(chosen.items()):
            _, alone = self._checked({key: tiling}) if len(chosen) > 1 else (plan, why)
            if alone is not None:
                self.dropped.append(f"{key[0]} {key[1]} x {key[2]} as {tiling}: {alone}")
                del chosen[key]
        plan, why = self._checked(chosen)
        return plan if chosen and why is None else None

    def _checked(self, chosen: dict[Key, Tiling]) -> tuple[FusedStep, str | None]:
        """A plan with some tilings, and why its step is not the rules' step; None where it is."""
        inputs = self.inputs
        plan = inputs.plan(dict(chosen))
        inputs.fill()
        present = [cache for cache in inputs.caches if cache is not None]
        try:
            errors = both_ways(self.rules, plan, present, (inputs.token_B, inputs.position_B))
        except Exception as exc:  # noqa: BLE001  Triton's, the assembler's and the driver's have no common class
            return plan, " ".join(str(exc).split())[:200] or type(exc).__name__
        wrong = [f"{name} differs by {error:.2g}" for name, error in errors.items() if not error <= BOUND]
        return plan, f"{wrong[0]} from the rules' step" if wrong else None

    def _timed(self, plan: FusedStep, key: Key) -> float:
        launches = [launch for launch, _ in plan.products[key]]
        self.inputs.fill()
        plan()  # what the product reads is as in a step
        return self.timer(launches) / len(launches)


def _key(product: TiledProduct) -> Key:
    """What names a product in a step of one batch."""
    return product.name, product.n_rows, product.k


def graph_timer(launches: Sequence[Callable[[], object]], *, repeats: int = 5, samples: int = 7) -> float:
    """The median time of launches in a CUDA graph, in us.

    Args:
        repeats: how often the launches stand in the graph.
        samples: replays that are timed.
    """

    def all_of_them() -> None:
        for _ in range(repeats):
            for launch in launches:
                launch()

    replay = captured(all_of_them, collect=False)
    times: list[float] = []
    for _ in range(samples):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        replay()
        end.record()
        end.synchronize()
        times.append(1000 * start.elapsed_time(end) / repeats)
    return sorted(times)[samples // 2]
