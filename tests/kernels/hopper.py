"""Triton kernels compiled for a Hopper GPU, without one: what they load, wait for and take can be read."""

from __future__ import annotations

from typing import Any


def for_hopper(kernel: Any, constants: dict[str, Any], types: dict[str, str], **options: Any) -> Any:
    """A kernel compiled for a Hopper GPU.

    Args:
        constants: values of its ``constexpr`` arguments.
        types: of other arguments; those without one are pointers to bfloat16 (``*_ptr``) and integers, all aligned.
        options: of the launch, such as ``num_warps``.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names

    def kind(argument: str) -> str:
        if argument in constants:
            return "constexpr"
        return types.get(argument, "*bf16" if argument.endswith("_ptr") else "i32")

    signature = {argument: kind(argument) for argument in names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, argument in enumerate(names)
        if signature[argument].startswith("*") or signature[argument] == "i32"
    }
    values = {(names.index(argument),): value for argument, value in constants.items()}
    return triton.compile(
        ASTSource(kernel, signature, values, aligned), target=GPUTarget("cuda", 90, 32), options=options
    )
