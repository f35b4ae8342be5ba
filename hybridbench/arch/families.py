"""families: transformer, swa, mamba, inter and intra at every scale, from the paper's tables 8, 15, 17 and 21.

Variants have equal parameters by their number of blocks, never by their width: a Mamba-2 block is larger than an
attention block, so hybrids have fewer blocks. Stacks that the paper lists are built as listed. Any other ratio gets the
number of blocks whose non-embedding parameters come closest to the transformer's; this reproduces the paper's own
inter-layer stacks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, cast

from hybridbench.arch.block import Block, Convention, Mixer
from hybridbench.arch.blocks.parallel import Fusion, Parallel
from hybridbench.arch.kinds import FEED_FORWARD, MIXERS, SHAPELESS, SHAPES
from hybridbench.arch.model import CUSTOM, ModelSpec
from hybridbench.arch.pattern import count_for_ratio, nearest_count, parse_pattern, parse_ratio, spread
from hybridbench.arch.scales import Scale, Site, find_scale
from hybridbench.errors import BadInput, unknown_name
from hybridbench.units import whole

ARCHS = ("transformer", "swa", "mamba", "inter", "intra")
ABOUT: dict[str, str] = {
    "transformer": "Llama-3.2 blocks: GQA, RoPE, SwiGLU",
    "swa": "Llama-3.2 blocks, most with a window of 512 and 64 sinks",
    "mamba": "Mamba-2 and SwiGLU in every block",
    "inter": "whole attention blocks between Mamba-2 blocks",
    "intra": "blocks with attention and Mamba-2 side by side, fused, between Mamba-2 blocks",
}
"""Each family in words."""
MIXED = ("swa", "inter", "intra")
"""Families that mix two kinds of block, and so have a ratio and positions."""
RECURRENT = ("mamba", "inter", "intra")
"""Families with recurrent blocks, whose mixer can be replaced (``--mixer``)."""
DEFAULT_RATIO = "1:5"

MAMBA2 = "mamba2"
"""The recurrent mixer of the paper's families."""

Places = tuple[int, int, tuple[int, ...] | None]
"""Blocks of the rarer kind, other blocks, and the 1-based places of the former where they are known."""

PAPER_STACKS: dict[tuple[str, str, str], Places] = {
    # (family, scale, ratio): attention (or hybrid, or global) and other blocks, and the 1-based places of the former
    # where the paper prints them. Its ratios are approximate: "1:5" is 2 + 11 at 1B.
    ("swa", "350m", "1:5"): (3, 11, None),
    ("swa", "1b", "1:1"): (8, 8, None),
    ("swa", "1b", "1:3"): (4, 12, None),
    ("swa", "1b", "1:5"): (3, 13, None),
    ("swa", "1b", "1:12"): (1, 15, None),
    ("swa", "1b", "0:1"): (0, 16, None),
    ("inter", "100m", "1:5"): (1, 5, None),
    ("inter", "350m", "1:1"): (6, 6, (2, 4, 6, 8, 10, 12)),
    ("inter", "350m", "1:3"): (3, 8, (3, 6, 9)),
    ("inter", "350m", "1:5"): (2, 9, (4, 8)),
    ("inter", "350m", "1:12"): (1, 10, (6,)),
    ("inter", "1b", "1:1"): (7, 7, (2, 4, 6, 8, 10, 12, 14)),
    ("inter", "1b", "1:3"): (3, 10, (3, 7, 11)),
    ("inter", "1b", "1:5"): (2, 11, (4, 8)),
    ("inter", "1b", "1:12"): (1, 12, (7,)),
    ("inter", "3b", "1:5"): (4, 18, None),
    ("intra", "100m", "1:5"): (1, 5, None),
    ("intra", "350m", "1:0"): (11, 0, None),
    ("intra", "350m", "1:1"): (6, 5, None),
    ("intra", "350m", "1:3"): (3, 8, None),
    ("intra", "350m", "1:5"): (2, 9, None),
    ("intra", "350m", "1:12"): (1, 10, None),
    ("intra", "1b", "1:0"): (13, 0, None),
    ("intra", "1b", "1:1"): (7, 6, (2, 4, 6, 8, 10, 12, 13)),
    ("intra", "1b", "1:3"): (3, 10, (4, 7, 11)),
    ("intra", "1b", "1:5"): (2, 11, (5, 9)),
    ("intra", "1b", "1:12"): (1, 12, None),
    ("intra", "3b", "1:5"): (4, 18, None),
}


@dataclass(frozen=True)
class Recipe:
    """A named way to build and fuse an intra block.

    ``branches`` are pattern letters; ``wide`` makes both branches d_model wide (query/key width d_model / 2), which
    fusing before one joint projection needs; ``paper_stacks`` marks the one whose stacks table 15 lists.
    """

    fusion: Fusion
    branches: str = "*&M"
    wide: bool = False
    paper_stacks: bool = False
    about: str = ""


RECIPES: dict[str, Recipe] = {
    "paper": Recipe(
        Fusion(), paper_stacks=True, about="the paper's choice: Group norm, subtract, separate projections"
    ),
    "concat": Recipe(
        Fusion(op="concat", out="joint"), about="the paper's near-equal: Group norm, concat, joint projection"
    ),
    "hymba": Recipe(
        Fusion(scale="vector", op="add", out="joint"), wide=True, about="Hymba-like: Group norm, scale, add, joint"
    ),
    "falcon-h1": Recipe(
        Fusion(norm="none", op="concat", out="joint"), about="Falcon-H1-like: no norm, no scale, concat, joint"
    ),
    "diff-transformer": Recipe(
        Fusion(scale="scalar", value="shared", out="joint"),
        branches="*&*",
        wide=True,
        about="control: two attentions subtracted, one value, learned scalar",
    ),
    "diff-mamba": Recipe(
        Fusion(scale="scalar", out="joint"),
        branches="M&M",
        wide=True,
        about="control: two Mamba-2 halves subtracted, learned scalar",
    ),
}


@dataclass(frozen=True)
class Options:
    """Options that change a family; None keeps the family's own value.

    ``split`` is query/key width : d_inner of the hybrid block before expansion, as in the paper's table 20
    (``1152:1152`` at 1b). ``fusion_*`` replace single axes of the recipe. ``mixer`` takes Mamba-2's place.
    """

    ratio: str | None = None
    positions: tuple[int, ...] | None = None
    recipe: str = "paper"
    fusion_norm: str | None = None
    fusion_scale: str | None = None
    fusion_op: str | None = None
    fusion_value: str | None = None
    fusion_out: str | None = None
    split: str | None = None
    moe: bool = False
    window: int | None = None
    sinks: int | None = None
    vocab_size: int | None = None
    mixer: str = MAMBA2


FUSION_DEFAULTS: dict[str, Any] = {
    f.name: f.default for f in fields(Options) if f.name in ("recipe", "split") or f.name.startswith("fusion_")
}
"""Options that apply only to a parallel block, with their defaults."""


def build_spec(arch: str, scale: str, options: Options | None = None) -> ModelSpec:
    """The model of a family at a scale.

    >>> build_spec("inter", "1b").pattern
    'M-M-M-*-M-M-M-*-M-M-M-M-M-'

    Raises:
        BadInput: an unknown name, or options that do not fit the family or each other.
    """
    options = options or Options()
    if arch not in ARCHS:
        raise unknown_name("arch", arch, ARCHS)
    shape, scale = find_scale(scale), scale.lower()
    _reject_misplaced(arch, options)
    blocks = _block_table(shape, options)
    ffn = "E" if options.moe else "-"
    letter = MIXERS[options.mixer]
    kinds = {"transformer": ("*", "*"), "swa": ("*", "S"), "mamba": (letter, letter), "inter": ("*", letter)}
    rare, common = kinds.get(arch, (_parallel_symbol(options), letter))
    mixed = rare != common
    ratio = "{}:{}".format(*parse_ratio(options.ratio or DEFAULT_RATIO)) if mixed else None
    places, n_blocks = _stack(arch, scale, shape, ratio, options, blocks, rare, common)
    pattern = "".join((rare if i in places else common) + ffn for i in range(1, n_blocks + 1))
    name = arch
    if options.mixer != MAMBA2:
        name = options.mixer if arch == "mamba" else f"{arch} {options.mixer}"
    return _spec(name, scale, shape, options, pattern, blocks, ratio if options.positions is None else None)


def pattern_spec(pattern: str, scale: str, options: Options | None = None) -> ModelSpec:
    """A model of a typed layer string, with the dimensions of a scale.

    Raises:
        BadPattern: the string does not parse.
        BadInput: options that do not fit it.
    """
    options = options or Options()
    shape = find_scale(scale)
    layers = parse_pattern(pattern)
    for name, letter in (("window", "S"), ("sinks", "S")):
        if getattr(options, name) is not None and not any(letter in layer for layer in layers):
            raise BadInput(f"--{name} without a window layer: pattern {pattern} has no S.")
    if options.ratio is not None or options.positions is not None:
        raise BadInput("--pattern already places every block: leave out --ratio and --positions.")
    if options.mixer != MAMBA2:
        raise BadInput(f"--pattern already names every mixer: leave out --mixer {options.mixer}.")
    text = "".join(layers)
    if not any(layer.startswith("(") for layer in layers):
        _reject_fusion(options, f"pattern {pattern} has none; write one as (*&M).")
    if options.moe:
        if not set(layers) & set(FEED_FORWARD):
            raise BadInput(f"--moe without an MLP to replace: pattern {pattern} has no -.")
        text = text.replace("-", "E")
    _reject_shapes(pattern, parse_pattern(text))
    blocks = _block_table(shape, options, needed=parse_pattern(text))
    return _spec(CUSTOM, scale.lower(), shape, options, text, blocks, None)


def _reject_shapes(pattern: str, layers: tuple[str, ...]) -> None:
    """Raise for layers whose shape no scale defines."""
    for layer in layers:
        if layer.endswith("'"):
            raise BadInput(f"{layer} in pattern {pattern}: a scale has one shape of each kind; leave out the quote.")
        if layer in SHAPELESS:
            raise BadInput(
                f"{layer} in pattern {pattern}: {SHAPELESS[layer]} has no dimensions at a scale; cost it with --model "
                f"or --config."
            )


def _spec(
    arch: str, scale: str, shape: Scale, options: Options, pattern: str, blocks: dict[str, Block], ratio: str | None
) -> ModelSpec:
    used = parse_pattern(pattern)
    return ModelSpec(
        arch=arch,
        scale=scale,
        d_model=shape.d_model,
        vocab_size=options.vocab_size or shape.vocab_size,
        pattern=pattern,
        blocks={symbol: blocks[symbol] for symbol in dict.fromkeys(used)},
        ratio=ratio,
        recipe=_recipe_name(options) if any(s.startswith("(") for s in used) else None,
    )


def _reject_misplaced(arch: str, options: Options) -> None:
    """Raise for options that do not apply to a family."""
    if options.mixer not in MIXERS:
        raise unknown_name("mixer", options.mixer, MIXERS)
    if options.mixer != MAMBA2 and arch not in RECURRENT:
        raise BadInput(f"--mixer for {arch}: it has no Mamba-2 to replace; use {', '.join(RECURRENT)}.")
    if arch != "swa" and (options.window is not None or options.sinks is not None):
        name = "window" if options.window is not None else "sinks"
        raise BadInput(f"--{name} without a window layer: {arch} has none; use --arch swa or a --pattern with S.")
    if options.positions is not None and options.ratio is not None:
        raise BadInput("--positions and --ratio both say where blocks go: give one of them.")
    for name in ("positions", "ratio"):
        if getattr(options, name) is not None and arch not in MIXED:
            raise BadInput(f"--{name} for {arch}: all its blocks are alike; use {', '.join(MIXED)}.")
    if arch != "intra":
        _reject_fusion(options, f"{arch} has none; use --arch intra or a --pattern with (*&M).")


def _reject_fusion(options: Options, reason: str) -> None:
    """Raise for options of a parallel block if the model has none."""
    for name, default in FUSION_DEFAULTS.items():
        if getattr(options, name) != default:
            raise BadInput(f"--{name.replace('_', '-')} without a parallel block: {reason}")


def _recipe(options: Options) -> Recipe:
    if options.recipe not in RECIPES:
        raise unknown_name("recipe", options.recipe, RECIPES)
    return RECIPES[options.recipe]


def _changes(options: Options) -> dict[str, str]:
    """The axes of the fusion that differ from the recipe's."""
    asked = {axis.name: getattr(options, f"fusion_{axis.name}") for axis in fields(Fusion)}
    fusion = _recipe(options).fusion
    return {name: value for name, value in asked.items() if value is not None and value != getattr(fusion, name)}


def _recipe_name(options: Options) -> str:
    changes = _changes(options)
    if options.split:
        changes["split"] = options.split
    return options.recipe + "".join(f",{axis}={value}" for axis, value in changes.items())


def _parallel_symbol(options: Options) -> str:
    return f"({_recipe(options).branches.replace('M', MIXERS[options.mixer])})"


def _block_table(shape: Scale, options: Options, needed: tuple[str, ...] = ()) -> dict[str, Block]:
    """A spec for every letter, and for each parallel symbol asked for."""
    site = Site(shape, shape.d_inner, shape.ssm_head_dim, window=options.window, sinks=options.sinks)
    blocks = {letter: at(site) for letter, at in SHAPES.items()}
    for symbol in (_parallel_symbol(options), *needed):
        if symbol.startswith("(") and symbol not in blocks:
            blocks[symbol] = _parallel(shape, options, symbol)
    return blocks


def _parse_split(text: str) -> tuple[int, int]:
    first, _, second = text.partition(":")
    attention, ssm = whole(first.strip()), whole(second.strip())
    if not attention or not ssm:
        raise BadInput(f"split '{text}' is not two widths: write query/key width : Mamba width, such as 1152:1152.")
    return attention, ssm


def _parallel(shape: Scale, options: Options, symbol: str) -> Parallel:
    """The hybrid block of a scale: heads split evenly, values at full d_model."""
    recipe = _recipe(options)
    fusion = replace(recipe.fusion, **_changes(options))
    needs_equal = fusion.value == "shared" or (fusion.out == "joint" and fusion.op != "concat")
    wide = recipe.wide or (needs_equal and options.split is None)
    heads = shape.intra_heads
    d_inner = shape.d_model if wide else shape.intra_d_inner
    qk_width = d_inner // 2
    if options.split is not None:
        qk_width, pre_expansion = _parse_split(options.split)
        d_inner = 2 * pre_expansion
    if qk_width % heads:
        raise BadInput(
            f"split '{options.split}': {heads} heads do not divide query/key width {qk_width}: give a multiple of "
            f"{heads}."
        )
    head_dims = (shape.intra_ssm_head_dim, shape.ssm_head_dim)
    ssm_head_dim = next((width for width in head_dims if d_inner % width == 0), None)
    if ssm_head_dim is None:
        raise BadInput(
            f"split '{options.split}': Mamba width {d_inner // 2} makes {d_inner} channels, which heads of "
            f"{shape.ssm_head_dim} do not divide: give a multiple of {shape.ssm_head_dim // 2}."
        )
    site = Site(shape, d_inner, ssm_head_dim, True, qk_width, options.window, options.sinks)
    letters = symbol[1], symbol[3]
    first, second = (cast("Mixer", SHAPES[letter](site)) for letter in letters)
    return Parallel(second, first, fusion) if letters[1] in MIXERS.values() else Parallel(first, second, fusion)


def _stack(
    arch: str,
    scale: str,
    shape: Scale,
    ratio: str | None,
    options: Options,
    blocks: dict[str, Block],
    rare: str,
    common: str,
) -> tuple[tuple[int, ...], int]:
    """Places of the rarer kind of block, and the number of blocks."""
    if ratio is None:
        if arch == "transformer":
            return (), shape.transformer_layers
        if options.mixer != MAMBA2:
            return (), _matched_blocks(shape, blocks, rare, common, (0, 1))
        return (), shape.mamba_layers
    wanted = parse_ratio(ratio)
    if options.positions is not None:
        positions = options.positions
        n_blocks = shape.transformer_layers if arch == "swa" else _n_blocks(shape, blocks, rare, common, positions)
        if options.positions[-1] > n_blocks:
            raise BadInput(
                f"position {options.positions[-1]} is beyond the {n_blocks} blocks of {arch} at {scale}: "
                f"give 1 to {n_blocks}."
            )
        return options.positions, n_blocks
    listed = options.mixer == MAMBA2
    default_fusion = arch != "intra" or (_recipe(options).paper_stacks and not _changes(options) and not options.split)
    if listed and default_fusion and (arch, scale, ratio) in PAPER_STACKS:
        count, others, places = PAPER_STACKS[arch, scale, ratio]
        return places or spread(count, count + others), count + others
    n_blocks = shape.transformer_layers if arch == "swa" else _matched_blocks(shape, blocks, rare, common, wanted)
    try:
        return spread(count_for_ratio(wanted, n_blocks), n_blocks), n_blocks
    except BadInput as exc:
        cause = f" (split {options.split} sets the size of its blocks, and so their number)" if options.split else ""
        raise BadInput(f"{arch} at {scale}{cause}: {exc}") from exc


def _block_params(blocks: dict[str, Block], mixer: str) -> int:
    """Parameters of a mixer with its dense MLP, as the paper counts them; experts change no number of blocks."""
    return blocks[mixer].params(Convention.PAPER) + blocks["-"].params(Convention.PAPER)


def _target_params(shape: Scale, blocks: dict[str, Block]) -> int:
    return shape.transformer_layers * _block_params(blocks, "*")


def _matched_blocks(shape: Scale, blocks: dict[str, Block], rare: str, common: str, ratio: tuple[int, int]) -> int:
    """Depth whose parameters come closest to the transformer's, at the counts the ratio gives there.

    One side of the ratio may get no block at that number; ``count_for_ratio`` then raises and says what would fit.
    """
    target = _target_params(shape, blocks)

    def distance(n_blocks: int) -> int:
        count = nearest_count(ratio, n_blocks)
        total = count * _block_params(blocks, rare) + (n_blocks - count) * _block_params(blocks, common)
        return abs(total - target)

    return min(range(1, 2 * shape.transformer_layers + 1), key=distance)


def _n_blocks(shape: Scale, blocks: dict[str, Block], rare: str, common: str, positions: tuple[int, ...]) -> int:
    """Depth whose parameters come closest to the transformer's with a fixed number of the rarer blocks."""
    target = _target_params(shape, blocks)
    fixed = len(positions) * _block_params(blocks, rare)
    rest = max(0, round((target - fixed) / _block_params(blocks, common)))
    return len(positions) + rest
