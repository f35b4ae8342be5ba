"""schemes: the scheme that a ``quantization_config`` describes, one function per method.

A method is what a file calls ``quant_method``; MLX names none. Each function reads the fields that change bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from hybridbench.arch.weights import (
    AWQ,
    FP8_BLOCK,
    FP8_TENSOR,
    GPTQ,
    INT4,
    INT8,
    MXFP4,
    NF4,
    NF4_DOUBLE,
    NVFP4,
    Scheme,
)
from hybridbench.errors import BadInput, unknown_name

Config = Mapping[str, Any]

_BY_ROW = replace(INT8, codes="", rounding=0.0)
"""A code of 8 bits and a scale for each row, in a file that leaves out other matrices than modules here do."""


def _refuse(name: str, value: Any, known: str) -> BadInput:
    return BadInput(f"quantization_config has {name} {json.dumps(value)}: hybridbench reads {known}.")


def _whole(config: Config, name: str, default: int | None = None) -> int:
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or (value < 1 and value != -1):
        raise _refuse(name, value, "a whole number of 1 or more there")
    return value


def _bits(config: Config, known: tuple[int, ...], name: str = "bits", default: int | None = None) -> int:
    bits = _whole(config, name, default)
    if bits not in known:
        raise _refuse(name, bits, " or ".join(map(str, known)))
    return bits


def _group(config: Config, default: int | None) -> int | None:
    """Columns that share a scale; None for the whole row, which files write as -1 or null."""
    if config.get("group_size", default) is None:
        return None
    size = _whole(config, "group_size", default)
    return None if size == -1 else size


def _block(value: Any) -> tuple[int, int]:
    sides = value if isinstance(value, list | tuple) else ()
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise _refuse("weight_block_size", value, "two whole numbers of 1 or more there")
    return sides[0], sides[1]


def _fp8(config: Config, element_bytes: int) -> Scheme:
    """Block scales are float32 in transformers and DeepSeek's files, and in the file's dtype in Qwen's."""
    static = 4 if config.get("activation_scheme") == "static" else 0
    size = config.get("weight_block_size", [128, 128])
    if size is None:
        return replace(FP8_TENSOR, matrix_bytes=static)
    rows, columns = _block(size)
    scale = 1 if config.get("scale_fmt") == "ue8m0" else element_bytes
    return replace(FP8_BLOCK, block_rows=rows, block_columns=columns, scale_bytes=scale, matrix_bytes=static)


def _fbgemm(_config: Config, _element_bytes: int) -> Scheme:
    """A float32 scale for each row, and the bound of activations' scales."""
    return replace(_BY_ROW, name="fp8-row", scale_bytes=4, matrix_bytes=4)


def _gptq(config: Config, _element_bytes: int) -> Scheme:
    bits = _bits(config, (2, 3, 4, 8))
    return replace(GPTQ, bits=bits, zero_bits=bits, block_columns=_group(config, 128))


def _awq(config: Config, _element_bytes: int) -> Scheme:
    if config.get("version", "gemm") not in ("gemm", "GEMM"):
        raise _refuse("version", config["version"], "AWQ's gemm")
    bits = _bits(config, (4,), name="w_bit" if "w_bit" in config else "bits", default=4)
    return replace(AWQ, bits=bits, zero_bits=bits, block_columns=_group(config, config.get("q_group_size", 128)))


def _bitsandbytes(config: Config, _element_bytes: int) -> Scheme:
    if config.get("load_in_8bit", config.get("_load_in_8bit")):
        return replace(_BY_ROW, scale_bytes=4)
    return NF4_DOUBLE if config.get("bnb_4bit_use_double_quant") else NF4


def _mxfp4(_config: Config, _element_bytes: int) -> Scheme:
    """Transformers' mxfp4 is that of GPT-OSS, of its experts alone."""
    return replace(MXFP4, experts_only=True)


def _compressed_tensors(config: Config, element_bytes: int) -> Scheme:
    groups = config.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise BadInput("quantization_config has no config_groups: hybridbench reads the scheme of weights from there.")
    made = [_group_scheme(group, config.get("format"), element_bytes) for group in groups.values()]
    if len(set(made)) > 1:
        raise BadInput("quantization_config has groups of several schemes: hybridbench reads files of one.")
    return made[0]


def _group_scheme(group: Any, form: Any, element_bytes: int) -> Scheme:
    if not isinstance(group, dict) or not isinstance(group.get("weights"), dict):
        raise BadInput("quantization_config has a group without weights: hybridbench reads quantised weights only.")
    weights, form = group["weights"], group.get("format") or form
    bits, strategy = _bits(weights, (4, 8), name="num_bits"), weights.get("strategy")
    acts = group.get("input_activations")
    static = isinstance(acts, dict) and acts.get("dynamic") is False
    if form == "nvfp4-pack-quantized":
        return replace(NVFP4, matrix_bytes=4 + (4 if static or acts else 0))
    if form == "mxfp4-pack-quantized":
        return MXFP4
    sides = {
        "tensor": (None, None),
        "channel": (1, None),
        "group": (1, _group(weights, None)),
        "block": _block(weights.get("block_structure", [128, 128])) if strategy == "block" else (None, None),
    }
    if strategy not in sides:
        raise _refuse("strategy", strategy, f"{', '.join(sides)}")
    rows, columns = sides[strategy]
    fixed = element_bytes if static else 0
    floats = weights.get("type") == "float"
    name = {"tensor": "fp8-tensor", "channel": "fp8-row"}.get(str(strategy), "fp8-block") if floats else f"int{bits}"
    zeros = 0 if weights.get("symmetric", True) or floats else bits
    scheme = replace(
        _BY_ROW, name=name, bits=bits, block_rows=rows, block_columns=columns, scale_bytes=element_bytes,
        zero_bits=zeros, matrix_bytes=fixed,
    )  # fmt: skip
    if form in ("float-quantized", "naive-quantized", "int-quantized"):
        return replace(scheme, zero_bits=8 if zeros else 0)
    if form == "pack-quantized":
        order = 4 if weights.get("actorder") in ("group", True) else 0
        shape = 2 * 8  # weight_shape, two int64
        return replace(scheme, word_bits=INT4.word_bits, column_bytes=order, matrix_bytes=fixed + shape)
    raise _refuse("format", form, "float-, int- and pack-quantized, nvfp4- and mxfp4-pack-quantized")


def _modelopt(config: Config, _element_bytes: int) -> Scheme:
    """ModelOpt stores a float32 scale of weights and one of activations, and NVFP4's blocks have an E4M3 scale each."""
    algorithm = config.get("quant_algo")
    if algorithm == "FP8":
        return replace(FP8_TENSOR, matrix_bytes=4)
    if algorithm == "NVFP4":
        return replace(NVFP4, matrix_bytes=8)
    raise _refuse("quant_algo", algorithm, "FP8 and NVFP4")


def _mlx(config: Config, element_bytes: int) -> Scheme:
    """MLX: a scale and a bias for each group; linear layers, embeddings and routers alike."""
    mode = config.get("mode", "affine")
    bits = _bits(config, (2, 3, 4, 6, 8))
    made = {
        "affine": replace(INT4, name=f"int{bits}", bits=bits, scale_bytes=2 * element_bytes),
        "mxfp4": MXFP4,
        "nvfp4": replace(NVFP4, matrix_bytes=0),
    }
    if mode not in made:
        raise _refuse("mode", mode, ", ".join(made))
    return replace(made[mode], block_columns=_group(config, 64), everywhere=True)


METHODS: dict[str, Callable[[Config, int], Scheme]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm,
    "gptq": _gptq,
    "awq": _awq,
    "bitsandbytes": _bitsandbytes,
    "mxfp4": _mxfp4,
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
    "mlx": _mlx,
}
"""Maps a method to the function that reads its scheme, given the bytes of a plain scale."""


def method_of(config: Config) -> str:
    """The method of a config; MLX's has none, but bits and a size of groups.

    Raises:
        BadInput: no method, or one that is not known.
    """
    method = config.get("quant_method")
    if method is None and "bits" in config and "group_size" in config:
        return "mlx"
    if not isinstance(method, str):
        raise BadInput("quantization_config has no quant_method: give the one that the model was quantised with.")
    if method not in METHODS:
        raise unknown_name("quant_method", method, METHODS)
    return method
