"""doubts: which records contradict themselves, and what reduces the trust in others."""

from __future__ import annotations

from hybridbench.derive.floors import datasheet_floor_s, mfu_frac
from hybridbench.derive.kept import once
from hybridbench.derive.measured import observed, step_s
from hybridbench.derive.predicted import predicted_cache, predicted_params
from hybridbench.operations.beyond import ran_beyond
from hybridbench.record import BackendUse, Caveat, Record, unexplained


@once
def problems(record: Record) -> list[str]:
    """Contradictions between what was observed and what must hold; a record with any is invalid.

    The list is empty for a record that is not ok, since such a record claims nothing.
    """
    seen = observed(record)
    if seen is None:
        return []
    found = []
    # By the datasheet's floor: a small model's weights may fit a cache that is faster than the memory rate measured.
    least_s, took_s = datasheet_floor_s(record), step_s(record)
    if least_s is not None and took_s is not None and least_s > took_s:
        share = least_s / took_s
        found.append(f"faster than the floor ({share:.3g} times): the clock, the work or the prediction is wrong")
    utilisation = mfu_frac(record)
    if utilisation is not None and utilisation > 1:
        found.append(f"MFU is {utilisation:.3g}: more model FLOPs than the peak allows")
    pairs = [("parameters", predicted_params(record), seen.parameters)]
    cache = predicted_cache(record)
    if seen.cache is not None and cache is not None:
        pairs += [
            ("KV cache bytes", cache.kv, seen.cache.kv_cache_bytes),
            ("SSM state bytes", cache.ssm, seen.cache.ssm_state_bytes),
            ("conv state bytes", cache.conv, seen.cache.conv_state_bytes),
        ]
    found += [f"{what}: {built:,} observed, {wanted:,} predicted" for what, wanted, built in pairs if built != wanted]
    found += [
        f"{use.op} ran on {use.ran} where {use.asked} was asked for"
        for use in seen.backends
        if use.asked not in ("auto", use.backend)
    ]
    return found


PLAIN_BACKENDS = ("reference", "chunked", "sdpa-math")
"""Backends that are plain PyTorch, operator by operator."""


@once
def doubts(record: Record) -> list[Caveat]:
    """The caveats of a record: those found while it was measured, and those known about its kernels since.

    Older records were made before results were checked at the timed size. Their kernels may have run beyond the sizes
    at which they are correct (``limits``), so that the time is of a wrong computation. On a GPU, an operation that ran
    as plain PyTorch because no kernel supports it does not compare with models whose operations have kernels. They also
    called a clock that the power limit lowers a caveat of the cell, which it no longer is (``record.clocks``).
    """
    seen = observed(record)
    if seen is None:
        return record.caveats
    found = set[Caveat]()
    if not seen.sized and ran_beyond(record.case, [(use.op, use.ran) for use in seen.backends]):
        found.add(Caveat.BEYOND_LIMIT)
    if record.environment.device_kind == "cuda" and any(use.asked == "auto" and is_plain(use) for use in seen.backends):
        found.add(Caveat.PLAIN_PYTORCH)
    measured = unexplained(record.caveats, seen.gpu_before, seen.gpu_after)
    return [*measured, *(caveat for caveat in Caveat if caveat in found - set(measured))]


def is_plain(use: BackendUse) -> bool:
    """Whether an operation ran as plain PyTorch, which is used where no kernel can run."""
    return use.backend in PLAIN_BACKENDS
