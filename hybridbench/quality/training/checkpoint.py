"""checkpoint: a run as files of safetensors: what it needs to go on, and in the end its weights.

<out>/checkpoints/<key>.safetensors     masters, moments, buffers, losses; replaced whole, kept until the record is
<out>/weights/<key>.safetensors         the final weights in the model's dtype, with the case in the header
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hybridbench.errors import BadInput, Blocked
from hybridbench.plain import from_plain, to_plain
from hybridbench.quality.training.case import LearnCase
from hybridbench.quality.training.place import checkpoint_path, weights_path
from hybridbench.quality.training.record import Event, Judged


@dataclass
class LearnProgress:
    """How far a run is, beside its tensors.

    Attributes:
        step: updates done.
        train_ns: spent on them.
        energy_j: spent on them; None is unknown.
        losses, norms: of each step.
    """

    step: int = 0
    train_ns: int = 0
    energy_j: float | None = None
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    curve: list[Judged] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    resumed_at: list[int] = field(default_factory=list)


def save_checkpoint(case: LearnCase, tensors: dict[str, Tensor], progress: LearnProgress) -> None:
    """Replaces the run's checkpoint. A kill at any time leaves the old one or the new one."""
    _save(checkpoint_path(case), tensors, {"case": case.key, "progress": json.dumps(to_plain(progress))})


def load_checkpoint(case: LearnCase, device: torch.device) -> tuple[dict[str, Tensor], LearnProgress] | None:
    """What ``save_checkpoint`` wrote for this run; None where there is nothing.

    Raises:
        Blocked: the file is of another run or cannot be read.
    """
    path = checkpoint_path(case)
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
        if header.get("case") != case.key:
            raise Blocked(f"{path} is of another run: remove it, or go on without --resume.")
        return tensors, from_plain(LearnProgress, json.loads(header["progress"]))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as exc:
        said = str(exc).splitlines()[0]
        raise Blocked(f"{path} cannot be read ({said}): remove it, or go on without --resume.") from exc


def save_weights(case: LearnCase, model: nn.Module) -> str:
    """Writes the final weights; returns the file's path below the folder of results."""
    path = weights_path(case)
    _save(
        path, {name: tensor.detach() for name, tensor in model.state_dict().items()}, {"case": json.dumps(_told(case))}
    )
    return str(path.relative_to(case.place.out))


def read_weights(path: Path) -> tuple[LearnCase, dict[str, Tensor]]:
    """What ``save_weights`` wrote: the run, without its place, and the weights, on the CPU.

    Raises:
        ValueError: the file is missing, cannot be read, or holds no run's weights; the text says which.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
        if "place" in (told := json.loads(header["case"])):
            raise ValueError("its case has a place")
        return LearnCase.from_dict({**told, "place": {"corpus": "", "out": ""}}), tensors
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as exc:
        raise ValueError(str(exc).splitlines()[0] if str(exc) else type(exc).__name__) from exc


def load_weights(path: Path, key: str, model: nn.Module) -> None:
    """Puts the final weights of a training run into a model of its shape.

    Args:
        path: the file that ``save_weights`` wrote.
        key: of the training run.

    Raises:
        BadInput: the file is missing, cannot be read, is of another run, or of a model with other weights.
    """
    try:
        of, tensors = read_weights(path)
    except ValueError as exc:
        raise BadInput(f"{path} is no file of weights of hybridbench learn ({exc}): train the model again.") from exc
    if of.key != key:
        raise BadInput(f"{path} has the weights of another run ({of.key}) than the record's ({key}).")
    own = model.state_dict()
    wrong = [name for name in own.keys() | tensors.keys() if _shape(own, name) != _shape(tensors, name)]
    if wrong:
        name = min(wrong)
        raise BadInput(
            f"{path} is of another architecture: {name} is {_shape(tensors, name)} there and {_shape(own, name)} in "
            f"the model; {len(wrong)} weights differ."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def _shape(tensors: dict[str, Tensor], name: str) -> str:
    return " x ".join(map(str, tensors[name].shape)) if name in tensors else "missing"


def _told(case: LearnCase) -> dict[str, object]:
    body = case.to_dict()
    del body["place"]
    return body


def _save(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, header)
        part.replace(path)
    except (SafetensorError, OSError) as exc:
        with contextlib.suppress(OSError):
            part.unlink()
        raise Blocked(f"{path} cannot be written ({exc}): make room, then go on with --resume.") from exc
