"""calibration: what A/A pairs say of each cell on one machine: its noise, what it can see, how often it alarms.

An A/A pair times the same code on both sides. Its file names the machine, and the file of another machine is refused:
noise belongs to a card and its host.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from hybridbench.errors import BadInput
from hybridbench.files import CONFIG_BYTES, Missing, from_json, read_text
from hybridbench.gate.kinds import KINDS, CellKind
from hybridbench.gate.pairs import PairedCell
from hybridbench.gate.sequential import CLIP, MAD_TO_SD, Array, Outcome, decide, least_visible
from hybridbench.record import Environment

SCHEMA = 1
LEAST_PAIRS = 8
LEAST_SD = 1e-4
"""Clocks and clocks' steps make a cell look quieter than this, 0.01%, by chance only."""
SEEN = 0.05
"""A cell that cannot see 5% is no gate."""
DRAWS = 20_000
_IDENTITY = ("device", "device_kind", "driver", "cpu", "cores")


@dataclass(frozen=True, slots=True)
class Calibrated:
    """One cell.

    Args:
        kind: a name in ``KINDS``.
        sd: standard deviation of a pair's log ratio, without outliers.
        pairs: how many A/A pairs it comes from.
        visible: the smallest effect that it can tell from none at its last look; a fraction.
        false_alarms: share of sequences, drawn from its A/A pairs with either sign, that end as a regression.
        blocks_per_sm: thread blocks of its launch per streaming multiprocessor; None where it has no meaning.
        backend: which one ran where the cell names none (``auto``); None where it names one, or a file does not say.
    """

    kind: str
    sd: float
    pairs: int
    visible: float
    false_alarms: float
    blocks_per_sm: float | None = None
    backend: str | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """All cells of one machine, which ``machine`` identifies."""

    machine: Mapping[str, str]
    cells: Mapping[str, Calibrated]


def machine_of(environment: Environment) -> dict[str, str]:
    """What identifies a machine: its device, driver, CPU and cores."""
    return {name: str(getattr(environment, name)) for name in _IDENTITY}


def calibrate(cells: Sequence[PairedCell], machine: Mapping[str, str]) -> Calibration:
    """Calibrate each cell from its A/A pairs.

    Raises:
        BadInput: no cells, an unknown kind, fewer than ``LEAST_PAIRS`` pairs, or a pair without a ratio.
    """
    if not cells:
        raise BadInput("a calibration of no cells: measure A/A pairs of at least one.")
    return Calibration(dict(machine), {cell.name: _calibrated(cell, len(cells)) for cell in cells})


def _calibrated(cell: PairedCell, n_cells: int) -> Calibrated:
    kind = KINDS.get(cell.kind)
    if kind is None:
        raise BadInput(f"{cell.name}: unknown kind of cell '{cell.kind}': known are {', '.join(KINDS)}.")
    ratios = np.array([pair.log_ratio for pair in cell.pairs])
    if len(ratios) < LEAST_PAIRS or np.isnan(ratios).any():
        raise BadInput(
            f"{cell.name}: {len(ratios)} A/A pairs, {int(np.isnan(ratios).sum())} of them without a ratio: measure "
            f"{LEAST_PAIRS} or more."
        )
    sd = max(robust_sd(ratios), LEAST_SD)
    visible = math.expm1(least_visible(kind, sd, n_cells))
    return Calibrated(cell.kind, sd, len(ratios), visible, _false_alarms(ratios, kind, sd, n_cells), cell.blocks_per_sm)


def robust_sd(ratios: Array) -> float:
    """The standard deviation of most of the values: those within ``CLIP`` of it by the median absolute deviation."""
    off = ratios - np.median(ratios)
    reach = CLIP * MAD_TO_SD * float(np.median(np.abs(off)))
    kept = ratios[np.abs(off) <= reach]
    return float(np.std(kept, ddof=1)) if len(kept) > 1 else 0.0


def _false_alarms(ratios: Array, kind: CellKind, sd: float, n_cells: int) -> float:
    """The share of sequences drawn from A/A pairs that are judged slower. Which side is called the change is chance."""
    draw = np.random.default_rng(0)

    def drawn(*shape: int) -> Array:
        signs: Array = draw.choice(np.array([-1.0, 1.0]), size=shape)
        picked: Array = draw.choice(ratios, size=shape)
        return signs * picked

    pairs = drawn(DRAWS, kind.looks[-1])
    fresh = drawn(DRAWS, len(kind.looks), kind.confirm)
    outcome = decide(pairs, fresh, kind, sd, n_cells).outcome
    return float((outcome == Outcome.SLOWER).mean())


def why_advisory(cell: PairedCell, kind: CellKind, n_cells: int, calibrated: Calibrated | None) -> str:
    """Why a cell fails no job, in a sentence; empty where it may."""
    blocks = cell.blocks_per_sm
    if blocks is None and calibrated is not None:
        blocks = calibrated.blocks_per_sm
    if blocks is not None and not blocks >= 1:
        return f"It fills {blocks:.2g} blocks per SM: below one, its time varies with where they land."
    sd = kind.sd if calibrated is None else calibrated.sd
    visible = least_visible(kind, sd, n_cells)
    if not visible <= SEEN:
        return f"It cannot see {SEEN:.0%}: it tells {visible:.1%} from nothing at best."
    if not visible <= kind.margin:
        return f"It is too noisy for its margin of {kind.margin:.2%}: it tells {visible:.2%} from nothing at best."
    return ""


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration as JSON."""
    body = {
        "schema": SCHEMA,
        "machine": dict(calibration.machine),
        "cells": {name: asdict(cell) for name, cell in calibration.cells.items()},
    }
    path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def read_calibration(path: Path, machine: Mapping[str, str]) -> Calibration:
    """Read a calibration of this machine.

    Args:
        machine: this one, as ``machine_of`` gives it.

    Raises:
        BadInput: no such file, not a calibration, or one of another machine; names what differs.
    """
    found = load_calibration(path)
    there = found.machine
    differing = [name for name in dict.fromkeys((*machine, *there)) if machine.get(name) != there.get(name)]
    if differing:
        listed = ", ".join(f"{name} '{there.get(name)}', here '{machine.get(name)}'" for name in differing)
        raise BadInput(f"{path} is of another machine ({listed}): calibrate on this one.")
    return found


def load_calibration(path: Path) -> Calibration:
    """Read a calibration of any machine.

    Raises:
        BadInput: no such file, or not a calibration.
    """
    try:
        body = from_json(read_text(path, CONFIG_BYTES))
        if body["schema"] != SCHEMA:
            raise BadInput(
                f"{path} is a calibration of schema {body['schema']}, and {SCHEMA} is read: calibrate again."
            )
        there = {str(name): str(value) for name, value in body["machine"].items()}
        cells = {str(name): _cell(one) for name, one in body["cells"].items()}
    except Missing as exc:
        raise BadInput(
            f"there is no calibration at {path}: write one with hybridbench check --calibrate --calibration {path}."
        ) from exc
    except (OSError, ValueError) as exc:
        raise BadInput(f"{path} cannot be read as a calibration ({exc}): calibrate again.") from exc
    except (KeyError, TypeError, AttributeError) as exc:
        raise BadInput(
            f"{path} does not have what a calibration has (schema, machine, cells): calibrate again."
        ) from exc
    return Calibration(there, cells)


def _cell(body: dict[str, Any]) -> Calibrated:
    body = {"backend": None, **body}  # files from before it was written
    if set(body) != {field.name for field in fields(Calibrated)} or body["kind"] not in KINDS:
        raise ValueError(f"a cell with {sorted(body)}")
    numbers = [body[name] for name in ("sd", "visible", "false_alarms")]
    if not all(isinstance(one, float | int) and math.isfinite(one) for one in numbers) or not body["sd"] > 0:
        raise ValueError(f"a cell with {numbers}")
    return Calibrated(**body)
