"""plan: the runs that options ask for: every trained model of some results, how far and on what."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hybridbench.errors import BadInput
from hybridbench.machine import device_of
from hybridbench.predict.memory import prefill_memory
from hybridbench.quality.contexts.case import BUCKETS, Beyond, ContextCase, There
from hybridbench.quality.contexts.text import Haystack, held_out_documents, vocabulary_of
from hybridbench.quality.corpus.manifest import Manifest
from hybridbench.quality.corpus.vocabulary import BYTES
from hybridbench.quality.training.figures import final
from hybridbench.quality.training.plan import execution_for
from hybridbench.quality.training.record import LearnRecord
from hybridbench.quality.training.watch import ending
from hybridbench.sizes import FUSED_STEP_BATCH
from hybridbench.suite.case import EAGER, GRAPH
from hybridbench.text import counted
from hybridbench.units import GIB, format_si

TIMES, DOCUMENTS, TRIALS = 4, 30, 20
DEPTHS = tuple(range(0, 101, 10))
NEEDLES_TO = 2
"""Times the trained length up to which needles are looked for, as in the paper."""
MEMORY_FRAC = 0.25
"""Of a GPU's memory that a batch may take by prediction. Kernels and their checks need more than is predicted."""
MEMORY_BYTES = 32 * GIB
"""Of a GPU where the training run does not say."""


@dataclass(frozen=True)
class ContextOptions:
    """What a person asks for; None is left to the trained model and the device."""

    times: int = TIMES
    documents: int = DOCUMENTS
    trials: int = TRIALS
    device: str | None = None
    dtype: str | None = None
    backends: dict[str, str] | None = None
    limit_s: float = 3600.0


def planned(
    trained: Sequence[tuple[Path, LearnRecord]], corpus: Path, manifest: Manifest, ask: ContextOptions, has_gpu: bool
) -> list[ContextCase]:
    """One run of each trained model.

    Args:
        trained: training runs that went well, each with the folder below which its weights lie.

    Raises:
        BadInput: numbers that cannot be, weights or text that is not there, or a corpus of another vocabulary.
    """
    if not 1 <= ask.times <= 64:
        raise BadInput(f"--to {ask.times}: give how many times the trained length to read, from 1 to 64.")
    if not 1 <= ask.documents <= 100_000:
        raise BadInput(f"--documents {ask.documents}: give a number from 1 to 100,000.")
    if not 0 <= ask.trials <= 100_000:
        raise BadInput(f"--trials {ask.trials}: give a number from 0 (no needles) to 100,000.")
    if not ask.limit_s > 0:
        raise BadInput(f"--limit {ask.limit_s:g}: give seconds above 0.")
    found = [(folder, record) for folder, record in trained if _went_well(record) and not record.case.tuning]
    if not found:
        raise BadInput("these results hold no training run that went well: run hybridbench learn first.")
    beyond: dict[int, Beyond] = {}
    cases = []
    for folder, record in found:
        context = record.case.context
        _check_vocabulary(record, manifest, corpus)
        if context not in beyond:
            beyond[context] = _beyond(context, corpus, manifest, ask)
        cases.append(_case(folder, record, beyond[context], corpus, manifest, ask, has_gpu))
    return cases


def _went_well(record: LearnRecord) -> bool:
    """Whether a run did all its steps and ended on none that went wrong, as one may on its last."""
    seen = record.observed
    return final(record) is not None and seen is not None and ending(seen.events) is None


def _check_vocabulary(record: LearnRecord, manifest: Manifest, corpus: Path) -> None:
    """Ids of bytes mean the same everywhere; those of other vocabularies only in their own corpus."""
    same = record.case.corpus == manifest.key
    if not same and (manifest.vocabulary.kind != BYTES or manifest.model_vocabulary != record.case.model.vocab_size):
        raise BadInput(
            f"{record.case.label} was trained on corpus {record.case.corpus}, and {corpus} is {manifest.key}, whose "
            f"ids may mean something else: name the corpus it was trained on, or one of bytes for a model of bytes."
        )


def _beyond(context: int, corpus: Path, manifest: Manifest, ask: ContextOptions) -> Beyond:
    """How far models of a trained length are read; raises where the corpus has no text for it."""
    span = ask.times * context
    there = held_out_documents(corpus, manifest, 1)
    longest = max(map(len, there), default=0)
    if longest < span:
        raise BadInput(
            f"no held-out document of {corpus} has {span:,} tokens, {ask.times} times the trained {context:,}; the "
            f"longest has {longest:,}: give a smaller --to, or a corpus with longer documents."
        )
    shortest = Haystack(vocabulary_of(corpus, manifest), manifest.vocabulary.bos, there).shortest()
    steps = [context * n // BUCKETS for n in range(1, NEEDLES_TO * BUCKETS + 1)]
    lengths = tuple(length for length in steps if length >= shortest) if ask.trials else ()
    if ask.trials and not lengths:
        raise BadInput(
            f"a prompt with a needle takes {shortest} tokens or more, over twice the trained {context}: "
            f"give --trials 0."
        )
    return Beyond(ask.times, ask.documents, lengths, DEPTHS if ask.trials else (), ask.trials)


def _case(
    folder: Path,
    record: LearnRecord,
    beyond: Beyond,
    corpus: Path,
    manifest: Manifest,
    ask: ContextOptions,
    has_gpu: bool,
) -> ContextCase:
    learned = record.case
    file = record.observed.weights if record.observed else None
    weights = next((path for path in (folder / str(file), Path(learned.place.out, str(file))) if path.is_file()), None)
    if file is None or weights is None:
        raise BadInput(
            f"the weights of {learned.label} are not below {folder}: they are {file}; train the model again."
        )
    device = device_of(ask.device, has_gpu)
    execution = execution_for(device, ask.dtype, None, ask.backends, (GRAPH if device == "cuda" else EAGER,))
    case = ContextCase(
        model=learned.model,
        learned=learned.key,
        corpus=manifest.key,
        trained=learned.context,
        seed=learned.seed,
        tokens=learned.tokens,
        beyond=beyond,
        batch=1,
        execution=execution,
        place=There(str(corpus), str(weights)),
        limit_s=ask.limit_s,
        arm=learned.arm,
        lr=learned.recipe.lr,
    )
    return replace(case, batch=_batch(case, record))


def _batch(case: ContextCase, record: LearnRecord) -> int:
    """Sequences that are read at once.

    On a CPU they have the tokens of a training step. On a GPU, where few steps of many sequences take less time, they
    have what fits by prediction, up to the most that a fused decode step holds. The prompts of a length, of all depths,
    are divided evenly.
    """
    beyond, length = case.beyond, case.longest_prompt or case.span
    prompts = beyond.prompts if beyond.lengths else beyond.documents
    most = record.case.tokens_per_step // length
    if case.device == "cuda":
        known = record.environment.device_memory_bytes if record.environment.device_kind == "cuda" else None
        with suppress(BadInput):  # blocks whose memory has no formula are read as on a CPU
            most = _fitting(case, length, min(prompts, FUSED_STEP_BATCH), MEMORY_FRAC * (known or MEMORY_BYTES))
    parts = -(-prompts // max(1, most))
    return -(-prompts // parts)


def _fitting(case: ContextCase, length: int, most: int, memory_bytes: float) -> int:
    """The largest batch up to ``most`` whose prefill is predicted to fit into so many bytes; at least 1.

    What is predicted grows with the batch, so halving finds it.
    """
    storage = case.execution.storage
    above = bisect_right(
        range(1, most + 1), memory_bytes, key=lambda batch: prefill_memory(case.model, length, batch, storage).total
    )
    return max(1, above)


def work_in_words(cases: Sequence[ContextCase]) -> list[str]:
    """How much is read, a sentence for each trained length."""
    groups: dict[int, list[ContextCase]] = {}
    for case in cases:
        groups.setdefault(case.trained, []).append(case)
    return [_work_of(some) for some in groups.values()]


def _work_of(cases: Sequence[ContextCase]) -> str:
    case, count = cases[0], len(cases)
    beyond = case.beyond
    who = f"Each of {count} models" if count > 1 else "One model"
    prompts = len(beyond.lengths) * beyond.prompts
    at_once = max(one.batch for one in cases)
    of_prompts = f", and {counted(prompts, 'prompt')} twice, {at_once:,} at once" if prompts else ""
    documents = counted(beyond.documents, "document")
    return f"{who} reads about {format_si(case.tokens_read)} tokens: {documents} of {case.span:,}{of_prompts}."
