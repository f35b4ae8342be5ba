"""tiling_table: tilings that were searched on a GPU, by product: how a table is written, read and found.

A table is a JSON file for one kind of GPU. ``hybridbench tune`` writes one into the user's cache, which is looked at
first, and tables of GPUs that were at hand are in ``tilings`` beside this file. A product that no table has gets its
tiling from the rules (``Tiling.choose``). So do all of a table that was made with another release of Triton, which may
need more shared memory for the same tiling, or be slower with it.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs

from hybridbench.errors import BadResults, Blocked
from hybridbench.files import Damaged, from_json, read_text
from hybridbench.model.tiling import Tiling

FORMAT = 1
STATES = ("state", "whole-state")
"""Names of what is no matrix product: the update of a state, by rows of a head or a whole head at a time."""
SHIPPED = Path(__file__).parent / "tilings"
_MOST_BYTES = 4 << 20
_ANEW = "remove it, and products are cut by rules until 'hybridbench tune' makes it anew"


@dataclass(frozen=True, order=True)
class TiledProduct:
    """What a tiling is of.

    Attributes:
        name: the kernel's: ``qkv``, ``mamba2``, ``segments`` (of mixers with several projections side by side),
            ``rwkv7``, ``swiglu``, ``residual``, ``head``, or one of ``STATES``.
        n_rows, k: of the weights; of a ``state`` its head and its columns.
        tokens: rows of x in a tile (``tiling.token_tile``).
    """

    name: str
    n_rows: int
    k: int
    tokens: int


@dataclass(frozen=True)
class Searched:
    """A tiling that was found, and the times of one launch with it and with the rules' own; us."""

    tiling: Tiling
    us: float
    rules_us: float


@dataclass(frozen=True)
class TilingTable:
    """Tilings of one kind of GPU.

    Attributes:
        gpu: its name, as CUDA gives it.
        made_with: packages and their versions.
        entries: what was found for each product.
    """

    gpu: str
    made_with: Mapping[str, str]
    entries: Mapping[TiledProduct, Searched]

    @property
    def release(self) -> tuple[str, ...]:
        """Of Triton, by which kernels were compiled: the first two parts of its version."""
        return _release(self.made_with.get("triton", ""))

    def joined(self, newer: TilingTable) -> TilingTable:
        """The table with a newer one's entries in place of its own, which are gone if Triton's release differs."""
        kept = self.entries if self.release == newer.release else {}
        return replace(newer, entries={**kept, **newer.entries})

    def of(self, tokens: int) -> dict[tuple[str, int, int], Tiling]:
        """The tilings for a tile of so many tokens, by name and size, as ``Launches`` takes them."""
        return {
            (product.name, product.n_rows, product.k): found.tiling
            for product, found in self.entries.items()
            if product.tokens == tokens
        }

    def to_json(self) -> str:
        """The file's text: a line for each product, so that differences can be read."""
        head = {"format": FORMAT, "gpu": self.gpu, "made with": dict(self.made_with)}
        lines = [
            json.dumps(asdict(product) | {"tiling": asdict(one.tiling), "us": one.us, "rules us": one.rules_us})
            for product, one in sorted(self.entries.items())
        ]
        return json.dumps(head)[:-1] + ', "products": [\n' + ",\n".join(lines) + "\n]}\n"


def _release(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])


def read_table(path: Path) -> TilingTable:
    """The table in a file.

    Raises:
        Blocked: the file cannot be read, or is not such a table; the text says why and what to do.
    """
    try:
        return _read(path)
    except Damaged as exc:
        raise Blocked(f"{path} {exc}: {_ANEW}.") from exc


def _read(path: Path) -> TilingTable:
    """The table in a file.

    Raises:
        Damaged: the file cannot be read, or is not such a table.
    """
    body = from_json(read_text(path, _MOST_BYTES))
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise Damaged(f"is no table of tilings of format {FORMAT}")
    try:
        entries = dict(_entry(one) for one in body["products"])
        return TilingTable(str(body["gpu"]), dict(body["made with"]), entries)
    except (KeyError, TypeError, ValueError) as exc:
        why = f"it lacks {exc}" if isinstance(exc, KeyError) else exc
        raise Damaged(f"is no table of tilings ({why})") from exc


def _entry(one: dict[str, Any]) -> tuple[TiledProduct, Searched]:
    product = TiledProduct(str(one["name"]), *(_positive(one, name) for name in ("n_rows", "k", "tokens")))
    tiling = Tiling(**{field.name: _positive(one["tiling"], field.name) for field in fields(Tiling)})
    if product.name not in STATES and (product.k % tiling.block_k or tiling.splits > product.k // tiling.block_k):
        raise ValueError(f"{tiling} does not divide {product}")
    if product.name in STATES and product.n_rows % tiling.rows:
        raise ValueError(f"{tiling} does not divide {product}")
    for name in ("rows", "block_k", "warps"):
        if (size := getattr(tiling, name)) & (size - 1):
            raise ValueError(f"{name} is {size}, not a power of two")
    return product, Searched(tiling, float(one["us"]), float(one["rules us"]))


def _positive(one: dict[str, Any], name: str) -> int:
    if not isinstance(one[name], int) or one[name] < 1:
        raise ValueError(f"{name} is {one[name]!r}, not a positive whole number")
    return int(one[name])


def file_name(gpu: str) -> str:
    """The file of a GPU's table.

    >>> file_name("NVIDIA H200")
    'nvidia-h200.json'
    """
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") + ".json"


def own_table(gpu: str) -> Path:
    """The user's own table of a GPU."""
    return platformdirs.user_cache_path("hybridbench") / "tilings" / file_name(gpu)


@cache
def table_for(gpu: str) -> TilingTable | None:
    """The tables of a GPU that were made with this release of Triton, the user's own entries before the shipped ones;
    None if there is none.

    Raises:
        Blocked: a table is damaged, or was searched on another GPU.
    """
    found: TilingTable | None = None
    for path in (SHIPPED / file_name(gpu), own_table(gpu)):
        if path.exists():
            table = read_table(path)
            if table.gpu != gpu:
                raise Blocked(f"{path} is of {table.gpu}, and this is {gpu}: {_ANEW}.")
            if table.release == _release(version("triton")):
                found = table if found is None else found.joined(table)
    return found


def check_place(path: Path, gpu: str) -> TilingTable | None:
    """Checks, before anything is searched, that a GPU's table can be written to a file; the table it holds already.

    Raises:
        BadResults: the file holds something else or a table of another GPU, or cannot be written.
    """
    if path.is_dir():
        raise BadResults(f"{path} is a folder: name a file in it with -o.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent):
            kept = _read(path) if path.exists() else None
    except OSError as exc:
        raise _unwritable(path, exc) from exc
    except Damaged as exc:
        raise BadResults(f"{path} {exc}: name another file with -o, or remove this one.") from exc
    if kept is not None and kept.gpu != gpu:
        raise BadResults(f"{path} is of {kept.gpu}, and this is {gpu}: name another file with -o.")
    return kept


def write_table(path: Path, table: TilingTable, without: Collection[TiledProduct] = ()) -> TilingTable:
    """Writes a table, joined with the one of that GPU that the file holds already; returns what the file then holds.

    The file is there whole or as it was, so that a search that is stopped leaves no half of a table.

    Args:
        without: products that the file is not to hold.

    Raises:
        BadResults: as for ``check_place``.
    """
    kept = check_place(path, table.gpu)
    whole = table if kept is None else kept.joined(table)
    whole = replace(whole, entries={product: one for product, one in whole.entries.items() if product not in without})
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as apart:
            part = Path(apart) / path.name
            part.write_text(whole.to_json(), encoding="utf-8")
            part.replace(path)
    except OSError as exc:
        raise _unwritable(path, exc) from exc
    table_for.cache_clear()
    return whole


def _unwritable(path: Path, exc: OSError) -> BadResults:
    return BadResults(f"{path} cannot be written ({exc.strerror}): name another file with -o.")
