"""language: a whole language model: embedding, pre-norm residual sublayers, final norm, tied head.

It has three entry points, one per kind of work: ``loss`` for training, which multiplies by the head in chunks so that
the logits never exist whole, ``prefill`` for a prompt, and ``decode`` for one token per sequence at device positions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from hybridbench.arch.block import Storage
from hybridbench.arch.weights import SCHEMES
from hybridbench.model.across import Across
from hybridbench.model.block import INIT_STD, BlockModule, Factory, Ops, Step
from hybridbench.model.cache import Cache
from hybridbench.model.checkpoint import remembering
from hybridbench.model.quantised import dequantise, quantise_projections, quantised


class LanguageModel(nn.Module):
    """The model of a spec.

    Args:
        layers: one module per sublayer of the pattern, built with ``make``.
        ops: the callables of its own operations: ``add_rms_norm`` where it runs over sequences, and
            ``linear_cross_entropy`` and ``adamw`` where it is trained.
        d_model, vocab_size: as in the spec.

    ``checkpoint`` is what a forward with gradients keeps (``model.checkpoint``). ``across`` are the ranks of which each
    holds a part of every sublayer and of the vocabulary; None where this process holds them whole. ``share`` is which
    of equal parts of a batch this process works at: its number, and how many there are. Within ``gathering(index)`` the
    weights of a sublayer are whole in this process, or, for None, those of the embedding and the norms. Where weights
    are quantised (``model.quantised``), ``embedding_VD`` holds codes, with a scale of each row and the name of their
    scheme.
    """

    embedding_scale_V: Tensor | None

    def __init__(self, layers: Sequence[BlockModule], ops: Ops, d_model: int, vocab_size: int, make: Factory) -> None:
        super().__init__()
        self.ops = ops
        self.checkpoint = "none"
        self.across: Across | None = None
        self.share = (0, 1)
        self.gathering: Callable[[int | None], AbstractContextManager[None]] = _nothing_to_gather
        self.compiled: dict[int, Callable[..., Tensor]] = {}
        self.fused_step: Callable[..., Any] | None = None
        self.d_model = d_model
        self.norm_eps = make.norm_eps
        self.embedding_VD = make.parameter(vocab_size, d_model)
        self.register_buffer("embedding_scale_V", None)
        self.embedding_scheme = ""
        self.layers = nn.ModuleList(layers)
        self.norm_weights = nn.ParameterList([make.parameter(d_model) for _ in range(len(layers) + 1)])

    def allocate(self, device: torch.device, seed: int) -> None:
        """Turns meta parameters into real ones on ``device`` and initialises them from ``seed``."""
        self.to_empty(device=device)
        generator = torch.Generator(device=device).manual_seed(seed)
        with torch.no_grad():
            self.embedding_VD.normal_(std=INIT_STD, generator=generator)
            for weight in self.norm_weights:
                weight.fill_(1.0)
            for layer in self.blocks:
                layer.initialise(generator)

    def quantise(self, name: str) -> Tensor:
        """Replaces the weights of its products by codes of a scheme of ``arch.weights``; the largest relative error of
        a matrix, a scalar on its device.
        """
        scheme = SCHEMES[name]
        errors = quantise_projections(self, scheme)
        self.embedding_VD, self.embedding_scale_V, error = quantised(self.embedding_VD, scheme)
        self.embedding_scheme = name
        return torch.stack([*errors, error]).max()

    @property
    def blocks(self) -> list[BlockModule]:
        """``layers`` with their type."""
        return cast("list[BlockModule]", list(self.layers))

    @property
    def vocab_size(self) -> int:
        """Words of the whole model, of which this process may hold a part."""
        return self.embedding_VD.shape[0] if self.across is None else self.across.vocab_size

    def embed(self, token: Tensor) -> Tensor:
        """The embedding (..., D) of tokens."""
        if self.across is not None:
            return self.across.embed(token, self.embedding_VD)
        if self.embedding_scale_V is None:
            return F.embedding(token, self.embedding_VD)
        codes = F.embedding(token, self.embedding_VD.view(torch.uint8)).view(self.embedding_VD.dtype)
        return dequantise(codes, self.embedding_scale_V[token], self.dtype)

    def _normed(self, x: Tensor, index: int) -> Tensor:
        return F.rms_norm(x, (self.d_model,), self.norm_weights[index], self.norm_eps)

    def new_caches(self, batch: int, capacity: int, storage: Storage) -> list[Cache | None]:
        """A cache for ``capacity`` tokens a sequence per sublayer; None for a sublayer that keeps nothing."""
        device = self.embedding_VD.device
        return [layer.new_cache(batch, capacity, storage, device) for layer in self.blocks]

    def hidden(
        self, token_BT: Tensor, caches: list[Cache | None] | None = None, position_TD: Tensor | None = None
    ) -> Tensor:
        """The final norm's output at every position (B, T, D), from position 0; fills ``caches`` if given.

        ``position_TD`` is added to every sequence's embedding.
        """
        keeps = self.checkpoint if torch.is_grad_enabled() else "none"
        if keeps == "full":
            assert caches is None, "a forward that is run again cannot fill caches"
            assert position_TD is None, "its embedding is of tokens alone"
            return self.add_normed(self._checkpointed_stream(token_BT), None, len(self.layers))[0]
        with remembering() if keeps == "selective" else contextlib.nullcontext():
            return self.add_normed(*self._stream(token_BT, caches, 0, position_TD), len(self.layers))[0]

    def step_over(self, token_BT: Tensor, start: int = 0) -> Step:
        """The step of a sequence that begins at ``start``. Every rotation is computed here, because compiled layers
        only read them.
        """
        step = Step(torch.arange(start, start + token_BT.shape[1], device=token_BT.device), start)
        for layer in self.blocks:
            layer.make_turns(step)
        return step

    @contextlib.contextmanager
    def compiling(self, layers: dict[int, Callable[..., Tensor]]) -> Iterator[None]:
        """Inside, compiled layers (``compiled_layers``) run instead of the layers that they were compiled from."""
        before, self.compiled = self.compiled, layers
        try:
            yield
        finally:
            self.compiled = before

    def compiled_layers(self) -> dict[int, Callable[..., Tensor]]:
        """Each sublayer's forward under torch.compile, by its index. Sublayers of one kind share their code.

        Embedding, norms between sublayers, head and loss are not compiled, since each is one kernel. Neither are
        experts, whose tokens are counted on the host, nor mixers whose third-party kernels cannot be traced.
        """
        return {
            index: torch.compile(layer.forward, dynamic=False, fullgraph=True)
            for index, layer in enumerate(self.blocks)
            if layer.traceable
        }

    def _checkpointed_stream(self, token_BT: Tensor) -> Tensor:
        """The residual stream after the last sublayer; only the stream before each sublayer is kept for the backward.

        The sum is not fused with the norm here: the fused operation would keep the sum and its two inputs, the branch
        and the stream before, which are three tensors instead of one.
        """
        step = self.step_over(token_BT)
        x_BTD = self.embed(token_BT)
        for index, layer in enumerate(self.blocks):

            def sublayer(x: Tensor, index: int = index) -> Tensor:
                normed, _ = self.add_normed(x, None, index)
                return self.run_layer(index, normed, step, None)

            again = partial(_again, layer)
            x_BTD = x_BTD + checkpoint(sublayer, x_BTD, use_reentrant=False, preserve_rng_state=False, context_fn=again)
        return x_BTD

    def _stream(
        self,
        token_BT: Tensor,
        caches: list[Cache | None] | None,
        start: int = 0,
        position_TD: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The last sublayer's output, and the residual stream to which the next norm adds it."""
        step = self.step_over(token_BT, start)
        branch_BTD, residual_BTD = self.embed(token_BT), None
        if position_TD is not None:
            branch_BTD = branch_BTD + position_TD
        for index in range(len(self.layers)):
            normed, residual_BTD = self.add_normed(branch_BTD, residual_BTD, index)
            branch_BTD = self.run_layer(index, normed, step, caches[index] if caches else None)
        return branch_BTD, residual_BTD

    def run_layer(self, index: int, normed_BTD: Tensor, step: Step, cache: Cache | None) -> Tensor:
        """Sublayer ``index`` over a normed sequence (B, T, D), compiled if it was; fills the cache of a mixer."""
        layer = cast("BlockModule", self.layers[index])
        run = self.compiled.get(index, layer)
        if self.across is None:
            return run(normed_BTD, step, cache) if layer.mixes else run(normed_BTD)
        normed_BTD = self.across.enter(normed_BTD)
        return self.across.leave(run(normed_BTD, step, cache) if layer.mixes else run(normed_BTD))

    def add_normed(self, branch: Tensor, residual: Tensor | None, index: int) -> tuple[Tensor, Tensor]:
        """Norm ``index`` of the sum of a branch and the residual stream, and the sum itself."""
        normed, added = self.ops["add_rms_norm"](branch, residual, self.norm_weights[index], eps=self.norm_eps)
        return normed, added

    @override
    def forward(self, token_BT: Tensor) -> Tensor:
        """Logits at every position (B, T, V)."""
        return F.linear(self.hidden(token_BT), self.embedding_VD)

    @property
    def own_words(self) -> Tensor:
        """The rows of embedding and head that this process holds, without padding."""
        return self.embedding_VD if self.across is None else self.across.own_rows(self.embedding_VD)

    def head_weight(self) -> Tensor:
        """The weight of the head (V, D), gathered where ranks have parts of it."""
        return self.embedding_VD if self.across is None else self.across.whole(self.embedding_VD)

    def head(self, hidden_BD: Tensor) -> Tensor:
        """Logits (B, V) of normed positions; of this process's words where ranks have parts of the vocabulary."""
        if self.embedding_scale_V is None:
            return F.linear(hidden_BD, self.own_words)
        return F.linear(hidden_BD, dequantise(self.embedding_VD, self.embedding_scale_V, self.dtype))

    def pick(self, logits_BV: Tensor) -> Tensor:
        """The word of the largest logit (B)."""
        return logits_BV.argmax(-1) if self.across is None else self.across.pick(logits_BV)

    @property
    def dtype(self) -> torch.dtype:
        """Of the residual stream."""
        dtype: torch.dtype = self.norm_weights[0].dtype
        return dtype

    def loss(self, token_BT: Tensor, target_BT: Tensor) -> Tensor:
        """The mean cross-entropy of the targets. The head's logits never exist whole."""
        hidden_ND = self.hidden(token_BT).flatten(0, 1)
        given = hidden_ND, self.embedding_VD, target_BT.flatten()
        if self.across is not None:
            return self.across.loss(self.ops["linear_cross_entropy"], *given)
        loss: Tensor = self.ops["linear_cross_entropy"](*given)
        return loss

    def prefill(self, token_BT: Tensor, caches: list[Cache | None], start: int = 0) -> Tensor:
        """Fills ``caches`` from a prompt and returns the logits of the last position (B, V).

        Args:
            start: the position of the first token. Where it is not 0, mixers continue from the caches, which must hold
                the ``start`` tokens before.

        Raises:
            Unsupported: a mixer cannot continue from its cache.
        """
        branch_BTD, residual_BTD = self._stream(token_BT, caches, start)
        residual_BD = None if residual_BTD is None else residual_BTD[:, -1]
        last_BD, _ = self.add_normed(branch_BTD[:, -1], residual_BD, len(self.layers))
        return self.head(last_BD)

    def decode(self, token_B: Tensor, position_B: Tensor, caches: list[Cache | None]) -> Tensor:
        """Logits (B, V) after one new token per sequence at absolute ``position_B``; updates ``caches`` in place."""
        step = Step(position_B)
        x_BD = self.embed(token_B)
        for index, layer in enumerate(self.blocks):
            branch_BD = layer.decode(self._normed(x_BD, index), step, caches[index])
            x_BD = x_BD + (branch_BD if self.across is None else self.across.leave(branch_BD))
        return self.head(self._normed(x_BD, len(self.layers)))

    def balance_experts(self) -> None:
        """Moves the biases of routers after a training step; does nothing without experts."""
        for layer in self.blocks:
            layer.balance()


def _nothing_to_gather(_index: int | None) -> AbstractContextManager[None]:
    """The context of weights that are whole anyway."""
    return contextlib.nullcontext()


def _again(
    layer: BlockModule,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of a checkpointed sublayer's forward and of the forward that repeats it."""
    return contextlib.nullcontext(), layer.repeating()
