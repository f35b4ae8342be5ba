"""harness: trained models in EleutherAI's lm-evaluation-harness, through a model class of our own.

The harness asks for three things: the log-likelihood of a continuation, that of a whole text, and text generated up to
a mark. Every sequence begins with BOS, as in training, and holds at most as many tokens as the model was trained with:
the end of a longer one. Batches are padded on the right, which a causal model's earlier positions do not see.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable
from torch import Tensor

from hybridbench.errors import BadInput
from hybridbench.quality.training.trained import Trained

BATCH = 16
NEW_TOKENS = 256
"""Tokens of a generation whose task names no limit."""
_PADDED = 64
"""Lengths of batches are multiples of it, so that kernels see few shapes."""
OURS = "hybridbench"
"""The key of a result file under which it says which run it is of."""


class HarnessModel(TemplateLM):  # type: ignore[misc]  # the package is not typed
    """A trained model, as the harness calls it.

    Args:
        context: tokens of a sequence at most, without BOS; None is the trained length.
        batch: sequences of a forward.

    Raises:
        BadInput: a context beyond the trained length.
    """

    def __init__(self, trained: Trained, context: int | None = None, batch: int = BATCH) -> None:
        super().__init__()
        self._trained, self._batch = trained, batch
        self._context = trained.case.context if context is None else context
        if self._context > trained.case.context:
            raise BadInput(
                f"a context of {self._context:,} is beyond the {trained.case.context:,} tokens that "
                f"{trained.case.model.label} was trained with: give that at most; hybridbench contexts reads further."
            )
        self._device = trained.device

    @property
    def eot_token_id(self) -> int:
        """EOS, which ended each document."""
        return self._trained.vocabulary.eos

    @property
    def prefix_token_id(self) -> int:
        """BOS, which stood before each sequence."""
        return self._trained.vocabulary.bos

    @property
    def tokenizer_name(self) -> str:
        """The corpus, whose vocabulary it is."""
        return self._trained.case.corpus

    def tok_encode(self, string: str, **_given: Any) -> list[int]:
        """The ids of a text, without marks."""
        return [int(one) for one in self._trained.vocabulary.encode([string])[0]]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **_given: Any
    ) -> list[tuple[float, bool]]:
        """Of each request's continuation, its log-likelihood and whether greedy decoding gives it."""
        found: dict[int, tuple[float, bool]] = {}
        order = sorted(range(len(requests)), key=lambda place: -sum(map(len, requests[place][1:])))
        for first in range(0, len(order), self._batch):
            places = order[first : first + self._batch]
            rows = [self._row(requests[place][1] + requests[place][2]) for place in places]
            logp_BTV = self._log_probabilities([row[:-1] for row in rows])
            for index, (place, row) in enumerate(zip(places, rows, strict=True)):
                # Of a continuation longer than the context only its end was read.
                length = min(len(requests[place][2]), len(row) - 1)
                due_N = torch.tensor(row[len(row) - length :], device=self._device)
                logp_NV = logp_BTV[index, len(row) - 1 - length : len(row) - 1]
                told = logp_NV.gather(-1, due_N[:, None]).double().sum()
                found[place] = float(told), bool((logp_NV.argmax(-1) == due_N).all())
        return [found[place] for place in range(len(requests))]

    def loglikelihood_rolling(self, requests: Sequence[Any], **_given: Any) -> list[float]:
        """Of each text its log-likelihood, in windows that overlap where the text is longer than the context."""
        found = []
        for (text,) in (request.args for request in requests):
            ids = self.tok_encode(text)
            windows = []
            for first in range(0, len(ids), self._context):
                last = min(first + self._context, len(ids))
                start = max(0, last - self._context)  # the last window is a full one
                windows.append((("", ""), ids[start:first], ids[first:last]))
            found.append(sum(told for told, _ in self._loglikelihood_tokens(windows)))
        return found

    def generate_until(self, requests: Sequence[Any], **_given: Any) -> list[str]:
        """Of each context what greedy decoding adds, up to the first of the marks in ``until``."""
        return [self._generated(*request.args) for request in requests]

    def _generated(self, context: str, wanted: dict[str, Any]) -> str:
        if wanted.get("do_sample"):
            raise BadInput("a task samples (do_sample), and models are evaluated by greedy decoding: choose another.")
        marks = wanted.get("until") or []
        marks = [marks] if isinstance(marks, str) else list(marks)
        ids, added = self.tok_encode(context), list[int]()
        text = ""
        for _ in range(int(wanted.get("max_gen_toks") or NEW_TOKENS)):
            row = self._row(ids + added)
            logp_BTV = self._log_probabilities([row])
            added.append(int(logp_BTV[0, len(row) - 1].argmax()))
            if added[-1] == self.eot_token_id:
                break
            text = self._trained.vocabulary.decode(added)
            ends = [place for mark in marks if mark and (place := text.find(mark)) >= 0]
            if ends:
                return text[: min(ends)]
        return text

    def _row(self, ids: Sequence[int]) -> list[int]:
        """BOS and the last ids of a sequence."""
        bare = list(ids[1:] if ids and ids[0] == self.prefix_token_id else ids)
        return [self.prefix_token_id, *bare[-self._context :]]

    @torch.no_grad()
    def _log_probabilities(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Log-probabilities (B, T, V) in float32 of what follows each id."""
        longest = max(map(len, rows))
        length = -(-longest // _PADDED) * _PADDED
        token_BT = torch.full((len(rows), length), self.eot_token_id)
        for index, row in enumerate(rows):
            token_BT[index, : len(row)] = torch.tensor(row)
        logits_BTV = self._trained.model(token_BT.to(self._device))[:, :longest, : self._trained.vocabulary.size]
        logp_BTV: Tensor = logits_BTV.float().log_softmax(-1)
        return logp_BTV


def evaluate(
    trained: Trained,
    tasks: Sequence[str],
    *,
    include: Path | None = None,
    limit: int | None = None,
    shots: int | None = None,
    context: int | None = None,
    batch: int = BATCH,
) -> dict[str, Any]:
    """The harness's result document of some tasks, with the run that it is of under ``hybridbench``.

    Args:
        include: a folder of tasks of one's own (YAML), beside the harness's.
        limit: examples of each task at most.
        shots: examples in the prompt; None is each task's own.
        context: tokens of a sequence at most; None is the trained length.

    Raises:
        BadInput: an unknown task, or one whose data cannot be had; a context beyond the trained length.
    """
    manager = TaskManager(include_path=None if include is None else str(include), include_defaults=include is None)
    if include is not None and not all(manager.match_tasks([task]) for task in tasks):
        manager = TaskManager(include_path=str(include))  # it reads thousands of files
    for task in tasks:
        if not manager.match_tasks([task]):
            raise BadInput(f"the harness knows no task '{task}': lm_eval ls tasks lists them, --include adds a folder.")
    model = HarnessModel(trained, context, batch)
    try:
        found = lm_eval.simple_evaluate(
            model, tasks=list(tasks), num_fewshot=shots, limit=limit, task_manager=manager, log_samples=False,
            bootstrap_iters=1000,
        )  # fmt: skip
    except (OSError, ValueError, ConnectionError) as exc:
        said = " ".join(str(exc).split())[:300]
        raise BadInput(f"the harness could not run {', '.join(tasks)} ({said}): are the task's data here?") from exc
    case = trained.case
    spec = case.model
    body = {
        "model": spec.label, "arch": spec.arch, "scale": spec.scale, "ratio": spec.ratio or "",
        "recipe": spec.recipe or "", "pattern": spec.pattern, "seed": case.seed, "tokens": case.tokens,
        "flops": case.flops_per_token * case.tokens, "corpus": case.corpus, "key": case.key,
        "arm": case.arm, "lr": case.recipe.lr, "limit": limit, "shots": shots, "context": context or case.context,
    }  # fmt: skip
    document: dict[str, Any] = json.loads(json.dumps(found, default=handle_non_serializable))
    return {**document, OURS: body}
