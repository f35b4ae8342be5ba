"""run: one trained model at long contexts, from its weights to what is observed.

The model is built for a generation after the longest sequence, with the kernels that the case resolves to; they are
verified, and a prefill of that length is checked against its parts, before anything is read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hybridbench.bench import Bench, backend_uses
from hybridbench.errors import BadInput
from hybridbench.model.build import Resolved, build_model, resolve_backends
from hybridbench.model.language import LanguageModel
from hybridbench.quality.contexts.case import ANSWER, BUCKETS, ContextCase
from hybridbench.quality.contexts.record import ContextObserved, Needle, StretchLoss
from hybridbench.quality.contexts.text import Haystack, Prompt, drawn_documents, held_out_documents, vocabulary_of
from hybridbench.quality.corpus.manifest import read_manifest
from hybridbench.quality.training.batches import bytes_of_tokens
from hybridbench.quality.training.checkpoint import load_weights
from hybridbench.record import Caveat, SizeCheck
from hybridbench.workload.at_size import Checker

_ROWS = 16_384
"""Rows of logits that exist at once."""


def run_contexts(case: ContextCase, bench: Bench) -> tuple[ContextObserved, list[Caveat]]:
    """Runs one case and returns what was observed, with its caveats.

    Raises:
        Unsupported, WrongResult: before anything is read.
        BadInput: the corpus is another one, or the weights are not those of the model.
        torch.OutOfMemoryError: a batch does not fit.
    """
    bench.phase("build")
    reader = Reader(case, bench)
    bench.phase("verify and check")
    sized, caveats = reader.check()
    began = bench.instruments.now()
    stretches = list(reader.by_position())
    needles = list(reader.needles())
    spent_ns = bench.instruments.now() - began
    uses = backend_uses(reader.resolved, [], bench.proofs)
    return ContextObserved(stretches, needles, uses, sized, spent_ns), caveats


class Reader:
    """A trained model and the text that it reads."""

    def __init__(self, case: ContextCase, bench: Bench) -> None:
        self.case, self.bench, self.device = case, bench, bench.device
        self.folder = Path(case.place.corpus)
        self.manifest = read_manifest(self.folder)
        if self.manifest.key != case.corpus:
            raise BadInput(f"{self.folder} holds another corpus ({self.manifest.key}) than the run's ({case.corpus}).")
        self.resolved: list[Resolved] = resolve_backends(case.work)
        self.model: LanguageModel = build_model(case.work, self.resolved)
        self.model.allocate(self.device, case.seed)
        load_weights(Path(case.place.weights), case.learned, self.model)
        self.model.eval()
        span = case.beyond.times * case.trained
        documents = held_out_documents(self.folder, self.manifest, span)
        self.token_NT = drawn_documents(documents, case.beyond.documents, span)
        self.vocabulary = vocabulary_of(self.folder, self.manifest)
        bos = self.manifest.vocabulary.bos
        self.haystack = Haystack(self.vocabulary, bos, held_out_documents(self.folder, self.manifest, 1))

    def check(self) -> tuple[list[SizeCheck], list[Caveat]]:
        """Verifies the kernels, and checks a prefill of the longest length, of random tokens."""
        case, proofs = self.case, self.bench.proofs
        proofs.verify(self.resolved, self.device)
        checker = Checker(case.work, self.model, self.resolved, proofs.known, self.bench.instruments.now)
        token_BT = torch.randint(self.manifest.vocabulary.size, (case.batch, case.longest), device=self.device)
        caches = self.model.new_caches(case.batch, case.longest, case.execution.storage)
        checker.prefill(token_BT, caches)
        return checker.checks, [Caveat.NOT_CHECKED] if checker.unchecked else []

    @torch.no_grad()
    def by_position(self) -> Iterator[StretchLoss]:
        """The loss of documents from their first token on, averaged over parts of the trained length."""
        case, bos = self.case, self.manifest.vocabulary.bos
        losses = []
        for first in range(0, len(self.token_NT), case.batch):
            target_BT = torch.from_numpy(self.token_NT[first : first + case.batch]).to(self.device)
            token_BT = torch.cat((target_BT.new_full((len(target_BT), 1), bos), target_BT[:, :-1]), 1)
            losses.append(self._losses(token_BT, target_BT).cpu())
            self.bench.phase(f"document {first + len(target_BT)} of {len(self.token_NT)}")
        loss_NT = torch.cat(losses).double()
        bytes_V = bytes_of_tokens(self.folder, self.manifest, torch.device("cpu"))
        length = loss_NT.shape[1]
        edges = np.unique(np.linspace(0, length, BUCKETS * case.beyond.times + 1).round().astype(int)).tolist()
        for first, last in itertools.pairwise(edges):
            means = loss_NT[:, first:last].mean(1).tolist()
            yield StretchLoss(first, last, means, int(bytes_V[self.token_NT[:, first:last]].sum()))

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
        beyond = self.case.beyond
        if not beyond.trials:
            return
        for length in beyond.lengths:
            for depth in beyond.depths:
                self.bench.phase(f"needles in {length:,} tokens, {depth}% deep")
                yield self._cell(length, depth)

    @torch.no_grad()
    def _cell(self, length: int, depth: int) -> Needle:
        prompts = list(self.haystack.prompts(length, depth, self.case.beyond.trials))
        batch = max(1, self.case.batch * self.case.longest // length)
        found, losses = 0, []
        for first in range(0, len(prompts), batch):
            some = prompts[first : first + batch]
            found += sum(
                prompt.number in self.vocabulary.decode(ids)
                for prompt, ids in zip(some, self._generated(some), strict=True)
            )
            losses += self._answer_losses(some)
        return Needle(length, depth, len(prompts), found, sum(losses) / len(losses))

    def _generated(self, prompts: list[Prompt]) -> list[list[int]]:
        """The likeliest tokens after each prompt, one by one."""
        token_BT = torch.from_numpy(np.stack([prompt.ids for prompt in prompts])).to(self.device)
        rows, length = token_BT.shape
        caches = self.model.new_caches(rows, length + ANSWER, self.case.execution.storage)
        token_B = self.model.prefill(token_BT, caches).argmax(-1)
        said = [token_B]
        for place in range(ANSWER - 1):
            position_B = torch.full((rows,), length + place, dtype=torch.int64, device=self.device)
            token_B = self.model.decode(token_B, position_B, caches).argmax(-1)
            said.append(token_B)
        found: list[list[int]] = torch.stack(said, 1).tolist()
        return found

    def _answer_losses(self, prompts: list[Prompt]) -> list[float]:
        """The mean loss of each number's tokens after its prompt. Numbers may differ in length: one by one then."""
        by_length: dict[int, list[Prompt]] = {}
        for prompt in prompts:
            by_length.setdefault(len(prompt.answer), []).append(prompt)
        found: list[float] = []
        for count, some in by_length.items():
            whole_BT = torch.from_numpy(np.stack([np.concatenate((one.ids, one.answer)) for one in some])).to(
                self.device
            )
            hidden_BAD = self.model.hidden(whole_BT[:, :-1])[:, -count:]
            logits = F.linear(hidden_BAD, self.model.embedding_VD).float().transpose(1, 2)
            found += F.cross_entropy(logits, whole_BT[:, -count:], reduction="none").mean(1).tolist()
        return found
