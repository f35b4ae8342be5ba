"""launches: a list of kernel launches in order, on one stream or two, with the buffers that they share.

What the launches compute is in ``stages``, their order in ``fused``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hybridbench.kernels.attention.triton_decode import multiprocessors
from hybridbench.model.quantised import Weight
from hybridbench.model.tiling import Tiling, token_tile
from hybridbench.model.tiling_table import table_for


class Launches:
    """Launches of a decode step of ``B`` sequences. ``compilations`` compile their kernels without launching them.

    Args:
        B: sequences.
        like: any parameter; new buffers are on its device and, but for float32 ones, in its dtype.
        streams: 2 puts launches that are planned within ``_beside`` on a second stream.
        pdl: whether to use programmatic dependent launch; None uses it where the device supports it.
        tilings: other tilings for some products, by name and size; None takes those that were searched on this GPU.
        coded: weights are codes, which are multiplied in float16 (``triton_narrow``).

    ``multiplied`` is the dtype of what products read. ``products`` holds the launches of each product and their
    compilations, in order, and ``cut`` its tiling.
    """

    def __init__(
        self,
        B: int,
        like: Tensor,
        *,
        streams: int = 1,
        pdl: bool | None = None,
        tilings: dict[tuple[str, int, int], Tiling] | None = None,
        coded: bool = False,
    ) -> None:
        device = like.device
        on_gpu = device.type == "cuda"
        self.pdl = (on_gpu and torch.cuda.get_device_capability(device) >= (9, 0)) if pdl is None else pdl
        self.n_sms = multiprocessors(device)
        self.side = torch.cuda.Stream(device) if streams > 1 and on_gpu else None
        self.alone = False
        self.B = B
        self.tokens = token_tile(B)
        table = table_for(torch.cuda.get_device_name(device)) if on_gpu and tilings is None else None
        self.tilings = tilings if tilings is not None else {} if table is None else table.of(self.tokens)
        self.products: dict[tuple[str, int, int], list[tuple[Callable[[], None], Callable[[], object]]]] = {}
        self.cut: dict[tuple[str, int, int], Tiling] = {}
        self._next: tuple[str, int, int] | None = None
        self.kind: dict[str, Any] = {"device": device, "dtype": like.dtype}
        self.wide: dict[str, Any] = {"device": device, "dtype": torch.float32}
        self.multiplied: torch.dtype = torch.float16 if coded and like.dtype == torch.bfloat16 else like.dtype
        self.launches: list[Callable[[], None]] = []
        self.compilations: list[Callable[[], object]] = []
        self._scratch: dict[tuple[str, int, int, int], tuple[Tensor, Tensor]] = {}
        self._between: dict[tuple[Any, ...], Tensor] = {}

    def _new(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        zeros: Tensor = torch.zeros(self.B, *shape, **self.kind | ({} if dtype is None else {"dtype": dtype}))
        return zeros

    def _passed(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A buffer (B, *shape) that one launch fills for the next. Every layer uses the same, since its launches follow
        one another, so that it stays in the L2 cache.
        """
        key = name, *shape
        if key not in self._between:
            self._between[key] = self._new(*shape, dtype=dtype)
        return self._between[key]

    @property
    def tiled_by(self) -> str:
        """Where the tilings come from, in words for a record."""
        searched = sum(key in self.tilings for key in self.cut)
        if searched == 0:
            return "tilings by rules"
        return "tilings searched" if searched == len(self.cut) else "tilings searched in part"

    def _product(self, name: str, weight: Weight, k: int | None = None, n_rows: int | None = None) -> Tiling:
        """The tiling of a product with a weight, whose launch is the next one; that of a quantised one has a name of
        its own.

        Args:
            k, n_rows: columns and rows that are multiplied, where they are not the weight's.
        """
        rows, columns = weight.matrix_RK.shape
        n_rows, k = n_rows or rows, k or columns
        named = f"{weight.scheme} {name}".lstrip()
        size = weight.matrix_RK.element_size()
        return self._tiling(named, n_rows, k, partial(Tiling.choose, n_rows, k, self.n_sms, self.tokens, size))

    def _tiling(self, name: str, n_rows: int, k: int, rule: Callable[[], Tiling]) -> Tiling:
        """The tiling of what ``rule`` cuts, whose launch is the next one."""
        key = name, n_rows, k
        tiling = self.tilings.get(key) or rule()
        self.cut[key] = tiling
        self._next = key
        return tiling

    def _parts(self, name: str, tiles: int, tiling: Tiling, rows: int) -> tuple[Tensor, Tensor]:
        """Scratch for the splits of one product: their partial sums, and a counter of the splits that have finished.

        All products of one name share it, since each waits for the one before, so that it stays in the L2 cache.
        """
        key = name, tiles, tiling.splits, rows
        if key not in self._scratch:
            size = tiles * tiling.splits * rows * self.tokens if tiling.splits > 1 else 1
            part = torch.empty(size, **self.wide)
            self._scratch[key] = part, torch.zeros(tiles, dtype=torch.int32, device=part.device)
        return self._scratch[key]

    def _overlaps(self) -> bool:
        """Whether the next launch may start before the previous one has finished; not across streams."""
        overlaps, self.alone = self.pdl and not self.alone, False
        return overlaps

    def _launch(self, kernel: Any, programs: int, *args: Any, warps: int = 4, **constants: Any) -> None:
        pdl = self._overlaps()
        options = {"launch_pdl": True} if pdl else {}

        def launch() -> None:
            kernel[(programs,)](*args, **constants, PDL=pdl, num_warps=warps, **options)

        def compile_only() -> None:
            kernel.warmup(*args, grid=(programs,), **constants, PDL=pdl, num_warps=warps, **options)

        self.launches.append(launch)
        self.compilations.append(compile_only)
        if self._next is not None:
            self.products.setdefault(self._next, []).append((launch, compile_only))
            self._next = None

    def _transfer(self, work: Callable[[], object]) -> None:
        """Plans work that is no kernel of ours, after what was planned so far and before what follows."""

        def run() -> None:
            work()

        self.launches.append(run)
        self.alone = True

    @contextlib.contextmanager
    def _beside(self) -> Iterator[None]:
        """Launches planned inside run on the side stream, after what the main one has done so far. With one stream they
        run on it in order.
        """
        if self.side is None:
            yield
            return
        main, self.launches = self.launches, []
        self.alone = True
        yield
        branch, self.launches = self.launches, main
        side = self.side

        def fork() -> None:
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for launch in branch:
                    launch()

        self.launches.append(fork)
        self.alone = True

    def _meet(self) -> None:
        """Makes the main stream wait for the side one."""
        if self.side is not None:
            side = self.side
            self.launches.append(lambda: torch.cuda.current_stream().wait_stream(side))
            self.alone = True
