"""weights: the matrices that a block multiplies by, and the bytes of one in each scheme of quantisation.

A scheme stores a matrix of ``rows`` outputs by ``columns`` inputs as codes of a few bits and, for each block of it, a
scale and perhaps a zero point. Norms, biases, convolutions and embeddings keep the model's dtype, and so does every
matrix that a file leaves out.

    fp8         E4M3 with a float32 scale for each row
    fp8-block   E4M3 with a float scale for each block of 128 x 128 (DeepSeek-V3)
    fp8-tensor  E4M3 with a float scale for a whole matrix
    int8        a scale for each row
    gptq, awq   codes, scales and zero points of groups along a row, codes packed into words of 32 bits
    nf4         bitsandbytes: a float32 maximum for 64 codes, or with double quantisation a byte, and a float32 for 256
                of these
    mxfp4       32 codes with a power of two in one byte (OCP microscaling formats 1.0)
    nvfp4       16 codes with an E4M3 scale, and a float32 scale of the whole matrix

A decode step runs ``fp8`` and ``int8`` here (``Scheme.codes``): projections, feed-forward blocks, embedding and head.
One row of this table is all that predictions and kernels know of such a format.

Sources: AutoGPTQ's ``QuantLinear`` (qweight, qzeros, scales, g_idx), AutoAWQ's ``WQLinear_GEMM``, bitsandbytes'
``QuantState.as_dict``, compressed-tensors' compressors, transformers' ``FP8Linear``, mlx's ``quantize``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Part = Literal[
    "attention", "mixer", "mlp", "expert", "shared expert", "router", "attention router", "layer", "rows", "table"
]
"""Where a matrix stands: a file names modules to leave out by it.

Routers pick or weigh: experts, or the heads of an indexer. ``layer`` is beside the mixer and the feed-forward block;
``rows`` are looked up by token in a layer, and a ``table`` is the embedding or the head.
"""

_WHOLE: tuple[Part, ...] = ("router", "attention router", "rows")
"""What only a scheme for everything quantises."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """``count`` matrices of one name and shape in a block.

    Args:
        name: of its linear layer in the usual classes, such as ``q_proj``.
        rows, columns: outputs and inputs.
    """

    name: str
    rows: int
    columns: int
    part: Part
    count: int = 1

    @property
    def size(self) -> int:
        """Elements of all of them."""
        return self.rows * self.columns * self.count


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a matrix is stored in fewer bits.

    Args:
        name: as it is typed and printed.
        bits: of a code.
        block_rows, block_columns: shape of the part that shares a scale; None for the whole side.
        scale_bytes: of a block's scale.
        zero_bits: of a block's zero point, packed along the rows; 0 for none.
        word_bits: codes are packed into words of so many bits along ``packs``; zero points along the rows.
        packs: ``columns`` or ``rows``.
        flat: blocks are of consecutive elements, ``block_columns`` of them, whatever the rows.
        nested: how many of the scales share a float32 scale of their own; 0 for none.
        column_bytes: of what is stored for each column, as GPTQ's order of groups.
        matrix_bytes: of what is stored once for a matrix: a global scale, tables of values, a shape.
        everywhere: MLX's rule: routers and rows are quantised as well, and no matrix that its groups do not divide.
        experts_only: only routed experts are.
        codes: torch's dtype of a code, where modules and kernels here multiply by such matrices; they take a code of 8
            bits and a scale for each row. Empty for schemes that are only counted.
        rounding: the largest relative error of a matrix of normally distributed weights, where there are ``codes``.
    """

    name: str
    bits: int
    block_rows: int | None = 1
    block_columns: int | None = None
    scale_bytes: int = 2
    zero_bits: int = 0
    word_bits: int = 8
    packs: str = "columns"
    flat: bool = False
    nested: int = 0
    column_bytes: int = 0
    matrix_bytes: int = 0
    everywhere: bool = False
    experts_only: bool = False
    codes: str = ""
    rounding: float = 0.0

    def takes(self, matrix: Matrix) -> bool:
        """Whether matrices of this part are quantised."""
        if self.experts_only:
            return matrix.part == "expert"
        if self.everywhere:
            return matrix.columns % (self.block_columns or 1) == 0
        return matrix.part not in _WHOLE

    def bytes(self, matrix: Matrix) -> int:
        """Bytes of all ``count`` matrices: codes, scales, zero points and what else the scheme stores."""
        return matrix.count * self._one(matrix.rows, matrix.columns)

    def _one(self, rows: int, columns: int) -> int:
        fixed = columns * self.column_bytes + self.matrix_bytes
        if self.flat:
            assert self.block_columns is not None
            scales = -(-rows * columns // self.block_columns)
            outer = 4 * -(-scales // self.nested) if self.nested else 0
            return -(-rows * columns * self.bits // 8) + scales * self.scale_bytes + outer + fixed
        down = 1 if self.block_rows is None else -(-rows // self.block_rows)
        across = 1 if self.block_columns is None else -(-columns // self.block_columns)
        along, lines = (columns, rows) if self.packs == "columns" else (rows, columns)
        codes = lines * self._packed(along, self.bits)
        zeros = across * self._packed(down, self.zero_bits)
        return codes + down * across * self.scale_bytes + zeros + fixed

    def _packed(self, count: int, bits: int) -> int:
        """Bytes of ``count`` codes in whole words."""
        return -(-count * bits // self.word_bits) * self.word_bits // 8


@dataclass(frozen=True, slots=True)
class Quantised:
    """A scheme and the matrices that it leaves out.

    Args:
        whole: names of the matrices that this block keeps in the model's dtype.
        by_layer: the same for each sublayer of the model; empty where no sublayer leaves anything out.
        by_symbol: the same for each symbol of its pattern, for a model of the same kind with another number of layers.
        tables: which of ``embed_tokens`` and ``lm_head`` are quantised.
    """

    scheme: Scheme
    whole: frozenset[str] = frozenset()
    by_layer: tuple[frozenset[str], ...] = ()
    by_symbol: tuple[tuple[str, frozenset[str]], ...] = ()
    tables: frozenset[str] = frozenset()

    @classmethod
    def asked(cls, name: str) -> Quantised:
        """What an option asks for by the name of a scheme: as modules here quantise, where they can."""
        scheme = SCHEMES[name]
        return cls(scheme, LOW_RANK, tables=TABLES) if scheme.codes else cls(scheme)

    @property
    def runs(self) -> bool:
        """Whether a decode step here runs weights that are stored so."""
        return bool(self.scheme.codes) and self == Quantised.asked(self.scheme.name)

    def of_layers(self, layers: Sequence[str]) -> list[Quantised]:
        """How each sublayer is stored; in a model with other layers than the file's, as the first of its symbol."""
        whole: Sequence[frozenset[str]] = self.by_layer
        if not whole:
            return [self] * len(layers)
        if len(whole) != len(layers):
            of_symbol = dict(self.by_symbol)
            whole = [of_symbol.get(symbol, frozenset()) for symbol in layers]
        made = {names: replace(self, whole=names, by_layer=(), by_symbol=()) for names in set(whole)}
        return [made[names] for names in whole]

    def change(self, matrices: Iterable[Matrix], element_bytes: int) -> int:
        """Bytes that the matrices take, less what they would take at ``element_bytes`` an element: negative."""
        return sum(
            self.scheme.bytes(matrix) - matrix.size * element_bytes
            for matrix in matrices
            if matrix.name not in self.whole and self.scheme.takes(matrix)
        )

    def table_change(self, name: str, rows: int, columns: int, element_bytes: int) -> int:
        """``change`` of rows of the embedding or the head; 0 where it is not quantised."""
        table = Matrix(name, rows, columns, "table")
        if name not in self.tables or not self.scheme.takes(table):
            return 0
        return self.scheme.bytes(table) - table.size * element_bytes


LOW_RANK = frozenset(("dt_proj", "f_b_proj", "g_b_proj", *(f"{one}_lora.2" for one in "wavg")))
"""Matrices of low rank that mixers multiply by within other kernels than a projection's: modules here keep them whole.

They are some percent of a mixer's weights at most.
"""
TABLES = frozenset(("embed_tokens", "lm_head"))

FP8 = Scheme("fp8", 8, scale_bytes=4, codes="float8_e4m3fn", rounding=3.5e-2)  # 2.6e-2 is expected
FP8_BLOCK = Scheme("fp8-block", 8, 128, 128, scale_bytes=4)
FP8_TENSOR = Scheme("fp8-tensor", 8, None, None, scale_bytes=4)
INT8 = Scheme("int8", 8, codes="int8", rounding=1.5e-2)  # 8e-3 to 1e-2 are
GPTQ = Scheme("gptq", 4, 1, 128, zero_bits=4, word_bits=32, packs="columns", column_bytes=4)
AWQ = Scheme("awq", 4, 1, 128, zero_bits=4, word_bits=32, packs="rows")
NF4 = Scheme("nf4", 4, None, 64, scale_bytes=4, flat=True, matrix_bytes=16 * 4)
NF4_DOUBLE = Scheme("nf4-double", 4, None, 64, scale_bytes=1, flat=True, nested=256, matrix_bytes=(16 + 256) * 4)
MXFP4 = Scheme("mxfp4", 4, 1, 32, scale_bytes=1)
NVFP4 = Scheme("nvfp4", 4, 1, 16, scale_bytes=1, matrix_bytes=4)
INT4 = Scheme("int4", 4, 1, 128, word_bits=32)

SCHEMES = {
    scheme.name: scheme for scheme in (FP8, FP8_BLOCK, FP8_TENSOR, INT8, INT4, GPTQ, AWQ, NF4, NF4_DOUBLE, MXFP4, NVFP4)
}
"""The values of ``--weight-dtype`` beside the plain dtypes."""

RUN_SCHEMES = tuple(name for name, scheme in SCHEMES.items() if scheme.codes)
"""Those in which a decode step runs here."""
