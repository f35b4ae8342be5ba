"""gradients: the forward and backward of a training step, layer by layer, compared with its rows alone.

Each layer runs over the batch and over each row by itself, on the batch's own input and with one random gradient of its
output. Outputs and gradients of the input are compared row by row; a parameter's gradient must be the sum of the rows'
gradients. At the end the same is done with the loss, which is a mean over rows. Of many rows only a sample is run
alone, and only those rows get a gradient. A single sequence is compared with another implementation, once per kind of
layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from typing_extensions import override

from hybridbench.kernels.verify import FEWEST_COMPARED
from hybridbench.model.checkpoint import remembering
from hybridbench.workload.at_size.errors import GRADIENT, of_whole, over_positions
from hybridbench.workload.at_size.sequence import OverLayers, choosing, fitting, replaying

MOST_ROWS = 8
"""At most so many rows are run alone."""
SEED = 20_251_128

Forward = Callable[..., tuple[Tensor, ...]]
"""A forward, called with a row (None for the batch) and the inputs."""


def sampled(batch: int) -> list[int]:
    """The rows that are run alone: all, or the first, the last and evenly spaced ones between them."""
    if batch <= MOST_ROWS:
        return list(range(batch))
    return sorted({round(index * (batch - 1) / (MOST_ROWS - 1)) for index in range(MOST_ROWS)})


@dataclass(eq=False)
class Backward(OverLayers):
    """The forward and backward of each layer. For a single sequence ``alternatives`` must replace all operations.

    Attributes:
        target_BT: the tokens that the batch is to predict.
    """

    target_BT: Tensor

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        self.rows = sampled(self.token_BT.shape[0])
        self._generator = torch.Generator(device=self.token_BT.device).manual_seed(SEED)

    def run(self) -> None:
        """Compares all layers, the norms between them, and the loss."""
        with self.model.gathering(None):
            self._run()

    def _run(self) -> None:
        model, seen = self.model, set[str]()
        branch, residual = model.embed(self.token_BT).detach(), None
        for index, layer in enumerate(model.layers):
            symbol = self.symbols[index]
            wanted = len(self.token_BT) > 1 or symbol not in seen
            seen.add(symbol)
            normed, added = self._norm(index, branch, residual, wanted)
            del branch, residual
            with model.gathering(index), choosing(layer):
                branch = self._layer(index, layer, normed, wanted)
            residual = added
            del normed, added
        hidden, _ = self._norm(len(model.layers), branch, residual, True)
        del branch, residual
        self._loss(hidden)

    def _norm(self, index: int, branch: Tensor, residual: Tensor | None, wanted: bool) -> tuple[Tensor, Tensor]:
        def forward(_row: int | None, x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
            return self.model.add_normed(x, rest[0] if rest else None, index)

        inputs = [branch] if residual is None else [branch, residual]
        weight = {"weight of a norm": self.model.norm_weights[index]}
        normed, added = self._both(forward, inputs, weight, "norm", f"before layer {index + 1}", wanted)
        return normed, added

    def _layer(self, index: int, layer: nn.Module, normed: Tensor, wanted: bool) -> Tensor:
        symbol, T = self.symbols[index], self.token_BT.shape[1]

        shared = self.step.shared
        names = list(shared)

        def forward(row: int | None, x: Tensor, *left: Tensor) -> tuple[Tensor, ...]:
            step = self.step.sharing(dict(zip(names[: len(left)], left, strict=True)))
            with replaying(layer, row * T, (row + 1) * T) if row is not None else contextlib.nullcontext():
                out = self.model.run_layer(index, x, step, None)
            names.extend(name for name in step.shared if name not in names)
            return out, *(step.shared[name] for name in names[len(left) :])

        parameters = {f"{name} of {symbol}": one for name, one in layer.named_parameters()}
        inputs = [normed, *shared.values()]
        out, *left = self._both(forward, inputs, parameters, f"output of {symbol}", f"layer {index + 1}", wanted)
        shared.update(zip(names[len(shared) :], left, strict=True))
        return out

    def _both(
        self,
        forward: Forward,
        inputs: list[Tensor],
        parameters: dict[str, nn.Parameter],
        what: str,
        where: str,
        wanted: bool,
    ) -> tuple[Tensor, ...]:
        """The outputs of a forward over the batch; compares them and all gradients with those of its rows."""
        if not wanted:
            with torch.no_grad():
                return forward(None, *inputs)
        outs, up, found = self._gradients(partial(forward, None), inputs, parameters)
        size = len(inputs)
        sums: list[Tensor | None] = [None if g is None else torch.zeros_like(g, dtype=_wide(g)) for g in found[size:]]
        for row in self.rows:
            part = slice(row, row + 1)
            of_part = [x[part] for x in inputs], parameters, [u[part] for u in up]
            with fitting(), self.alternatives.in_place():
                mine, _, of_row = self._gradients(partial(forward, row), *of_part)
            at = f"{where}, row {row + 1}"
            for one, whole in zip(mine, outs, strict=True):
                self.errors.add(what, at, over_positions(one[0], whole[row]))
            for d_one, d_whole in zip(of_row[:size], found[:size], strict=True):
                if d_one is not None and d_whole is not None:
                    error = over_positions(d_one[0], d_whole[row])
                    self.errors.add(f"gradient of the input of {what}", at, error, GRADIENT)
            for total, d_one in zip(sums, of_row[size:], strict=True):
                if total is not None and d_one is not None:
                    total += d_one
            del mine, of_row
        for name, total, d_whole in zip(parameters, sums, found[size:], strict=True):
            if total is not None and d_whole is not None and d_whole.numel() >= FEWEST_COMPARED:
                self.errors.add(f"gradient of {name}", where, of_whole(d_whole, total), GRADIENT)
        return tuple(outs)

    def _gradients(
        self,
        forward: Forward,
        inputs: list[Tensor],
        parameters: dict[str, nn.Parameter],
        upstream: list[Tensor] | None = None,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor | None]]:
        """Outputs, their gradients (drawn if none are given), and the gradients of inputs and parameters."""
        given = [x.detach().requires_grad_() for x in inputs]
        keeps = remembering() if self.model.checkpoint == "selective" else contextlib.nullcontext()
        with torch.enable_grad(), keeps:
            outs = list(forward(*given))
        if upstream is None:
            upstream = [self._drawn(out) for out in outs]
        found = torch.autograd.grad(outs, [*given, *parameters.values()], upstream, allow_unused=True)
        return [out.detach() for out in outs], upstream, list(found)

    def _drawn(self, out: Tensor) -> Tensor:
        """A random gradient of an output: normal in the rows that are run alone, 0 in the others."""
        drawn = torch.randn(out.shape, generator=self._generator, device=out.device, dtype=out.dtype)
        for row in set(range(len(out))) - set(self.rows):
            drawn[row] = 0
        return drawn

    def _loss(self, hidden_BTD: Tensor) -> None:
        """Compares the loss of all rows and its gradients with those of each row.

        Gradients are those of B x T times the loss, so that their size does not depend on the batch.
        """
        model, (B, T) = self.model, self.token_BT.shape
        loss_of = model.ops["linear_cross_entropy"]
        embedding = model.head_weight().detach().requires_grad_()

        def of(hidden: Tensor, target: Tensor, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
            given = hidden.detach().requires_grad_()
            with torch.enable_grad():
                loss = loss_of(given.flatten(0, 1), embedding, target.flatten())
            d_hidden, d_embedding = torch.autograd.grad(loss, [given, embedding], torch.full_like(loss, tokens))
            return loss.detach(), d_hidden, d_embedding

        loss, d_hidden, d_embedding = of(hidden_BTD, self.target_BT, B * T)
        sums, mean = torch.zeros_like(d_embedding, dtype=_wide(d_embedding)), torch.zeros_like(loss)
        for row in range(B):
            part = slice(row, row + 1)
            with self.alternatives.in_place():
                mine, d_row, d_weight = of(hidden_BTD[part], self.target_BT[part], T)
            error = over_positions(d_row[0], d_hidden[row])
            self.errors.add("gradient of the loss's input", f"row {row + 1}", error, GRADIENT)
            sums += d_weight
            mean += mine / B
            del d_row, d_weight
        self.errors.add("loss", "all rows", of_whole(loss, mean))
        self.errors.add("gradient of the embedding by the loss", "all rows", of_whole(d_embedding, sums), GRADIENT)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
