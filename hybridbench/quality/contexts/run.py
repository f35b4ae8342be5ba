"""run: one trained model at long contexts, from its weights to what is observed.

The model is built with the kernels that a generation after the longest sequence resolves to. They are verified, and
reading documents, reading the longest prompts and going on after them are each checked against their parts, at the
batches that are used, before anything is read.

A model of a few million parameters computes for less time than the host takes to launch its kernels, so:

    - prompts of a length are read many at once, always as many: the last batch is filled up, and every batch has the
      same caches and the same step, which is captured once and replayed
    - nothing waits for the device until all lengths are through: tokens and losses stay there and are read back at once
    - kernels that are compiled for each length see few lengths, since what follows a token does not change it
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hybridbench.bench import Bench, backend_uses, timed_operations
from hybridbench.kernels import Check
from hybridbench.kernels.tuning import side_by_side
from hybridbench.model.build import Resolved, build_model, resolve_backends
from hybridbench.model.language import LanguageModel
from hybridbench.model.swap import Function, swapped
from hybridbench.quality.contexts.case import ANSWER, BUCKETS, ContextCase
from hybridbench.quality.contexts.record import ContextObserved, Needle, StretchLoss
from hybridbench.quality.contexts.text import PromptSet, Texts, texts_of
from hybridbench.quality.training.batches import bytes_of_tokens
from hybridbench.quality.training.checkpoint import load_weights
from hybridbench.quality.training.trained import check_numbers
from hybridbench.record import Caveat, SizeCheck
from hybridbench.text import counted
from hybridbench.workload.at_size import Checker
from hybridbench.workload.decode import DecodeLoop

_ROWS = 16_384
"""Rows of logits that exist at once."""


def run_contexts(case: ContextCase, bench: Bench) -> tuple[ContextObserved, list[Caveat]]:
    """Runs one case and returns what was observed, with its caveats.

    Raises:
        Unsupported, WrongResult: before anything is read.
        BadInput: the corpus is another one, or the weights are not those of the model or no numbers.
        torch.OutOfMemoryError: a batch does not fit.
    """
    with side_by_side():  # kernels tune themselves at their first run, which is in the check
        bench.phase("build")
        reader = Reader(case, bench)
        bench.phase("verify and check")
        sized, caveats = reader.check()
    began = bench.instruments.now()
    with reader.few_lengths():
        stretches = list(reader.by_position())
        needles = list(reader.needles())
    spent_ns = bench.instruments.now() - began
    uses = backend_uses(timed_operations(reader.resolved, case.work), reader.step_checks, bench.proofs)
    return ContextObserved(stretches, needles, uses, sized, spent_ns), caveats


class Reader:
    """A trained model and the text that it reads.

    Attributes:
        texts: documents and prompts.
    """

    def __init__(self, case: ContextCase, bench: Bench) -> None:
        self.case, self.bench, self.device = case, bench, bench.device
        self.folder = Path(case.place.corpus)
        self.texts: Texts = texts_of(self.folder, case.corpus, case.span, case.beyond)
        self.resolved: list[Resolved] = resolve_backends(case.work)
        self.model: LanguageModel = build_model(case.work, self.resolved)
        self.model.allocate(self.device, case.seed)
        load_weights(Path(case.place.weights), case.learned, self.model)
        check_numbers(self.model.state_dict(), case.place.weights)
        self.model.eval()
        self._continuation: Continuation | None = None

    @property
    def continuation(self) -> Continuation:
        """What goes on after prompts; made at its first use."""
        if self._continuation is None:
            self._continuation = Continuation(self.case, self.model)
        return self._continuation

    @property
    def step_checks(self) -> list[Check]:
        """Comparisons of the decode step as a whole that have passed."""
        return [] if self._continuation is None else self._continuation.loop.checks

    def check(self) -> tuple[list[SizeCheck], list[Caveat]]:
        """Verifies the kernels, and checks batches of documents and of the longest prompts, of random tokens, and a
        step of a continuation.
        """
        case, proofs, now = self.case, self.bench.proofs, self.bench.instruments.now
        proofs.verify(self.resolved, self.device)
        documents = min(case.documents_at_once, len(self.texts.token_NT))
        read = Checker(case.reading(documents), self.model, self.resolved, proofs.known, now)
        self._check_prefill(read, documents, case.span)
        checkers = [read]
        if case.longest_prompt:
            continued = Checker(case.continuing, self.model, self.resolved, proofs.known, now)
            self._check_prefill(continued, case.batch, case.longest_prompt)
            self.continuation.ready(continued)
            checkers.append(continued)
        sized = [check for checker in checkers for check in checker.checks]
        return sized, [Caveat.NOT_CHECKED] if any(checker.unchecked for checker in checkers) else []

    def _check_prefill(self, checker: Checker, batch: int, length: int) -> None:
        token_BT = torch.randint(self.texts.manifest.vocabulary.size, (batch, length), device=self.device)
        checker.prefill(token_BT, self.model.new_caches(batch, length, self.case.execution.storage))

    def few_lengths(self) -> AbstractContextManager[None]:
        """Inside, attention that is compiled for each length is given sequences of the trained length times a power of
        two: zeros stand behind them, which no token before them sees, and what comes of them is cut off.
        """
        functions = [
            item.function for item in self.resolved if item.op == "attention" and item.backend.compiles_per_length
        ]
        if not functions:
            return contextlib.nullcontext()
        return swapped(self.model, functions, lambda _op, function: _lengthened(function, self.case.trained))

    @torch.no_grad()
    def by_position(self) -> Iterator[StretchLoss]:
        """The loss of documents from their first token on, averaged over parts of the trained length."""
        case, bos, token_NT = self.case, self.texts.manifest.vocabulary.bos, self.texts.token_NT
        all_NT = torch.from_numpy(token_NT).to(self.device)
        losses = []
        self.bench.phase(f"{counted(len(token_NT), 'document')} of {case.span:,} tokens")
        for target_BT in all_NT.split(case.documents_at_once):
            token_BT = torch.cat((target_BT.new_full((len(target_BT), 1), bos), target_BT[:, :-1]), 1)
            losses.append(self._losses(token_BT, target_BT))
        loss_NT = torch.cat(losses).cpu().double()
        bytes_V = bytes_of_tokens(self.folder, self.texts.manifest, torch.device("cpu"))
        edges = np.unique(np.linspace(0, case.span, BUCKETS * case.beyond.times + 1).round().astype(int)).tolist()
        for first, last in itertools.pairwise(edges):
            means = loss_NT[:, first:last].mean(1).tolist()
            yield StretchLoss(first, last, means, int(bytes_V[token_NT[:, first:last]].sum()))

    def _losses(self, token_BT: Tensor, target_BT: Tensor) -> Tensor:
        """The loss at every position (B, T), in float32."""
        hidden_ND = self.model.hidden(token_BT).flatten(0, 1)
        rows = zip(hidden_ND.split(_ROWS), target_BT.flatten().split(_ROWS), strict=True)
        head_VD = self.model.embedding_VD
        parts = [
            F.cross_entropy(F.linear(hidden, head_VD).float(), target, reduction="none") for hidden, target in rows
        ]
        return torch.cat(parts).view(target_BT.shape)

    def needles(self) -> Iterator[Needle]:
        """Every length and depth; nothing where there are no trials."""
        beyond, sets = self.case.beyond, self.texts.prompts
        if not sets:
            return
        through = []
        for some, ids_NW, answer_N in zip(sets, *self._on_device(sets), strict=True):
            self.bench.phase(f"{counted(len(some.numbers), 'needle')} in {some.length:,} tokens each")
            through.append(self._through(some.length, ids_NW, answer_N))
        for some, (said_NA, loss_N) in zip(sets, through, strict=True):
            texts = map(self.texts.vocabulary.decode, said_NA.tolist())
            found = [number in text for number, text in zip(some.numbers, texts, strict=True)]
            losses = loss_N.tolist()
            for index, depth in enumerate(beyond.depths):
                cell = slice(index * beyond.trials, (index + 1) * beyond.trials)
                mean = sum(losses[cell]) / beyond.trials
                yield Needle(some.length, depth, beyond.trials, sum(found[cell]), mean)

    def _on_device(self, sets: tuple[PromptSet, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """Prompts with their answers, int32 (N, W) for each length, and tokens of each answer (N): one copy of each."""
        flat = torch.from_numpy(np.concatenate([some.ids.ravel() for some in sets])).to(self.device)
        counts_N = torch.from_numpy(np.concatenate([some.answers for some in sets])).to(self.device)
        whole = flat.split([some.ids.size for some in sets])
        ids = [part.view(some.ids.shape) for some, part in zip(sets, whole, strict=True)]
        return ids, list(counts_N.split([len(some.answers) for some in sets]))

    @torch.no_grad()
    def _through(self, length: int, ids_NW: Tensor, answer_N: Tensor) -> tuple[Tensor, Tensor]:
        """What follows each prompt of a length (N, ``ANSWER``), and the mean loss of its answer (N), on the device."""
        count, batch = len(ids_NW), self.case.batch
        said, losses = [], []
        for first in range(0, count, batch):
            row_B = torch.arange(first, first + batch, device=self.device).clamp(max=count - 1)
            whole_BW = ids_NW[row_B].long()
            said.append(self.continuation.after(whole_BW[:, :length]))
            losses.append(self._answer_losses(whole_BW, length, answer_N[row_B]))
        return torch.cat(said)[:count], torch.cat(losses)[:count]

    def _answer_losses(self, whole_BW: Tensor, length: int, answer_B: Tensor) -> Tensor:
        """The mean loss of each answer's tokens after its prompt (B), in float32.

        Zeros follow up to the next length of prompts, whose shapes kernels know: no token before sees them.
        """
        width = whole_BW.shape[1]
        padded = next((one for one in sorted(self.case.beyond.lengths) if one >= width - 1), -(-(width - 1) // 16) * 16)
        hidden_BTD = self.model.hidden(F.pad(whole_BW[:, :-1], (0, padded - width + 1)))
        logits = F.linear(hidden_BTD[:, length - 1 : width - 1], self.model.embedding_VD).float()
        loss_BA = F.cross_entropy(logits.transpose(1, 2), whole_BW[:, length:], reduction="none")
        is_answer_BA = torch.arange(width - length, device=whole_BW.device) < answer_B[:, None]
        return torch.where(is_answer_BA, loss_BA, 0.0).sum(1) / answer_B


class Continuation:
    """The likeliest tokens after prompts, of any length, one by one. Batches share caches and the step.

    Attributes:
        loop: the step, with the caches for the longest prompts.
    """

    def __init__(self, case: ContextCase, model: LanguageModel) -> None:
        self.model = model
        self.seed, self.capacity = case.execution.seed, case.longest_prompt + ANSWER
        self.loop = DecodeLoop.of(case.continuing, model, self.capacity, advance=True)
        self._step: Callable[[], object] | None = None

    def ready(self, checker: Checker | None = None) -> None:
        """Makes the step ready: fused where that was resolved, captured in mode ``graph``.

        Args:
            checker: compares the step with its parts, with all but one token cached that there is room for.
        """
        self.loop.fill(self.seed + 2, self.capacity - 1)
        self._step = self.loop.ready() if checker is None else checker.decode(self.loop, self.capacity - 1)

    @torch.no_grad()
    def after(self, token_BT: Tensor) -> Tensor:
        """The tokens after prompts (B, ``ANSWER``), on the device. Nothing here waits for it."""
        if self._step is None:
            self.ready()
        assert self._step is not None
        loop = self.loop
        loop.token_B.copy_(self.model.pick(self.model.prefill(token_BT, loop.caches)))
        loop.position_B.fill_(token_BT.shape[1])
        said_AB = token_BT.new_empty((ANSWER, len(token_BT)))
        said_AB[0] = loop.token_B
        for place in range(1, ANSWER):
            self._step()
            said_AB[place] = loop.token_B
        return said_AB.T


def _lengthened(attention: Function, trained: int) -> Function:
    """Attention over whole sequences, with zeros behind them up to the trained length times a power of two."""

    def call(q_BTHP: Tensor, k_BTKP: Tensor, v_BTKV: Tensor, **options: object) -> Tensor:
        length = q_BTHP.shape[1]
        given = [q_BTHP, k_BTKP, v_BTKV]
        if k_BTKP.shape[1] == length:
            more = trained * (1 << (-(-length // trained) - 1).bit_length()) - length
            given = [F.pad(one, (0, 0, 0, 0, 0, more)) for one in given]
        out_BTHV: Tensor = attention(*given, **options)
        return out_BTHV[:, :length]

    return call
