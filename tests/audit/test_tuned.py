"""What autotuning chose in one process is used by another one: same problems, hooks included, only while asked for."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest

from hybridbench.audit.exchange import Taken
from hybridbench.audit.observe.tuned import taken, using

pytest.importorskip("triton")

SOURCE = """
import triton

configs = [triton.Config({"BLOCK": block}, num_warps=2, pre_hook=print) for block in (16, 32, 64)]

@triton.autotune(configs=configs, key=["n"])
@triton.jit
def plain(x, n, BLOCK):
    pass

@triton.heuristics({"EVEN": lambda arguments: True})
@triton.autotune(configs=configs, key=["n"])
@triton.jit
def wrapped(x, n, BLOCK, EVEN):
    pass

@triton.jit
def fixed(x):
    pass
"""
KEY = (2048, True, None, "torch.bfloat16")


@pytest.fixture
def kernels(tmp_path: Path) -> Iterator[ModuleType]:
    """A module with kernels that Triton tunes, and one that borrows from it."""
    for name, text in (("tuned_kernels", SOURCE), ("borrowing", "from tuned_kernels import plain")):
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    yield sys.modules["tuned_kernels"]
    del sys.modules["tuned_kernels"], sys.modules["borrowing"]


def test_another_process_takes_what_one_took(kernels: ModuleType) -> None:
    kernels.plain.cache[KEY] = kernels.configs[1]
    kernels.wrapped.fn.cache[KEY] = kernels.configs[2]
    kernels.plain.cache[4096, object()] = kernels.configs[0]  # not plain values: nobody else could know them
    found = [one for one in taken() if one.module == "tuned_kernels"]
    assert {(one.kernel, one.configuration.split(",")[0]) for one in found} == {
        ("plain", "BLOCK: 32"),
        ("wrapped", "BLOCK: 64"),
    }
    assert len(found) == len(taken()), "a borrowed kernel is listed where it is defined"
    travelled = [Taken(**one) for one in json.loads(json.dumps([asdict(one) for one in found]))]
    kernels.plain.cache.clear()
    kernels.wrapped.fn.cache.clear()
    with using(travelled):
        assert kernels.plain.cache == {KEY: kernels.configs[1]}
        assert kernels.plain.cache[KEY].pre_hook is print
        assert kernels.wrapped.fn.cache == {KEY: kernels.configs[2]}


def test_caches_are_as_before_afterwards(kernels: ModuleType) -> None:
    tuned_later = (4096, True, None, "torch.bfloat16")
    kernels.plain.cache[KEY] = kernels.configs[0]
    found = [Taken("tuned_kernels", kernel, list(KEY), str(kernels.configs[1])) for kernel in ("plain", "wrapped")]

    def tune_and_fail() -> None:
        with using(found):
            assert kernels.plain.cache[KEY] is kernels.wrapped.fn.cache[KEY] is kernels.configs[1]
            kernels.plain.cache[tuned_later] = kernels.configs[2]
            raise RuntimeError("the step fails")

    with pytest.raises(RuntimeError, match="the step fails"):
        tune_and_fail()
    assert kernels.plain.cache == {KEY: kernels.configs[0], tuned_later: kernels.configs[2]}
    assert kernels.wrapped.fn.cache == {}


@pytest.mark.parametrize(
    "changed", [{"module": "nowhere_at_all"}, {"kernel": "fixed"}, {"kernel": "none"}, {"configuration": "BLOCK: 9"}]
)
def test_what_is_not_there_any_more_tunes_itself_again(changed: dict[str, str], kernels: ModuleType) -> None:
    kernels.plain.cache[KEY] = kernels.configs[1]
    (found,) = taken()
    kernels.plain.cache.clear()
    with using([Taken(**{**asdict(found), **changed})]):
        assert kernels.plain.cache == {}
    with using([found]):
        assert kernels.plain.cache == {KEY: kernels.configs[1]}
