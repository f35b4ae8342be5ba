"""Calibration finds the noise that was put into A/A pairs, and refuses what is not of this machine."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hybridbench.errors import BadInput
from hybridbench.gate.calibration import Calibration, calibrate, machine_of, read_calibration, write_calibration
from hybridbench.gate.kinds import KINDS
from hybridbench.gate.pairs import PairedCell, TimedPair
from hybridbench.record import Environment

HERE = {"device": "NVIDIA H200", "device_kind": "cuda", "driver": "570.1", "cpu": "Xeon", "cores": "32"}


def aa_cell(ratios: list[float], kind: str = "kernel", name: str = "swiglu") -> PairedCell:
    return PairedCell(name, kind, pairs=tuple(TimedPair(1e-3, 1e-3 * math.exp(one)) for one in ratios))


def noise(sd: float, count: int = 400, seed: int = 0) -> list[float]:
    return list(np.random.default_rng(seed).normal(0, sd, count))


def test_the_sd_is_that_of_the_noise_and_outliers_do_not_widen_it() -> None:
    plain = calibrate([aa_cell(noise(0.003))], HERE).cells["swiglu"]
    assert plain.sd == pytest.approx(0.003, rel=0.08)
    spoiled = [x + (0.15 if i % 40 == 0 else 0) for i, x in enumerate(noise(0.003))]
    assert calibrate([aa_cell(spoiled)], HERE).cells["swiglu"].sd == pytest.approx(0.003, rel=0.08)


def test_the_visible_effect_is_told_from_none_nine_times_in_ten() -> None:
    from hybridbench.gate.sequential import bounds, least_visible, tail

    kind = KINDS["kernel"]
    effect = least_visible(kind, kind.sd, 15)
    draw = np.random.default_rng(1).normal(effect, kind.sd, (100_000, kind.looks[-1]))
    seen = bounds(draw, kind.sd, tail(kind, 15)).lower > 0
    assert seen.mean() == pytest.approx(0.9, abs=0.015)


def test_false_alarms_are_those_of_the_cells_own_pairs() -> None:
    quiet = calibrate([aa_cell(noise(0.003))], HERE).cells["swiglu"]
    assert quiet.false_alarms <= 0.001
    two_modes = [side * 0.05 for side in (0, 0, 0, 0, 0, 1, 1, -1, -1) for _ in range(20)]
    assert calibrate([aa_cell(two_modes)], HERE).cells["swiglu"].false_alarms > quiet.false_alarms


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([], "no cells"),
        ([aa_cell(noise(0.003, 7))], "swiglu: 7 A/A pairs"),
        ([aa_cell([*noise(0.003, 20), math.nan])], "1 of them without a ratio"),
        ([aa_cell(noise(0.003), kind="kernle")], "unknown kind"),
    ],
)
def test_what_cannot_be_calibrated(cells: list[PairedCell], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        calibrate(cells, HERE)


def test_a_file_is_read_back_and_another_machine_is_named(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    made = calibrate([replace(aa_cell(noise(0.003)), blocks_per_sm=0.5)], HERE)
    write_calibration(made, path)
    assert read_calibration(path, HERE) == Calibration(HERE, made.cells)
    with pytest.raises(BadInput, match="device 'NVIDIA H200', here 'NVIDIA H100'"):
        read_calibration(path, HERE | {"device": "NVIDIA H100"})


@pytest.mark.parametrize("sd", [0, -1, math.nan, None, "x"])
def test_a_file_with_impossible_noise_is_refused(tmp_path: Path, sd: object) -> None:
    path = tmp_path / "calibration.json"
    write_calibration(calibrate([aa_cell(noise(0.003))], HERE), path)
    body = json.loads(path.read_text())
    body["cells"]["swiglu"]["sd"] = sd
    path.write_text(json.dumps(body))
    with pytest.raises(BadInput, match="cannot be read as a calibration"):
        read_calibration(path, HERE)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2, "machine": {}, "cells": {}}', '{"schema": 1}'])
def test_what_is_no_calibration_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(BadInput, match="calibrat"):
        read_calibration(path, HERE)
    with pytest.raises(BadInput, match="there is no calibration at"):
        read_calibration(tmp_path / "none.json", HERE)


def test_a_machine_is_its_device_driver_and_cpu() -> None:
    environment = Environment(
        "NVIDIA H200", "cuda", 1, "Xeon", 32, 1, "570.1", "12.8", "3.12", "Linux", {}, "0.1", None
    )
    assert machine_of(environment) == HERE


@pytest.mark.parametrize(
    "body", ["[]", "{}", '{"schema": 1, "machine": null, "cells": {}}', '{"schema": 1, "machine": {}}']
)
def test_a_file_that_is_no_calibration_is_told_in_plain_words(body: str, tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text(body)
    with pytest.raises(BadInput, match=r"does not have what a calibration has .*: calibrate again"):
        read_calibration(tmp_path / "calibration.json", HERE)
