"""recurrent: what mixers with a state of fixed size share: a causal conv, a recurrence per token, its chunked form.

The ``exact`` convention counts the recurrence token by token, ``hardware`` the chunked (or parallel) form over whole
chunks. Kernels of this kind keep inputs rather than states for the backward pass and run the core's forward again there
(Mamba's selective scan, flash-linear-attention's chunk kernels), so ``hardware`` training is four cores: forward, the
recomputation, and twice the forward for the gradients. That last figure is an estimate, not a count of launches.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from typing_extensions import override

from hybridbench.arch.block import CacheBytes, Convention, Flops, Mixer, Rescale, Storage, refuse_paper
from hybridbench.arch.plain_scan import PlainScan, chunks_at_once
from hybridbench.arch.reasons import CHUNKED, SCAN_BACKWARD, Reason
from hybridbench.arch.weights import Matrix
from hybridbench.sizes import aligned


class Recurrent(Mixer):
    """A mixer whose core is a causal depthwise conv of ``taps`` (0 for none) and a recurrence."""

    @property
    def conv_channels(self) -> int:
        """Channels of the conv; 0 without one."""
        return 0

    @property
    @override
    def conv_parts(self) -> tuple[int, ...]:
        """Channels of each convolution that a module runs."""
        return (self.conv_channels,)

    @property
    def conv_columns(self) -> int:
        """Columns of the conv state where the storage names none."""
        return self.taps

    @property
    @abstractmethod
    def state_size(self) -> int:
        """Elements of the recurrent state of a sequence."""

    @abstractmethod
    def _recurrence(self) -> int:
        """Scan FLOPs per token as a recurrence."""

    @abstractmethod
    def _parallel_scan(self, tokens: int) -> int:
        """Scan FLOPs of the form that kernels run over ``tokens`` positions."""

    def _conv(self) -> int:
        """Conv FLOPs per token."""
        return 2 * self.taps * self.conv_channels

    @override
    def core_prefill(self, tokens: int, convention: Convention) -> Flops:
        refuse_paper(convention, f"blocks of kind {self.kind}")
        exact = convention is Convention.EXACT
        scan = tokens * self._recurrence() if exact else self._parallel_scan(tokens)
        return Flops(scan=scan, conv=tokens * self._conv())

    @override
    def core_decode(self, context: int, convention: Convention) -> Flops:
        refuse_paper(convention, f"blocks of kind {self.kind}")
        return Flops(scan=self._recurrence(), conv=self._conv())

    @override
    def core_train(self, tokens: int, convention: Convention) -> Flops:
        forward = self.core_prefill(tokens, convention)
        if convention is not Convention.HARDWARE:
            return 3 * forward
        return Flops(scan=4 * forward.scan, conv=3 * forward.conv)

    @override
    def core_reasons(self, work: str, context: int) -> list[Reason]:
        if work == "decode":
            return []
        scan = f"{self.name} scan"
        exact, chunked = (self.core_prefill(context, each).scan for each in (Convention.EXACT, Convention.HARDWARE))
        times = 3 if work == "train" else 1
        found = [Reason(scan, CHUNKED, times * (chunked - exact))]
        if work == "train":
            both = self.core_train(context, Convention.HARDWARE).scan
            found.append(Reason(scan, SCAN_BACKWARD, both - 3 * chunked))
        return found

    @override
    def executed_scan(self, tokens: int, *, training: bool, sequences: int = 1, one_pass: bool = False) -> int:
        core = self.core_train if training else self.core_prefill
        return core(tokens, Convention.HARDWARE).scan

    @override
    def kernel_flops(
        self, parts: Sequence[str], shapes: Sequence[tuple[int, ...]], *, step: bool, training: bool, one_pass: bool
    ) -> dict[str, int]:
        return self._scan_and_conv_flops(parts, shapes, step=step, training=training, one_pass=one_pass)

    @override
    def cache(self, context: int, storage: Storage) -> CacheBytes:
        columns = storage.columns(self.conv_columns, self.taps)
        return CacheBytes(
            ssm=self.state_size * storage.state_bytes(self.kind), conv=self.conv_channels * columns * storage.conv_bytes
        )

    @override
    def cache_traffic(self, context: int, storage: Storage) -> int:
        return 2 * self.cache(context, storage).total


class PackedHeads(Recurrent):
    """A recurrence of ``d_inner`` channels in heads, whose inputs all come from one projection."""

    d_inner: int
    head_dim: int
    n_groups: int
    d_state: int
    chunk_size: int

    @property
    def n_heads(self) -> int:
        """Heads of the state space, ``head_dim`` channels each."""
        return self.d_inner // self.head_dim

    @property
    @override
    def out_width(self) -> int:
        return self.d_inner

    @property
    @override
    def out_heads(self) -> int:
        return self.n_heads

    @abstractmethod
    def _in_width(self, borrows_value: bool = False) -> int:
        """Columns of the input projection."""

    @property
    @override
    def packed_row(self) -> int:
        return aligned(self._in_width())

    def _scan_of_chunks(self, tokens: int, sequences: int, scored: int) -> PlainScan:
        """A plain scan with ``scored`` matrices of scores a chunk, and outputs and products with states by head."""
        q, state = self.chunk_size, 2 * self.d_state * self.d_inner
        return chunks_at_once(
            tokens,
            sequences,
            self.n_heads,
            q,
            per_token=2 * q * (self.d_state * scored + self.d_inner) + 2 * state,
            elementwise=2 * self.d_inner,
            state=state,
        )

    @override
    def sizes_scaled(self, part: Rescale) -> dict[str, int]:
        return {"d_inner": part(self.d_inner, self.head_dim * self.n_groups)}

    @override
    def matrices(self, borrows_value: bool = False) -> tuple[Matrix, ...]:
        return (
            Matrix("in_proj", self._in_width(borrows_value), self.d_model, "mixer"),
            Matrix("out_proj", self.d_model, self.out_width, "mixer"),
        )

    @override
    def in_matmul_params(self, borrows_value: bool = False) -> int:
        return self.d_model * self._in_width(borrows_value)


class SquareHeads(Recurrent):
    """A recurrence of ``n_heads`` heads, whose state is a square of ``head_dim`` channels each."""

    n_heads: int
    head_dim: int

    @property
    @override
    def out_width(self) -> int:
        return self.n_heads * self.head_dim

    @property
    @override
    def out_heads(self) -> int:
        return self.n_heads

    @property
    @override
    def state_size(self) -> int:
        return self.out_width * self.head_dim
