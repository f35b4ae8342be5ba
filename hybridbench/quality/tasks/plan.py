"""plan: the runs that options ask for, with what is left open filled in by task and device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.model import ModelSpec
from hybridbench.errors import BadInput
from hybridbench.machine import device_of
from hybridbench.quality.corpus.vocabulary import model_vocabulary
from hybridbench.quality.tasks.case import TaskCase
from hybridbench.quality.tasks.task import FULL, TOY, Setting, Task, check_size
from hybridbench.quality.training.plan import MOST_SEEDS, execution_for, mode_for
from hybridbench.suite.case import EAGER, GRAPH

EVALUATIONS = 16
SEEDS = 3
MOST_EPOCHS = 100_000
MODES = (EAGER, GRAPH)


@dataclass(frozen=True)
class TaskOptions:
    """What a person asks for; None is left to the task and the device."""

    size: str | None = None
    seeds: int = SEEDS
    epochs: int | None = None
    batch: int | None = None
    lr: str | None = None
    device: str | None = None
    dtype: str | None = None
    mode: str | None = None
    backends: dict[str, str] | None = None
    evaluations: int = EVALUATIONS
    limit_s: float = 3600.0


def planned(
    tasks: Sequence[Task], models: Callable[[Setting], Sequence[ModelSpec]], ask: TaskOptions, has_gpu: bool
) -> list[TaskCase]:
    """One run of each task, model, rate and seed, in the order of tasks and seeds.

    Args:
        models: the stacks to train on a task's setting.

    Raises:
        BadInput: numbers that cannot be.
    """
    if not 1 <= ask.seeds <= MOST_SEEDS:
        raise BadInput(f"--seeds {ask.seeds}: give a number from 1 to {MOST_SEEDS:,}.")
    if ask.epochs is not None and not 1 <= ask.epochs <= MOST_EPOCHS:
        raise BadInput(f"--epochs {ask.epochs}: give a number from 1 to {MOST_EPOCHS:,}.")
    if ask.batch is not None and ask.batch < 1:
        raise BadInput(f"--batch {ask.batch}: give 1 or more sequences.")
    if not 1 <= ask.evaluations <= 10_000:
        raise BadInput(f"--evals {ask.evaluations}: give a number from 1 to 10,000.")
    if not ask.limit_s > 0:
        raise BadInput(f"--limit {ask.limit_s:g}: give seconds above 0.")
    device = device_of(ask.device, has_gpu)
    size = check_size(ask.size or (FULL if device == "cuda" else TOY))
    rates = parse_rates(ask.lr) if ask.lr is not None else [None]
    found = []
    for task in tasks:
        settings = [_with(task.setting(size), ask, rate) for rate in rates]
        for seed in range(ask.seeds):
            for spec in models(settings[0]):
                mode = mode_for(spec, device, ask.mode, MODES)
                seeded = replace(execution_for(device, ask.dtype, mode, ask.backends, MODES), seed=seed)
                made = replace(spec, vocab_size=model_vocabulary(settings[0].vocabulary))
                positions = task.positions and size == FULL and attends_only(made)
                made = unrotated(made) if positions else made
                for setting in settings:
                    case = TaskCase(made, task.name, size, setting, seeded, 1, ask.limit_s, positions)
                    found.append(replace(case, evaluations=min(ask.evaluations, case.steps)))
    return found


def attends_only(spec: ModelSpec) -> bool:
    """Whether all mixers of a stack are attention."""
    return all(isinstance(block, Attention) or block.feed_forward for block in spec.blocks.values())


def unrotated(spec: ModelSpec) -> ModelSpec:
    """The stack without RoPE."""
    blocks = spec.blocks.items()
    return replace(
        spec, blocks={name: replace(one, rope=None) if isinstance(one, Attention) else one for name, one in blocks}
    )


def _with(setting: Setting, ask: TaskOptions, rate: float | None) -> Setting:
    return replace(
        setting, epochs=ask.epochs or setting.epochs, batch=ask.batch or setting.batch, lr=rate or setting.lr
    )


def parse_rates(text: str) -> list[float]:
    """The learning rates of ``--lr``.

    >>> parse_rates("1e-3,3e-3")
    [0.001, 0.003]

    Raises:
        BadInput: one is no number above 0 and at most 10.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as exc:
        raise BadInput(f"--lr '{text}' is no list of numbers: write 1e-3,3e-3.") from exc
    if not all(math.isfinite(one) and 0 < one <= 10 for one in found):
        raise BadInput(f"--lr '{text}': every learning rate must be above 0 and at most 10.")
    return list(dict.fromkeys(found))
