"""The same kernel is compiled by one thread and process at a time; other kernels are not waited for."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hybridbench.kernels.once import compiled_once

compiler = pytest.importorskip("triton.compiler")

PROGRAM = """
import sys
from pathlib import Path
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from hybridbench.kernels.once import compiled_once

@triton.jit
def summed(x, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK,), tl.float32)
    for i in tl.static_range(64):
        acc += tl.exp(tl.load(x + at + i * BLOCK))
    tl.store(out + at, acc)

triton.knobs.compilation.listener = lambda cache_hit, **_: print("found" if cache_hit else "compiled")
print("ready", flush=True)
sys.stdin.readline()
source = ASTSource(fn=summed, signature={"x": "*fp32", "out": "*fp32", "BLOCK": "constexpr"}, constexprs={(2,): 1024})
with compiled_once(Path(sys.argv[1])):
    triton.compiler.compile(source, target=GPUTarget("cuda", 90, 32))
"""


class Source:
    def __init__(self, name: str) -> None:
        self.name = name

    def hash(self) -> str:
        return self.name


def test_the_same_source_waits_and_another_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[str] = []
    together: set[tuple[str, ...]] = set()
    both = threading.Barrier(2, timeout=20)

    def compiled(src: Source, target: Any = None, options: Any = None) -> str:
        running.append(src.name)
        if src.name != "same":
            both.wait()
        together.add(tuple(sorted(running)))
        running.remove(src.name)
        return f"{src.name} {target} {options}"

    monkeypatch.setattr(compiler, "compile", compiled)
    with compiled_once(tmp_path), ThreadPoolExecutor(6) as threads:
        assert compiler.compile is not compiled
        names = ["same", "same", "same", "same", "one", "other"]
        made = [threads.submit(compiler.compile, Source(name), "cuda", {"num_warps": 4}) for name in names]
        assert [one.result() for one in made] == [f"{name} cuda {{'num_warps': 4}}" for name in names]
    assert compiler.compile is compiled
    assert ("same", "same") not in {tuple(n for n in some if n == "same") for some in together}
    assert any({"one", "other"} <= set(some) for some in together)


def test_other_options_are_another_kernel_and_no_folder_is_no_lock(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(compiler, "compile", lambda src, target=None, options=None: options)
    with compiled_once(tmp_path):
        for options in ({"num_warps": 4}, {"num_warps": 8}, {"num_warps": 4}):
            assert compiler.compile(Source("a"), "cuda", options) == options
    assert len(list(tmp_path.iterdir())) == 2
    with compiled_once(tmp_path / "gone"):
        assert compiler.compile(Source("a"), "cuda", {}) == {}


@pytest.mark.slow
def test_two_processes_compile_a_kernel_once(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    words = [sys.executable, str(program), str(tmp_path)]
    both = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    said = sorted(process.communicate()[0].strip() for process in both)
    assert said == ["compiled", "found"]
