"""mixer: what a block that mixes positions answers: its projections, and the core between them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import ClassVar

from typing_extensions import override

from hybridbench.arch.block.counts import Convention, Flops
from hybridbench.arch.block.storage import Storage
from hybridbench.arch.block.sublayer import Block
from hybridbench.arch.plain_scan import PlainScan
from hybridbench.arch.reasons import Reason
from hybridbench.arch.terms import Activations, Term


class Mixer(Block):
    """A block that mixes positions: input projections, a core, and an output projection of ``out_width`` columns.

    A parallel block replaces the output projection and may lend one branch's value to another (``borrows_value``).
    """

    keeps_values: ClassVar[bool] = False
    """Its cache holds the keys and values of each token by head."""

    d_model: int

    @property
    @abstractmethod
    def out_width(self) -> int:
        """Channels of the core's output, which the output projection reads."""

    @property
    def out_heads(self) -> int:
        """Heads of the core's output, for a norm per head; 1 if its channels are not grouped."""
        return 1

    @property
    @override
    def mixers(self) -> tuple[Mixer, ...]:
        return (self,)

    @property
    def span(self) -> int | None:
        """The most keys that a token sees if a window bounds them, else None."""
        return None

    @property
    def rotation(self) -> tuple[Hashable, int] | None:
        """The kind of rotary embedding and the width it rotates; None if it reads no table of cosines and sines."""
        return None

    def value_bytes(self, context: int, storage: Storage) -> int:
        """Bytes of the values in its cache, which another branch may read too."""
        return 0

    def value_traffic(self, context: int, storage: Storage) -> int:
        """The values' part of ``cache_traffic``."""
        return 0

    def core_reasons(self, work: str, context: int) -> list[Reason]:
        """Why ``hardware`` counts its core differently from ``exact``."""
        return []

    @property
    def conv_parts(self) -> tuple[int, ...]:
        """Channels of each depthwise convolution that its module runs over a sequence."""
        return ()

    @property
    def taps(self) -> int:
        """Taps of its convolutions; 0 without one."""
        return 0

    def executed_scan(self, tokens: int, *, training: bool, sequences: int = 1, one_pass: bool = False) -> int:
        """FLOPs of a sequence that the kernels of its scan execute, in tiles that are not autotuned.

        Args:
            tokens: of the sequence.
            training: forward and backward.
            sequences: how many sequences run at once.
            one_pass: as for ``kernel_flops``.
        """
        return 0

    def plain_scan(self, tokens: int, sequences: int) -> PlainScan:
        """What operator counters see of the reference implementation of its scan, of one sequence.

        Args:
            tokens: of the sequence.
            sequences: how many run at once, which bounds how much of each does.
        """
        raise NotImplementedError(f"blocks of kind {self.kind} have no scan to run")

    @property
    def plain_step_products(self) -> int:
        """FLOPs of the reference implementation of its step that are matrix products, which operator counters see."""
        return 0

    def _scan_and_conv_flops(
        self, parts: Sequence[str], shapes: Sequence[tuple[int, ...]], *, step: bool, training: bool, one_pass: bool
    ) -> dict[str, int]:
        """``kernel_flops`` of a mixer with a convolution and a scan."""
        batch = shapes[0][0]
        if step:
            core = self.core_decode(0, Convention.EXACT)
            flops = {"conv": core.conv, "scan": core.scan}
        else:
            tokens = shapes[0][1]
            conv = 2 * self.taps * sum(self.conv_parts) * tokens * (3 if training else 1)
            scan = self.executed_scan(tokens, training=training, sequences=batch, one_pass=one_pass)
            flops = {"conv": conv, "scan": scan}
        return {f"{self.name} {part}": batch * flops[part] for part in parts if part in flops}

    def core_activations(self, size: int, borrows_value: bool = False, keeps_output: bool = True) -> Activations | None:
        """``activations`` of its core, which is between the two projections.

        Args:
            size: bytes per element.
            borrows_value: it reads another branch's value.
            keeps_output: a later operation keeps the core's output.
        """
        return None

    @override
    def activations(self, size: int) -> Activations | None:
        """Those of the core, and the input of the first projection. The second one's input is the core's output."""
        core = self.core_activations(size)
        if core is None:
            return None
        entry = Term("block input", size * self.d_model, cheap=True)
        return replace(core, saved=(entry, *core.saved))

    @property
    def out_bias_params(self) -> int:
        """Parameters of the output projection's bias; 0 for a joint output projection."""
        return 0

    @abstractmethod
    def in_params(self, convention: Convention, borrows_value: bool = False) -> int:
        """Parameters before the output projection, without the value projection if the value is borrowed."""

    @abstractmethod
    def in_matmul_params(self, borrows_value: bool = False) -> int:
        """How many of ``in_params`` multiply every token in a matrix product."""

    @abstractmethod
    def core_prefill(self, tokens: int, convention: Convention) -> Flops:
        """FLOPs of the core (scores and values, or conv and scan) over ``tokens`` positions."""

    @abstractmethod
    def core_decode(self, context: int, convention: Convention) -> Flops:
        """FLOPs of the core for one token."""

    def core_train(self, tokens: int, convention: Convention) -> Flops:
        """FLOPs of the core, forward and backward."""
        return 3 * self.core_prefill(tokens, convention)

    @override
    def params(self, convention: Convention = Convention.EXACT) -> int:
        bias = 0 if convention is Convention.PAPER else self.out_bias_params
        return self.in_params(convention) + self.out_width * self.d_model + bias

    def in_padding(self, borrows_value: bool = False) -> int:
        """Columns that the ``hardware`` convention adds to the input projection of a sequence.

        They are the padding of its rows and the rest of the last tile.
        """
        return 0

    @override
    def products(self, convention: Convention = Convention.EXACT, sequence: bool = True) -> dict[str, int]:
        found = self.in_products(convention, sequence)
        found[f"{self.name} out_proj"] = 2 * self.out_width * self.d_model
        if (
            convention is Convention.PAPER
        ):  # it counts all parameters as products, the other conventions only those that are
            found[f"{self.name} other parameters"] = 2 * self.params(convention) - sum(found.values())
        return found

    def in_products(self, convention: Convention, sequence: bool, borrows_value: bool = False) -> dict[str, int]:
        """The input projections' part of ``products``."""
        padded = convention is Convention.HARDWARE and sequence
        extra = self.d_model * self.in_padding(borrows_value) if padded else 0
        return {f"{self.name} in_proj": 2 * (self.in_matmul_params(borrows_value) + extra)}

    @override
    def cores(self, work: str, context: int, convention: Convention = Convention.EXACT) -> dict[str, Flops]:
        count = {"train": self.core_train, "prefill": self.core_prefill, "decode": self.core_decode}[work]
        return {self.name: count(context, convention)}

    def _linear(self, convention: Convention, sequence: bool = True) -> int:
        """FLOPs per token outside the core."""
        return sum(self.products(convention, sequence).values())

    @override
    def prefill_flops(self, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
        return Flops(matmul=self._linear(convention) * tokens) + self.core_prefill(tokens, convention)

    @override
    def decode_flops(self, context: int, convention: Convention = Convention.EXACT) -> Flops:
        return Flops(matmul=self._linear(convention, sequence=False)) + self.core_decode(context, convention)

    @override
    def train_flops(self, tokens: int, convention: Convention = Convention.EXACT) -> Flops:
        return Flops(matmul=3 * self._linear(convention) * tokens) + self.core_train(tokens, convention)
