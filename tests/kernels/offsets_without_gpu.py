"""Compiles every Triton kernel of this package to TTIR, without a GPU, and follows 32-bit products into offsets.

Each kernel is launched by its own launcher, so that what is compiled is what a GPU would get: at widths of 1b, on meta
tensors, which have sizes and strides and no memory. A fake driver stands for the GPU and nothing runs. Prints, as JSON,
the kernels there are, those that were compiled, and per kernel the products that were found.

A product counts where its result is 32 bits wide, one of its factors is known only at run time (a program's number, an
argument, a loop's variable, something loaded), and its result reaches an offset, through whatever arithmetic: an
``extsi`` behind it widens what has overflowed. Sums do not count, nor do products of what is known when compiling.

A program of its own, because a driver holds for a whole process.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import json
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton import knobs
from triton._C.libtriton import ir
from triton.compiler import ASTSource, make_backend
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

import hybridbench.kernels
from hybridbench.errors import Unsupported
from hybridbench.gate.observe.launches import launch_all
from hybridbench.gate.observe.nowhere import TARGET, Nowhere

compiled: dict[str, set[str]] = {}
"""Kernel to the products found in it; functions that it calls are kernels without any."""


def name_of(function: JITFunction[Any]) -> str:
    return f"{function.fn.__module__}.{function.fn.__qualname__}"


def compile_only(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
    """Triton's hook at a launch that is not compiled yet: to TTIR and no further."""
    kernel = fn.jit_function
    backend = make_backend(TARGET)
    options = backend.parse_options({"num_warps": compile["num_warps"], "num_stages": compile["num_stages"]})
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    source = ASTSource(kernel, compile["signature"], compile["constants"], compile["configs"][0])
    module = source.make_ir(
        TARGET, options, backend.get_codegen_implementation(options), backend.get_module_map(), context
    )
    for called in re.findall(r'tt\.func private @"?([\w.]+)__', module.str_nodebug()):
        compiled.setdefault(re.sub(r"__.*", "", called), set())
    stages: dict[str, Callable[..., Any]] = {}
    backend.add_stages(stages, options, source.language)
    found = compiled.setdefault(name_of(kernel), set())
    found |= {expression(*product) for product in products(stages["ttir"](module, {}))}
    return True


# The products of a module ---------------------------------------------------------------------------------------------

STATIC = {"arith.constant", "tt.make_range", "ub.poison"}
"""Known when compiling."""
PRODUCTS = {"arith.muli", "arith.shli"}
MEMORY = ("tt.load", "tt.atomic", "tt.descriptor_load", "tt.descriptor_gather", "tt.dot")
"""What comes from memory or out of a matrix product is another number than what went in."""
COMPARED = {"arith.cmpi", "arith.cmpf"}


def wide(kind: str) -> bool:
    """Whether a type, or a tensor's elements, are integers of 64 bits."""
    return kind.endswith(("i64", "i64>"))


def products(module: Any) -> set[tuple[str, int, int]]:
    """File, line and column of each product that reaches an offset."""
    operations: list[Any] = []
    module.walk(operations.append)
    parent = {}  # of a region: its operation
    for operation in operations:
        for i in range(operation.get_num_regions()):
            parent[operation.get_region(i).id()] = operation
    varies: set[int] = set()  # values known at run time only
    carried: dict[int, set[tuple[str, int, int]]] = {}  # value to the products in it
    reached: set[tuple[str, int, int]] = set()

    def inside(operation: Any) -> Any:
        """The operation around one."""
        block = operation.get_block()
        return None if block is None else parent.get(block.get_parent().id())

    def flows(sources: list[Any], target: Any, *, runs: bool = False) -> bool:
        """What the sources carry, the target carries; whether that is news."""
        key = target.id()
        before = len(carried.get(key, ())), key in varies
        merged = carried.setdefault(key, set())
        for source in sources:
            merged |= carried.get(source.id(), set())
        if runs or any(source.id() in varies for source in sources):
            varies.add(key)
        return before != (len(merged), key in varies)

    blocks: dict[int, Any] = {}
    for operation in operations:
        block = operation.get_block()
        if block is not None:
            blocks[block.id()] = block
    news = True
    while news:
        news = False
        for block in blocks.values():
            around = parent.get(block.get_parent().id())
            arguments = [block.get_argument(i) for i in range(block.get_num_arguments())]
            name = around.get_name() if around is not None else ""
            given = operands(around) if around is not None else []
            for i, argument in enumerate(arguments):
                if name == "scf.for":  # bounds and step; then what the loop carries
                    news |= flows(given[:3], argument, runs=True) if i == 0 else flows([given[2 + i]], argument)
                else:  # a function's arguments, and what other regions are given
                    news |= flows(given, argument, runs=name == "tt.func")
        for operation in operations:
            name, given = operation.get_name(), operands(operation)
            results = [operation.get_result(i) for i in range(operation.get_num_results())]
            if name in ("scf.yield", "scf.condition", "tt.reduce.return", "tt.scan.return"):
                around = inside(operation)
                for i, value in enumerate(given):
                    if around.get_num_results() > i:
                        news |= flows([value], around.get_result(i))
                if around.get_name() == "scf.for":
                    block = operation.get_block()
                    for i, value in enumerate(given):
                        news |= flows([value], block.get_argument(1 + i))
                continue
            if name in ("scf.for", "scf.if"):
                if name == "scf.for":
                    for i, result in enumerate(results):
                        news |= flows([given[3 + i]], result)
                continue
            loaded = name.startswith(MEMORY)
            for result in results:
                sources = [] if loaded or name in COMPARED else given
                news |= flows(sources, result, runs=loaded or (not given and name not in STATIC))
                kind = str(result.get_type())
                varying = [value for value in given if value.id() in varies]
                if name in PRODUCTS and not wide(kind) and varying:
                    place = located(result)
                    news |= place not in carried[result.id()]
                    carried[result.id()].add(place)
            if name == "tt.addptr":
                offsets = given[1:]
            elif name.startswith("tt.descriptor_") or name in ("tt.make_tensor_ptr", "tt.advance"):
                offsets = [value for value in given if str(value.get_type()) in ("i32", "i64")]
            else:
                offsets = []
            for value in offsets:
                reached |= carried.get(value.id(), set())
    return reached


def operands(operation: Any) -> list[Any]:
    return [operation.get_operand(i) for i in range(operation.get_num_operands())]


def located(value: Any) -> tuple[str, int, int]:
    """File, line and column of the source of a value; of an inlined one, in the function that was called."""
    found = re.search(r'"([^"]+\.py)":(\d+):(\d+)', str(value.get_loc()))
    assert found, f"no place in the source: {value.get_loc()}"
    return found[1], int(found[2]), int(found[3])


@functools.cache
def tree_of(file: str) -> ast.Module:
    return ast.parse(Path(file).read_text())


def expression(file: str, line: int, column: int) -> str:
    """The product at a place, as it is written: Triton locates an operation at its right operand."""
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Mult):
            factor = node.right if isinstance(node, ast.BinOp) else node.value
            if (factor.lineno, factor.col_offset) == (line, column):
                return ast.unparse(node)
    return Path(file).read_text().splitlines()[line - 1].strip()


# The kernels and their launches ---------------------------------------------------------------------------------------


def kernels() -> Iterator[JITFunction[Any]]:
    """Every ``@triton.jit`` function of this package, in the modules that can be imported and in those that cannot."""
    for found in pkgutil.walk_packages(hybridbench.kernels.__path__, "hybridbench.kernels."):
        try:
            module = importlib.import_module(found.name)
        except (ImportError, Unsupported):
            spec = importlib.util.find_spec(found.name)
            assert spec is not None
            assert spec.origin is not None
            text = Path(spec.origin).read_text()
            assert "triton.jit" not in text, f"{found.name} has kernels and cannot be imported here"
            continue
        for value in vars(module).values():
            if isinstance(value, JITFunction) and value.fn.__module__ == found.name:
                yield value


# Examples, of which the test says what must be found ------------------------------------------------------------------


@triton.jit
def _times(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    return a * b


@triton.jit
def bad_row(x_ptr: tl.tensor, stride: tl.tensor, N: tl.constexpr) -> None:
    tl.store(x_ptr + tl.program_id(0) * stride + tl.arange(0, N), 1.0)


@triton.jit
def bad_widened_late(x_ptr: tl.tensor, stride: tl.tensor, N: tl.constexpr) -> None:
    at = _times(tl.program_id(0), stride) + tl.arange(0, N)
    tl.store(x_ptr + at.to(tl.int64), 1.0)


@triton.jit
def bad_loop(x_ptr: tl.tensor, n: tl.tensor, N: tl.constexpr) -> None:
    at = tl.arange(0, N)
    for i in range(n):
        first = tl.where(n > 7, i * 4096, i)
        tl.store(x_ptr + at, tl.load(x_ptr + first + tl.arange(0, N)))
        at += N
        if n > 3:
            at = at + n * N


@triton.jit
def bad_descriptor(tiles: tl.tensor, rows: tl.tensor, N: tl.constexpr) -> None:
    tiles.store([tl.program_id(0) * rows, 0], tl.zeros((N, N), tl.float32))


@triton.jit
def good_row(x_ptr: tl.tensor, stride: tl.tensor, N: tl.constexpr) -> None:
    tl.store(x_ptr + tl.program_id(0).to(tl.int64) * stride + tl.arange(0, N), 1.0)


@triton.jit
def good_loop(x_ptr: tl.tensor, n: tl.tensor, N: tl.constexpr) -> None:
    static = tl.arange(0, N) * N
    for i in range(n):
        value = tl.load(x_ptr + i.to(tl.int64) * 4096 + static) * (i * 3)
        tl.store(x_ptr + static, value, mask=static < n * 5)


def examples() -> None:
    x, square = torch.empty(64), torch.empty(64, 16)
    for kernel in (bad_row, bad_widened_late, bad_loop, good_row, good_loop):
        kernel[(3,)](x, 48, N=16)
    bad_descriptor[(3,)](TensorDescriptor(square, [64, 16], [16, 1], [16, 16]), 16, N=16)


def without_module(found: dict[str, set[str]]) -> dict[str, list[str]]:
    return {name.rpartition(".")[2]: sorted(products) for name, products in found.items()}


def main() -> None:
    driver.set_active(Nowhere())
    knobs.runtime.jit_cache_hook = compile_only
    launch_all(pdl=True, n_sms=132)
    here = {name for name in compiled if name.startswith("hybridbench.")}
    package = without_module({name: compiled[name] for name in here})
    compiled.clear()
    with torch.device("meta"):
        examples()
    there = sorted(kernel.fn.__name__ for kernel in kernels())
    json.dump({"there": there, "compiled": package, "examples": without_module(compiled)}, sys.stdout)


if __name__ == "__main__":
    main()
