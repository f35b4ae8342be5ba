"""storage: bytes per element of what a model keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from hybridbench.arch.weights import Matrix, Quantised

DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class KvFormat:
    """How numbers of a cache of keys and values are stored.

    Args:
        name: as it is typed and printed.
        bytes: of a number.
        codes: torch's dtype of a code, where attention's modules and kernels here read it; empty where none does.
        scale_bytes: of the scale that the keys of each sequence and head share, and its values; 0 without one.
    """

    name: str
    bytes: int
    codes: str = ""
    scale_bytes: int = 0


KV_FORMATS = {
    one.name: one
    for one in (
        *(KvFormat(name, size) for name, size in DTYPE_BYTES.items()),
        KvFormat("fp8", 1, "float8_e4m3fn", 4),
        KvFormat("int8", 1),
    )
}
"""The values of ``--kv-dtype``. The scales of a format that is only counted are an engine's, and left out."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes per element of what a model keeps.

    Args:
        weight_bytes: of weights that are not quantised, and of activations.
        own_state_bytes: kinds of block whose recurrent state has a dtype of its own, with its bytes.
        short_conv: a conv state has d_conv - 1 columns, as serving engines keep it, and not d_conv as mamba_ssm does.
        quantised: how weights are quantised, None if they are not.
        kv_codes: as ``KvFormat.codes``; empty for a plain dtype.
        kv_scale_bytes: as ``KvFormat.scale_bytes``.
    """

    weight_bytes: int = 2
    kv_bytes: int = 2
    ssm_bytes: int = 2
    conv_bytes: int = 2
    own_state_bytes: tuple[tuple[str, int], ...] = ()
    short_conv: bool = False
    quantised: Quantised | None = None
    kv_codes: str = ""
    kv_scale_bytes: int = 0

    @classmethod
    def of(cls, dtype: str, state_dtype: str | None = None) -> Storage:
        """Everything in ``dtype``, the SSM state in ``state_dtype`` where one is given."""
        size = DTYPE_BYTES[dtype]
        return cls(size, size, DTYPE_BYTES[state_dtype or dtype], size)

    def columns(self, usual: int, taps: int) -> int:
        """Columns of the state of a conv of ``taps`` that usually has ``usual``."""
        return taps - 1 if self.short_conv and usual == taps > 0 else usual

    def state_bytes(self, kind: str) -> int:
        """Bytes per element of the recurrent state of a kind of block."""
        return dict(self.own_state_bytes).get(kind, self.ssm_bytes)

    def change(self, matrices: Iterable[Matrix]) -> int:
        """Bytes that quantisation adds to those of matrices in the plain dtype: negative, or 0 without any."""
        return 0 if self.quantised is None else self.quantised.change(matrices, self.weight_bytes)

    def table_change(self, name: str, rows: int, columns: int) -> int:
        """``change`` of rows of ``embed_tokens`` or ``lm_head``."""
        return 0 if self.quantised is None else self.quantised.table_change(name, rows, columns, self.weight_bytes)

    def by_layer(self, layers: Sequence[str]) -> list[Storage]:
        """How each sublayer of a model is stored, whose symbols are ``layers``."""
        if self.quantised is None:
            return [self] * len(layers)
        return [replace(self, quantised=one) for one in self.quantised.of_layers(layers)]
