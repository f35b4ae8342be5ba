"""What a case adds to the choice of a kernel: the reasons are those of what really decided."""

from __future__ import annotations

from typing import Any

import pytest

from hybridbench.errors import Unsupported
from hybridbench.kernels import Problem, Resolution, backends
from hybridbench.model import choices
from hybridbench.model.choices import choose_in_case, choose_step, core_or_parts
from hybridbench.suite.case import Case
from hybridbench.suite.ops import CORE, CORE_PARTS
from hybridbench.suite.sweep import Sweep, cases

PROBLEM = Problem("cpu", "float32", head_dim=8, n_heads=4, d_state=8, chunk_size=16, d_conv=4)


def case_of(**changes: Any) -> Case:
    (case,) = cases(Sweep("decode", arch="mamba", scale="tiny", ctx="64", device="cpu", **changes), has_gpu=False)
    return case


def test_a_named_part_keeps_the_core_in_parts() -> None:
    ops, passed_over = core_or_parts(PROBLEM, {"ssd": "reference"})
    assert ops == CORE_PARTS
    assert passed_over == ((CORE, "a kernel for ssd was named, which only the parts run"),)
    assert core_or_parts(PROBLEM, {CORE: "reference"}) == ((CORE,), ())


def test_parts_say_why_no_kernel_does_the_whole_core(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Resolution(backends(CORE)["reference"], passed_over=(("one-pass", "too wide"), ("fused", "missing")))
    monkeypatch.setattr(choices, "choose", lambda *_: plain)
    assert core_or_parts(PROBLEM, {}) == (CORE_PARTS, ((f"{CORE} one-pass", "too wide"), (f"{CORE} fused", "missing")))
    monkeypatch.setattr(choices, "choose", lambda *_: Resolution(backends(CORE)["fused"]))
    assert core_or_parts(PROBLEM, {}) == ((CORE,), ())


def test_a_mode_decides_and_says_so() -> None:
    published = choose_in_case("attention_decode", PROBLEM, case_of(mode="published"))
    assert (published.asked, published.backend.name) == ("naive", "naive")
    assert published.why.startswith("mode published")
    eager = choose_in_case("attention_decode", PROBLEM, case_of(mode="eager"))
    assert (eager.asked, eager.backend.name, eager.why) == ("auto", "sdpa-mask", "")


def test_a_step_module_by_module_says_why_it_is_not_fused() -> None:
    auto = choose_step(case_of())
    assert auto.backend.name == "modules"
    assert auto.passed_over == (("fused", "its kernels run on CUDA devices only, and the device is cpu"),)
    assert choose_step(case_of(backends={"decode_step": "modules"})).passed_over == ()
    with pytest.raises(Unsupported, match="'fused' cannot run here"):
        choose_step(case_of(backends={"decode_step": "fused"}))
