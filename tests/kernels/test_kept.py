"""What kernels keep from call to call is freed between cases, wherever it is kept."""

from __future__ import annotations

import ast
import dataclasses
import gc
import importlib
import importlib.util
import pkgutil
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import hybridbench.kernels
from hybridbench.errors import Unsupported
from hybridbench.kernels import kept, release
from hybridbench.kernels.attention import flex, sdpa
from hybridbench.kernels.kept import is_kept

CPU = torch.device("cpu")


MODULES = [found.name for found in pkgutil.walk_packages(hybridbench.kernels.__path__, "hybridbench.kernels.")]


def tensors(value: Any) -> Iterator[Tensor]:
    """Those in a value, at any depth."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (*tensors(key), *tensors(item))
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from tensors(item)
    elif dataclasses.is_dataclass(value) or type(value).__name__ == "BlockMask":
        yield from tensors(list(vars(value).values()))


def wrong(module: ModuleType) -> list[str]:
    """Module-level names that keep tensors, or may come to (containers that are still empty), and are not released."""
    found = []
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            found.append(name)
        elif isinstance(value, dict | list | set | weakref.WeakKeyDictionary | weakref.WeakValueDictionary):
            if (
                not name.startswith("__")
                and not is_kept(value)
                and (not value or next(tensors(value), None) is not None)
            ):
                found.append(name)
        elif hasattr(value, "cache_info") and value.__module__ == module.__name__:
            result = str(value.__annotations__.get("return", "unknown"))
            if result not in ("str | None", "bool", "int"):  # the result is kept, and so are the arguments
                found.append(name)
    return found


def empty_at_first(file: Path) -> list[str]:
    """Module-level containers that are written down empty."""
    assigned = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.Assign | ast.AnnAssign)]
    return [ast.unparse(node) for node in assigned if node.value and ast.unparse(node.value) in ("{}", "[]", "set()")]


@pytest.mark.parametrize("name", MODULES)
def test_no_module_keeps_tensors_elsewhere(name: str) -> None:
    release()  # of what other tests used in this process
    try:
        module = importlib.import_module(name)
    except (ImportError, Unsupported):  # it wraps a package that is not installed
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        assert empty_at_first(Path(spec.origin)) == []
        return
    assert wrong(module) == [], "keep it in a dictionary of kernels.kept.kept()"


def test_what_is_kept_elsewhere_is_found() -> None:
    bad = ModuleType("bad")
    vars(bad).update(
        _empty={},
        _masks={(1, CPU): torch.ones(1)},
        _plans={1: flex.block_mask(64, None, 0, CPU)},
        weight=torch.ones(1),
        NAMES={"a": 1},
        _released=sdpa._masks,
    )
    assert wrong(bad) == ["_empty", "_masks", "_plans", "weight"]
    assert empty_at_first(Path(kept.__file__)) == ["_all: list[dict[Any, Any]] = []"]
    release()


def test_nothing_is_left_after_a_release() -> None:
    """Masks of windows, of FlexAttention's blocks, and the scratch of split decoding."""
    release()
    held = [
        weakref.ref(sdpa._window_mask(257, 64, 4, CPU)),
        weakref.ref(flex.block_mask(257, 64, 4, CPU).kv_indices),
    ]
    assert all(reference() is not None for reference in held)
    release()
    gc.collect()
    assert all(reference() is None for reference in held)
    assert not sdpa._masks
    assert not flex._block_masks
    assert sdpa._window_mask(257, 64, 4, CPU).shape == (257, 257)
    release()


def test_the_scratch_of_a_decode_step_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = pytest.importorskip("hybridbench.kernels.attention.triton_decode")
    launched = []
    monkeypatch.setattr(decode, "launch_attention_decode", lambda plan, *_: launched.append(weakref.ref(plan.part)))
    caches = torch.zeros(2, 100, 2, 16), torch.zeros(2, 100, 2, 16)
    for _ in range(2):
        decode.attention_decode(torch.zeros(2, 4, 16), *caches, torch.ones(2, dtype=torch.int32))
    assert launched[0]() is launched[1]() is not None, "made once"
    release()
    gc.collect()
    assert launched[0]() is None
    assert not decode._plans


def test_releasing_imports_no_kernel() -> None:
    code = "import sys; from hybridbench.kernels import release; release(); assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
