"""stored: the dtype of everything a model stores, by name: as options and files say it, as tables print it.

A model's file may name dtypes (``ModelSpec.stored``); an option overrides each of them; what neither names is bfloat16.

    >>> Dtypes.of("bfloat16", state="float32").words
    'weights bfloat16, KV cache bfloat16, SSM state float32, conv state bfloat16'
    >>> Dtypes.of("bfloat16").words
    'all in bfloat16'
    >>> StorageOptions(weights="fp8").dtypes(StoredDtypes()).words
    'quantised weights fp8, all else bfloat16'
"""

from __future__ import annotations

from dataclasses import dataclass

from hybridbench.arch.block import DTYPE_BYTES, KV_FORMATS, Storage
from hybridbench.arch.weights import SCHEMES, Quantised
from hybridbench.errors import BadInput, unknown_name

RUN_KV = tuple(name for name, one in KV_FORMATS.items() if one.codes)
"""Formats of keys and values, beside plain dtypes, in which a decode step runs here."""


@dataclass(frozen=True, slots=True)
class Dtypes:
    """Names of dtypes.

    Args:
        weights: of weights and activations.
        kv, state, conv: of keys and values, of recurrent states, of convolution states.
        quantised: how weights are quantised; None if they are not.
    """

    weights: str
    kv: str
    state: str
    conv: str
    quantised: Quantised | None = None

    @classmethod
    def of(cls, dtype: str, state: str | None = None, kv: str | None = None) -> Dtypes:
        """Everything in ``dtype`` but what has a dtype of its own."""
        return cls(dtype, kv or dtype, state or dtype, dtype)

    @property
    def storage(self) -> Storage:
        """Their bytes."""
        kv = KV_FORMATS[self.kv]
        return Storage(
            DTYPE_BYTES[self.weights],
            kv.bytes,
            DTYPE_BYTES[self.state],
            DTYPE_BYTES[self.conv],
            quantised=self.quantised,
            kv_codes=kv.codes,
            kv_scale_bytes=kv.scale_bytes,
        )

    def to_dict(self) -> dict[str, str]:
        """Plain values for a JSON document."""
        return {
            "dtype": self.weights,
            "weight_dtype": self.weights if self.quantised is None else self.quantised.scheme.name,
            "kv_dtype": self.kv,
            "state_dtype": self.state,
            "conv_dtype": self.conv,
        }

    @property
    def words(self) -> str:
        """All of them in one line."""
        same = len({self.weights, self.kv, self.state, self.conv}) == 1
        if self.quantised is None:
            return f"all in {self.weights}" if same else f"weights {self.weights}, {self.of_caches}"
        name = self.quantised.scheme.name
        if same:
            return f"quantised weights {name}, all else {self.weights}"
        return f"quantised weights {name}, others {self.weights}, {self.of_caches}"

    @property
    def of_caches(self) -> str:
        """Those of caches alone."""
        if self.kv == self.state == self.conv:
            return f"caches {self.kv}"
        return f"KV cache {self.kv}, SSM state {self.state}, conv state {self.conv}"


@dataclass(frozen=True, slots=True)
class StoredDtypes:
    """What a model's file says about its storage; None for what it does not name."""

    dtype: str | None = None
    state: str | None = None
    kv: str | None = None
    quantised: Quantised | None = None


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """What was asked for in options; None leaves it to the file, and to bfloat16 where that is silent.

    Args:
        dtype: of weights, activations and caches.
        state, kv: of recurrent states, and of keys and values.
        weights: a scheme of quantisation; a plain dtype stores quantised weights in it.

    Raises:
        BadInput: an unknown name.
    """

    dtype: str | None = None
    state: str | None = None
    kv: str | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        for name in (self.dtype, self.state):
            if name is not None:
                check_dtype(name)
        checks = (
            ("KV dtype", self.kv, list(KV_FORMATS)),
            ("weight dtype", self.weights, [*SCHEMES, *DTYPE_BYTES]),
        )
        for what, asked, known in checks:
            if asked is not None and asked not in known:
                raise unknown_name(what, asked, known)

    def dtypes(self, stored: StoredDtypes) -> Dtypes:
        """The dtypes of a model whose file says ``stored``.

        A ``--dtype`` overrides every dtype that the file names for weights and caches, but not its quantisation.

        Raises:
            BadInput: plain weights in another dtype than activations.
        """
        dtype = self.dtype or stored.dtype or "bfloat16"
        if self.weights in DTYPE_BYTES and self.weights != dtype:
            raise BadInput(f"--weight-dtype {self.weights} with activations in {dtype}: give --dtype {self.weights}.")
        quantised = stored.quantised
        if self.weights is not None:
            quantised = Quantised.asked(self.weights) if self.weights in SCHEMES else None
        return Dtypes(dtype, self.kv or stored.kv or dtype, self.state or stored.state or dtype, dtype, quantised)


def check_dtype(name: str) -> None:
    """Check that a name is that of a plain dtype.

    Raises:
        BadInput: it is not.
    """
    if name in SCHEMES or name in KV_FORMATS.keys() - DTYPE_BYTES:
        raise BadInput(
            f"dtype '{name}': no kernel here computes in it; give {', '.join(DTYPE_BYTES)}, and store weights in it "
            f"with --weight-dtype, keys and values with --kv-dtype."
        )
    if name not in DTYPE_BYTES:
        raise unknown_name("dtype", name, DTYPE_BYTES)


def check_runs(dtypes: Dtypes) -> None:
    """Check that kernels here run a model in these dtypes.

    Raises:
        BadInput: weights or keys and values are quantised as no kernel here runs them, or states are narrower than
            weights.
    """
    if dtypes.quantised is not None and not dtypes.quantised.runs:
        raise BadInput(
            f"weights in {dtypes.quantised.scheme.name}: no kernel here runs them; measure with "
            f"--weight-dtype {dtypes.weights}, and predict the others."
        )
    if dtypes.kv != dtypes.weights and dtypes.kv not in RUN_KV:
        raise BadInput(
            f"keys and values in {dtypes.kv} beside weights in {dtypes.weights}: no kernel here runs them; measure "
            f"with --kv-dtype {dtypes.weights}, and predict the others."
        )
    if DTYPE_BYTES[dtypes.state] < DTYPE_BYTES[dtypes.weights]:
        raise BadInput(
            f"an SSM state in {dtypes.state} beside weights in {dtypes.weights}: no kernel here runs it; measure with "
            f"--state-dtype {dtypes.weights}, and predict the others."
        )
