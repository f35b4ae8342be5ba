"""theirs: what the model of a public library must offer, to be given our weights, checked and timed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hybridbench.errors import WrongResult
from hybridbench.model.build import parameter_count
from hybridbench.model.language import LanguageModel
from hybridbench.model.mixer import torch_dtype
from hybridbench.suite.case import Case

PROMPT, STEPS = 28, 4
"""Tokens of the prompt whose logits are compared: those before the first step, and those that steps decode."""
SAME_SIZE = 0.01
"""By what share the numbers of parameters may differ."""
LEARNING_RATE = 3e-4


class PublicModel(ABC):
    """A model of a public library with the sizes of a case's, on a device.

    Of a decode, ``begin`` comes first, then ``decode`` for the check, then ``fill``, and then ``step`` as often as one
    likes, with ``put_back`` before each. Of training, ``begin_training`` comes before ``train``.

    ``token_B1`` holds the token that a step decodes.

    Args:
        case: the sizes, the batch, the context and the dtype.
        device: where it runs.

    Attributes:
        module: their model.
    """

    library: ClassVar[str]
    """The distribution that it is of."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self.case, self.device = case, device
        self.spec = case.model
        self.batch, self.context = case.workload.batch, case.workload.context
        self.dtype = torch_dtype(case.execution.dtype)
        self.module: nn.Module = self.build()
        self.token_B1 = torch.zeros(self.batch, 1, dtype=torch.int64, device=device)

    @abstractmethod
    def build(self) -> nn.Module:
        """Their model with the sizes of ours.

        Raises:
            Unsupported: the library is not importable, or too old.
        """

    @abstractmethod
    def named(self, ours: LanguageModel) -> Iterator[tuple[str, Tensor]]:
        """Our weights by their names."""

    @property
    def parameters(self) -> int:
        """The number of their parameters; shared ones count once."""
        return parameter_count(self.module)

    def give(self, ours: LanguageModel) -> None:
        """Copies every weight of ours into theirs.

        Raises:
            WrongResult: the sizes differ, so that these are not the same model.
        """
        mine, theirs = parameter_count(ours), self.parameters
        if abs(theirs - mine) > SAME_SIZE * mine:
            raise WrongResult(f"{self.library} has {theirs} parameters and ours {mine}: they are not the same model.")
        state = dict(self.named(ours))
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                given = state.pop(name, None)
                if given is None or given.shape != parameter.shape:
                    found = None if given is None else tuple(given.shape)
                    raise WrongResult(f"{self.library} has {name} of {tuple(parameter.shape)}, and ours is {found}.")
                parameter.copy_(given)
        if state:
            raise WrongResult(f"{self.library} has no weight for {', '.join(sorted(state))}.")

    @abstractmethod
    def logits(self, token_BT: Tensor) -> Tensor:
        """Logits (B, T, V) of whole sequences."""

    @abstractmethod
    def begin(self, prompt_BT: Tensor) -> None:
        """Makes the caches and the step, and reads a prompt."""

    @abstractmethod
    def decode(self) -> Tensor:
        """Logits (B, V) after ``token_B1``, by the step that is timed; the next call may overwrite them."""

    @abstractmethod
    def fill(self, generator: torch.Generator) -> None:
        """Fills the caches with random values up to the context."""

    @abstractmethod
    def put_back(self) -> None:
        """Puts the caches back to the context after a step."""

    def step(self) -> None:
        """One token per sequence: the greedy one of the step before."""
        self.token_B1.copy_(self.decode().argmax(-1, keepdim=True))

    def doubts(self) -> list[str]:
        """What else a reader must know, once the steps have run."""
        return []

    @abstractmethod
    def loss(self, token_BT: Tensor) -> Tensor:
        """The mean loss of the next tokens, as users of the library compute it."""

    def begin_training(self, batches: Tensor) -> None:
        """Makes the optimizer. ``batches`` (N, B, T + 1) take turns."""
        self.module.train()
        self._batches, self._turn = batches, 0
        self._optimizer: Any = torch.optim.AdamW(self.module.parameters(), lr=LEARNING_RATE, fused=True)

    def train(self) -> None:
        """One training step: forward, backward and AdamW."""
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self.loss(self._batches[self._turn % len(self._batches)]))
        self._optimizer.step()
        self._turn += 1
