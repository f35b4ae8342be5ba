"""match: models brought to one budget: the number of blocks or the width at which a model comes nearest a reference.

    params          all parameters
    train-flops     FLOPs of training on one sequence, exact
    cache           bytes one sequence keeps at a context
    decode-bytes    bytes a decode step of a batch must move at a context
    paper           the source paper's own rule: parameters without embedding and norms as it counts them, at the same
                    width, with fewer layers

By blocks, some are added or taken away at the same ratio of mixers, spread as the families spread them; the width
stays. By width, the number of blocks and their places stay, and every block is scaled: heads keep their size and are
rounded to whole groups, the feed-forward width to multiples of 64, the model's width to multiples of ``WIDTH_STEP`` of
the reference width. Blocks are coarse: one of 13 is 8% of the parameters. So the result says how near each model
came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from hybridbench.arch import model as arch
from hybridbench.arch.block import Convention, Storage
from hybridbench.arch.families import ARCHS, RECIPES, Options, build_spec, pattern_spec
from hybridbench.arch.kinds import BLOCK_LETTERS, FEED_FORWARD, MIXERS
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.pattern import nearest_count, parse_ratio, spread
from hybridbench.arch.presets import PRESETS, preset_spec
from hybridbench.arch.scales import SCALES
from hybridbench.errors import BadInput, unknown_name

BUDGETS = ("params", "train-flops", "cache", "decode-bytes", "paper")
SPOKEN = {"paper": "parameters as the paper counts them"}
"""Words for budgets whose names are not clear in a sentence."""
SIDES = ("blocks", "width")
OLD_SIDES = {"depth": "blocks"}
"""Earlier names of sides, which are still understood."""
TOLERANCE = 0.05
"""How far off a match may be by default, as a share: half a block of ten."""
MAX_BLOCKS = 256
"""Blocks a match by blocks tries at most."""
WIDTH_STEP = 64
"""A width tried is a multiple of this."""
WIDEST = 4
"""A width tried is at most this many times the model's own."""


@dataclass(frozen=True)
class Match:
    """A model brought to a budget.

    Args:
        spec: the model at the number of blocks or the width that comes nearest.
        budget, side: what was matched, and by what.
        wanted: the reference's budget; FLOPs, bytes or parameters.
        reached: the model's.
        before: the model as it was.
    """

    spec: ModelSpec
    budget: str
    side: str
    wanted: int
    reached: int
    before: ModelSpec

    @property
    def sentence(self) -> str:
        """What was matched, what was reached, and how to build it again."""
        how = "as it is" if self.spec == self.before else f"with {size_of(self.spec, self.side)}"
        again = f"; --pattern '{self.spec.pattern}'" if self.side == "blocks" and self.spec != self.before else ""
        budget = SPOKEN.get(self.budget, self.budget)
        return f"{self.spec.label} {self.spec.scale} is {self.error:+.2%} off in {budget}, {how}{again}"

    @property
    def error(self) -> float:
        """How far off it is, as a share of what was wanted; positive where it is larger."""
        return self.reached / self.wanted - 1


def matched(
    specs: Iterable[ModelSpec],
    reference: ModelSpec,
    budget: str,
    side: str = "blocks",
    *,
    context: int,
    batch: int = 1,
    stored: Callable[[ModelSpec], Storage] | None = None,
    tolerance: float = TOLERANCE,
) -> list[Match]:
    """Each model at the number of blocks or the width at which its budget comes nearest the reference's.

    Args:
        stored: the bytes of what a model stores; everything in two by default.
        tolerance: how far off it may be, as a share.

    Raises:
        BadInput: an unknown budget or side, a reference whose budget is zero, or a model that cannot come as near as
            the tolerance asks; the text names the nearest it can.
    """
    if budget not in BUDGETS:
        raise unknown_name("budget to match", budget, BUDGETS)
    side = OLD_SIDES.get(side, side)
    if side not in SIDES:
        raise unknown_name("side to match by", side, SIDES)
    if budget == "paper" and side == "width":
        raise BadInput("the paper's rule keeps the width: match paper by blocks, or params by width.")
    if not 0 < tolerance < 1:
        raise BadInput(f"tolerance {100 * tolerance:.3g}: give percent above 0 and below 100.")

    def amount(spec: ModelSpec) -> int:
        return budget_of(spec, budget, context, batch, stored(spec) if stored else Storage())

    wanted = amount(reference)
    if not wanted:
        raise BadInput(f"{reference.label} has a {budget} of zero at context {context}: there is nothing to match.")
    return [_nearest(spec, reference, budget, side, wanted, amount, tolerance) for spec in specs]


def named_spec(text: str, scale: str) -> ModelSpec:
    """One model by name: a family, with scale, ratio, recipe or mixer after slashes; a published model; a pattern.

    >>> named_spec("inter/1:3", "1b").label, named_spec("M-*-", "tiny").pattern
    ('inter 3+10', 'M-*-')

    Raises:
        BadInput: a name that is not known, or two of a kind.
    """
    if text and set(text) <= {*BLOCK_LETTERS, *"(&)'+| "}:
        return pattern_spec(text, scale)
    if text.lower() in PRESETS:
        return preset_spec(text)
    family, *rest = (part.strip().lower() for part in text.split("/"))
    if family not in ARCHS:
        raise unknown_name("model", text, [*ARCHS, *PRESETS])
    found: dict[str, str] = {}
    for part in rest:
        tables: dict[str, Iterable[str]] = {"scale": SCALES, "recipe": RECIPES, "mixer": MIXERS}
        kind = "ratio" if ":" in part else next((kind for kind, table in tables.items() if part in table), "")
        if not kind or kind in found:
            wrong = f"a second {kind}" if kind else "no scale, ratio, recipe or mixer"
            raise BadInput(
                f"model '{text}': '{part}' is {wrong}; write inter, inter/1:3, intra/350m/1:3/hymba, inter/kda, or a "
                f"layer string such as M-M-*-."
            )
        found[kind] = part
    options = Options(
        ratio=found.get("ratio"),
        recipe=found.get("recipe", Options.recipe),
        mixer=found.get("mixer", Options.mixer),
    )
    return build_spec(family, found.get("scale", scale), options)


def names_scale(text: str) -> bool:
    """Whether a model's name includes its scale: a published model, or a family with a scale after a slash."""
    return text.lower() in PRESETS or any(part.strip().lower() in SCALES for part in text.split("/")[1:])


def budget_of(spec: ModelSpec, budget: str, context: int, batch: int, storage: Storage) -> int:
    """A model's amount of a budget: parameters, FLOPs or bytes."""
    if budget == "params":
        return arch.params(spec)
    if budget == "paper":
        return sum(n * block.params(Convention.PAPER) for block, n in spec.uses)
    if budget == "train-flops":
        return arch.train_flops(spec, context).total
    if budget == "cache":
        return arch.cache_bytes(spec, context, storage).total
    return arch.decode_bytes_moved(spec, context, batch, storage)


def _nearest(
    spec: ModelSpec,
    reference: ModelSpec,
    budget: str,
    side: str,
    wanted: int,
    amount: Callable[[ModelSpec], int],
    tolerance: float,
) -> Match:
    candidates = _deeper(spec) if side == "blocks" else _wider(spec)
    # The unchanged model comes first, so that it stays, with its published places, if no other is nearer.
    best = min([spec, *candidates], key=lambda candidate: abs(amount(candidate) - wanted))
    found = Match(best, budget, side, wanted, amount(best), spec)
    if abs(found.error) > tolerance:
        other = "width" if side == "blocks" and budget != "paper" else "blocks"
        way = f"match it by {other}, or" if other != side else "take another budget, or"
        raise BadInput(
            f"{spec.label} {spec.scale} cannot match {reference.label} {reference.scale} in {budget} within "
            f"{tolerance:.1%} by {side}: the nearest is {size_of(best, side)}, which is off by {found.error:+.1%}; "
            f"{way} raise --tolerance to {abs(found.error) * 100 + 0.1:.1f}."
        )
    return found


def size_of(spec: ModelSpec, side: str) -> str:
    """A model's number of blocks or width in words."""
    return f"a width of {spec.d_model}" if side == "width" else f"{_n_blocks(spec)} blocks"


def _mixers(spec: ModelSpec) -> list[str]:
    return [symbol for symbol in spec.layers if symbol[0] not in FEED_FORWARD]


def _n_blocks(spec: ModelSpec) -> int:
    return len(_mixers(spec))


def _deeper(spec: ModelSpec) -> list[ModelSpec]:
    """The model with every number of blocks from 1 to ``MAX_BLOCKS`` at which each kind of mixer keeps a block."""
    mixers = _mixers(spec)
    tails = Counter(_tails(spec))
    kinds = Counter(mixers)
    if len(tails) > 1 or len(kinds) > 2:
        several = max(len(tails), len(kinds))
        raise BadInput(
            f"pattern {spec.pattern} has no rule for another number of blocks: they are of {several} kinds, "
            f"where two mixers with one kind of feed-forward layer are known; match it by width."
        )
    (tail,) = tails
    if len(kinds) == 1:
        return [replace(spec, pattern=(mixers[0] + tail) * n_blocks) for n_blocks in range(1, MAX_BLOCKS + 1)]
    rare, common = _rare_and_common(spec, kinds)
    ratio = parse_ratio(spec.ratio) if spec.ratio is not None else (kinds[rare], kinds[common])
    made = []
    for n_blocks in range(2, MAX_BLOCKS + 1):
        count = nearest_count(ratio, n_blocks)
        if not 0 < count < n_blocks:
            continue
        places = spread(count, n_blocks)
        made.append(
            replace(spec, pattern="".join((rare if i in places else common) + tail for i in range(1, n_blocks + 1)))
        )
    return made


def _rare_and_common(spec: ModelSpec, kinds: Counter[str]) -> tuple[str, str]:
    """The mixer a ratio names first, and the other: parallel before full attention before the rest, as in families."""
    first, second = sorted(kinds, key=lambda symbol: (*spec.rank(symbol), kinds[symbol]))
    return first, second


def _tails(spec: ModelSpec) -> list[str]:
    """What follows each mixer up to the next one."""
    tails: list[str] = []
    for symbol in spec.layers:
        if symbol[0] not in FEED_FORWARD:
            tails.append("")
        elif tails:
            tails[-1] += symbol
        else:
            raise BadInput(f"pattern {spec.pattern} begins without a mixer: match it by width.")
    return tails


def _wider(spec: ModelSpec) -> list[ModelSpec]:
    """The model at every width that is a multiple of ``WIDTH_STEP`` and at which its blocks can be built."""
    step = min(WIDTH_STEP, spec.d_model)
    made = []
    for width in range(step, WIDEST * spec.d_model + 1, step):
        try:
            blocks = {symbol: block.scaled(width, spec.d_model) for symbol, block in spec.blocks.items()}
        except BadInput:
            continue
        if width == spec.d_model:
            made.append(spec)
        else:
            made.append(replace(spec, d_model=width, blocks=blocks, scale=f"{spec.scale} d{width}"))
    return made
