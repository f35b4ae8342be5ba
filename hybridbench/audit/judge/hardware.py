"""hardware: the kernels that a GPU counted, by operation of the model, and why they differ from ``hardware``.

A kernel's name tells its class (``count.names``). The names of matrix products come from libraries and not from
operations, but the products run in the order in which they were dispatched. So if both lists are equally long, they are
matched one to one; otherwise all products share one row.

Reasons from shapes: the tile and cluster in the name of a product's kernel, the kernels of attention
(``attention_tiles``), the tiles that the scan's autotuning took, and what causal-conv1d does for silu. Reasons that the
counters give: instructions of vector units, which no convention counts inside products, attention and the scan, nor in
norms, activations, loss and optimizer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from hybridbench.arch.block import Convention
from hybridbench.arch.blocks.mamba2 import TILE_COLUMNS, Mamba2
from hybridbench.arch.blocks.ssd_kernels import Tiles, up
from hybridbench.arch.model import uses_of
from hybridbench.arch.operations import operations
from hybridbench.arch.reasons import Reason
from hybridbench.audit.judge.attention_tiles import attention_reasons
from hybridbench.audit.judge.views import GPU, PRODUCTS, KernelTotals, View, is_product, summed
from hybridbench.count.account import REST, Product
from hybridbench.count.names import classify, shortened
from hybridbench.count.ncu import Launch
from hybridbench.operations.operation import ATTENTION, CONV, MATMUL, SCAN
from hybridbench.suite.case import Case
from hybridbench.suite.workloads import DECODE, TRAIN

EPILOGUE = "vector instructions beside the product"
SOFTMAX = "softmax and rescaling (vector instructions)"
DECAY = "decays and masks (vector instructions)"
SILU_AND_BIAS = "silu, its gradient and that of the bias (vector instructions)"
CONV_AGAIN = "the convolution computed again in the backward"
UNCOUNTED = "vector instructions were not counted"
NO_CONVENTION = "left out of every convention (vector instructions)"
WHOLE_TILES = "whole tiles of the product's kernel"
SCAN_TILES = "the scan is not the default, or its autotuned tiles or its batch differ from the convention's"

_PRODUCT_TILE = re.compile(r"_(\d+)x(\d+)_(\d+)x\d+_(\d+)x(\d+)_")


def hardware_view(
    case: Case, launches: Sequence[Launch], products: Sequence[Product], tiles: Tiles | None, vector: bool = True
) -> tuple[View, str | None]:
    """The counters' account of one case's step, and a sentence if products could not be told apart.

    If instructions of vector units were not counted, operations that run only on those have no figure, rather than 0.

    Args:
        case: whose step it is.
        launches: its kernels, in order.
        products: its matrix products, in the order of their dispatch.
        tiles: of mamba_ssm's kernels of the scan, as autotuned, where these ran.
        vector: whether instructions of vector units were counted.
    """
    of_class: dict[str, list[Launch]] = {}
    for launch in launches:
        of_class.setdefault(classify(launch.name), []).append(launch)
    sorting = _Sorting(case, vector)
    note = sorting.products(of_class.pop(MATMUL, []), products)
    sorting.attention(of_class.pop(ATTENTION, []))
    sorting.found += attention_reasons(case, launches)
    sorting.scan(of_class.pop(SCAN, []), tiles)
    sorting.conv(of_class.pop(CONV, []))
    sorting.rest([launch for rest in of_class.values() for launch in rest])
    return View(GPU, sorting.flops, summed(sorting.found)), note


class _Sorting:
    """Assigns kernels to operations, class by class, and collects the reasons.

    Attributes:
        flops: by operation.
        found: why they differ from ``hardware``.
    """

    def __init__(self, case: Case, vector: bool) -> None:
        self._case = case
        self._vector = vector
        exact = operations(case.model, case.workload.kind, case.workload.context)
        self._cores = [name for name in exact if not is_product(name)]
        self.flops: dict[str, int] = {}
        self.found: list[Reason] = []

    def _add(self, operation: str, launch: Launch) -> None:
        self.flops[operation] = self.flops.get(operation, 0) + launch.flops

    def products(self, launches: Sequence[Launch], products: Sequence[Product]) -> str | None:
        """Adds matrix products; returns a sentence where it is unknown which kernel ran which product."""
        matched, note = _matched(launches, products)
        for operation, launch, product in matched:
            self._add(operation, launch)
            if launch.tensor_flops or _sums(launch):  # else the product itself ran on vector units
                self.found.append(Reason(operation, EPILOGUE, launch.vector_flops))
            if launch.tensor_flops and product is not None:
                taken = tile_rounding(launch, product)
                rounded = 0 if taken is None else taken - _rounded(self._case, product)
                self.found.append(Reason(operation, WHOLE_TILES, rounded))
        return note

    def attention(self, launches: Sequence[Launch]) -> None:
        """Adds the kernels of attention."""
        for launch in launches:
            operation = _attention_of(launch.name, self._cores)
            self._add(operation, launch)
            self.found.append(Reason(operation, SOFTMAX, launch.vector_flops))

    def scan(self, launches: Sequence[Launch], tiles: Tiles | None) -> None:
        """Adds the kernels of scans, in the tiles that autotuning chose."""
        operation = _core("scan", self._cores)
        for launch in launches:
            self._add(operation, launch)
        if launches:
            beside = sum(launch.vector_flops for launch in launches) - _scan_vector(self._case)
            self.found.append(Reason(operation, DECAY if self._vector else UNCOUNTED, beside))
            self.found.append(Reason(operation, SCAN_TILES, _scan_tiles(self._case, tiles)))

    def conv(self, launches: Sequence[Launch]) -> None:
        """Adds the kernels of convolutions, which run on vector units alone."""
        case, operation = self._case, _core("conv", self._cores)
        if launches and not self._vector:
            forms = operations(case.model, case.workload.kind, case.workload.context, Convention.HARDWARE)
            self.found.append(Reason(operation, UNCOUNTED, -case.workload.batch * forms[operation]))
        elif launches:
            for launch in launches:
                self._add(operation, launch)
            self.found += _conv_reasons(case, operation, launches)

    def rest(self, launches: Sequence[Launch]) -> None:
        """Adds the kernels that no convention counts."""
        for launch in launches:
            if self._vector or launch.tensor_flops:
                self._add(REST, launch)
                self.found.append(Reason(REST, NO_CONVENTION, launch.flops))


def _core(part: str, cores: Sequence[str]) -> str:
    return next((name for name in cores if name.endswith(f" {part}")), REST)


def _attention_of(name: str, cores: Sequence[str]) -> str:
    """The operation of an attention kernel. Where a model has two kinds, FlexAttention runs the windowed one."""
    known = [core for core in cores if core.endswith(" core")]
    windowed = [core for core in known if core.startswith("window")]
    if len(known) > 1 and windowed:
        return windowed[0] if "flex" in name else next(core for core in known if core not in windowed)
    return known[0] if known else REST


# Products -------------------------------------------------------------------------------------------------------------


def _matched(
    launches: Sequence[Launch], products: Sequence[Product]
) -> tuple[list[tuple[str, Launch, Product | None]], str | None]:
    """Each kernel with its operation and product. Where both lists do not match, all kernels belong to ``PRODUCTS``."""
    sums = [launch for launch in launches if _sums(launch) or not launch.flops]
    kernels = [launch for launch in launches if launch not in sums]
    if len(kernels) == len(products) and all(
        launch.tensor_flops == 0 or launch.flops >= product.flops
        for launch, product in zip(kernels, products, strict=True)
    ):
        after = {launch.number: product.operation for launch, product in zip(kernels, products, strict=True)}
        found: list[tuple[str, Launch, Product | None]] = [
            (product.operation, launch, product) for launch, product in zip(kernels, products, strict=True)
        ]
        for launch in sums:  # partial sums belong to the product before them
            before = [number for number in after if number < launch.number]
            found.append((after[max(before)] if before else PRODUCTS, launch, None))
        return found, None
    note = (
        f"{len(products)} matrix products were dispatched and {len(kernels)} kernels ran them, or one did "
        f"less than its product. So all products are in one row."
    )
    return [(PRODUCTS, launch, None) for launch in launches], note


def _sums(launch: Launch) -> bool:
    """Whether a kernel adds up the parts of a product whose inner dimension was split."""
    return "reduce" in launch.name.lower()


def tile_rounding(launch: Launch, product: Product) -> int | None:
    """FLOPs that whole tiles add to a product, by the tile in its kernel's name; None if the count differs from that.

    ``192x192_64x4_2x1`` means: rows by columns of a tile; its inner size by its stages; the tiles of a cluster,
    which runs as a whole. Libraries that store by columns swap rows and columns, so both orders are tried.
    """
    tile = _PRODUCT_TILE.search(launch.name)
    if tile is None:
        return None
    rows, columns, inner, down, across = (int(size) for size in tile.groups())
    for m, n in ((product.m, product.n), (product.n, product.m)):
        padded = 2 * product.batch * up(m, down * rows) * up(n, across * columns) * up(product.k, inner)
        if padded == launch.tensor_flops:
            return padded - product.flops
    return None


def _rounded(case: Case, product: Product) -> int:
    """The part of ``tile_rounding`` that the hardware convention counts: whole tiles of Mamba-2's columns."""
    if product.operation != "mamba2 in_proj":
        return 0
    wide = {spec.in_columns(lent) for spec, _ in uses_of(case.model, Mamba2) for lent in (False, True)}
    m, n, k = (up(size, TILE_COLUMNS) if size in wide else size for size in (product.m, product.n, product.k))
    return 2 * product.batch * m * n * k - product.flops


# The scan -------------------------------------------------------------------------------------------------------------


def _scan_vector(case: Case) -> int:
    """FLOPs of the scans outside tensor cores in the hardware convention."""
    work, training = case.workload, case.workload.kind == TRAIN
    each: Callable[[Mamba2], int] = (
        (lambda spec: 5 * spec.d_inner * spec.d_state + 2 * spec.d_inner)
        if work.kind == DECODE
        else (lambda spec: spec.scan_kernels(training=training).elementwise(work.context, training))
    )
    return work.batch * sum(uses * each(spec) for spec, uses in uses_of(case.model, Mamba2))


def _scan_tiles(case: Case, tiles: Tiles | None) -> int:
    work, training = case.workload, case.workload.kind == TRAIN
    if work.kind == DECODE:
        return 0
    taken, default = (
        sum(
            uses * sum(spec.scan_kernels(sequences, given, training).flops(work.context, training).values())
            for spec, uses in uses_of(case.model, Mamba2)
        )
        for sequences, given in ((work.batch, tiles), (1, None))
    )
    return work.batch * (taken - default)


# The convolution ------------------------------------------------------------------------------------------------------


def _conv_reasons(case: Case, operation: str, launches: Sequence[Launch]) -> list[Reason]:
    """FLOPs that causal-conv1d's kernels execute beyond the taps; none for other kernels, which are not known.

    Instructions of an element on an H200: forward four multiply-adds for its four taps, an add and two multiplies for
    silu; backward four for the output again, four each for the gradients of input and taps, and one, three adds and
    three multiplies for those of silu and bias.
    """
    work = case.workload
    if work.kind == DECODE or not any("causal_conv1d" in launch.name for launch in launches):
        return []
    elements = work.batch * work.context
    channels = [(uses * spec.conv_channels, spec.d_conv) for spec, uses in uses_of(case.model, Mamba2)]
    around = elements * sum(count for count, _ in channels) * (3 + 8 if work.kind == TRAIN else 3)
    again = elements * sum(2 * taps * count for count, taps in channels) if work.kind == TRAIN else 0
    return [Reason(operation, SILU_AND_BIAS, around), Reason(operation, CONV_AGAIN, again)]


# By class -------------------------------------------------------------------------------------------------------------


def grouped(launches: Sequence[Launch], key: Callable[[Launch], str], vector: bool = True) -> list[KernelTotals]:
    """Launches added up by a key, the one with most FLOPs first; ``vector`` as of ``hardware_view``."""
    found: dict[str, list[Launch]] = {}
    for launch in launches:
        found.setdefault(key(launch), []).append(launch)
    sums = [
        KernelTotals(
            kind,
            len(some),
            sum(launch.tensor_flops for launch in some),
            sum(launch.vector_flops for launch in some) if vector else None,
            sum(launch.read_bytes for launch in some),
            sum(launch.written_bytes for launch in some),
        )
        for kind, some in found.items()
    ]
    return sorted(sums, key=lambda group: -(group.tensor_flops + (group.vector_flops or 0)))


def by_class(launches: Sequence[Launch], vector: bool = True) -> list[KernelTotals]:
    """Launches added up by their class of time."""
    return grouped(launches, lambda launch: classify(launch.name), vector)


def by_kernel(launches: Sequence[Launch], vector: bool = True) -> list[KernelTotals]:
    """Launches added up by their kernel's name."""
    return grouped(launches, lambda launch: shortened(launch.name), vector)
