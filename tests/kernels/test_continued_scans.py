"""A sequence run in pieces, each from the state that the last one left, is the sequence run at once."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hybridbench.errors import Unsupported
from hybridbench.kernels import reference_of
from hybridbench.kernels.delta import fla
from hybridbench.kernels.linear import fla as linear_fla
from hybridbench.kernels.linear import reference as linear_reference
from hybridbench.kernels.scan import core, reference, third_party
from hybridbench.kernels.scan.reference import mamba3 as mamba3_reference

B, T, H, G, P, V, N, R, WIDTH, TAPS, Q = 2, 50, 4, 2, 8, 6, 4, 2, 10, 4, 8
NO_STEP = -1e4
CUTS = ((0, 19), (19, 20), (20, 50))
"""Pieces that end inside chunks, one of them a single position."""
INNER, CHANNELS = H * P, H * P + 2 * G * N
CORE = {"head_dim": P, "n_groups": G, "chunk_size": Q, "eps": 1e-5}


def drawn(dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(map(sum, shapes)))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def sequences(dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[Tensor]:
    return drawn(dtype, *((B, T, *shape) for shape in shapes))


Run = Callable[[list[Tensor], Any], tuple[Tensor, Any]]
"""The outputs over some positions of the sequences, and what is left, from what was left before (None at first)."""


def of_ssd(dtype: torch.dtype) -> tuple[list[Tensor], Run]:
    A, D, bias = drawn(dtype, (H,), (H,), (H,))

    def run(part: list[Tensor], state: Any) -> tuple[Tensor, Any]:
        x, dt, b, c = part
        return reference.ssd(x, dt, -A.exp(), b, c, D, bias, chunk_size=Q, initial_state_BHPN=state)

    return sequences(dtype, (H, P), (H,), (G, N), (G, N)), run


def of_core(dtype: torch.dtype) -> tuple[list[Tensor], Run]:
    """The convolution's last inputs come in front of each piece, in rows of no step."""
    weight, bias, A, D, dt_bias, norm = drawn(dtype, (CHANNELS, TAPS), (CHANNELS,), (H,), (H,), (H,), (INNER,))

    def run(part: list[Tensor], kept: Any) -> tuple[Tensor, Any]:
        (packed,) = part
        state, tail = kept or (None, packed[:, :0])
        idle = tail.clone()
        idle[..., -H:] = NO_STEP
        parameters = (weight, bias, -A.exp(), D, dt_bias, norm)
        whole = torch.cat((idle, packed), 1)
        out, state = reference.mamba2_core(whole, *parameters, **CORE, initial_state_BHPN=state)
        return out[:, tail.shape[1] :], (state, torch.cat((tail, packed), 1)[:, 1 - TAPS :])

    return sequences(dtype, (INNER + CHANNELS + H,)), run


def of_selective(dtype: torch.dtype, scan: Callable[..., Any] = reference.selective_scan) -> tuple[list[Tensor], Run]:
    A, D, bias = drawn(dtype, (WIDTH, N), (WIDTH,), (WIDTH,))

    def run(part: list[Tensor], state: Any) -> tuple[Tensor, Any]:
        x, dt, b, c, z = part
        found: tuple[Tensor, Any] = scan(x, dt, -A.exp(), b, c, D, z, bias, initial_state_BIN=state)
        return found

    return sequences(dtype, (WIDTH,), (WIDTH,), (N,), (N,), (WIDTH,)), run


def of_mamba3(dtype: torch.dtype) -> tuple[list[Tensor], Run]:
    parameters = drawn(dtype, (H,), (H, N), (H, N), (H,))

    def run(part: list[Tensor], kept: Any) -> tuple[Tensor, Any]:
        y, *kept = mamba3_reference.mamba3_scan(*part, *parameters, chunk_size=Q, initial=kept)
        return y, kept

    return sequences(dtype, (H, P), (H,), (H,), (H,), (G, N), (G, N), (R,), (H, P)), run


def of_delta(dtype: torch.dtype, op: str) -> tuple[list[Tensor], Run]:
    channel, groups = ((P,), H) if op == "kda" else ((), G)
    A_log, bias = drawn(dtype, (H,), (H, *channel))

    def run(part: list[Tensor], state: Any) -> tuple[Tensor, Any]:
        found: tuple[Tensor, Any] = reference_of(op)(*part, A_log, bias, chunk_size=Q, initial_state_BHPV=state)
        return found

    return sequences(dtype, (groups, P), (groups, P), (H, V), (H, *channel), (H,)), run


def of_lightning(dtype: torch.dtype) -> tuple[list[Tensor], Run]:
    (rate,) = drawn(dtype, (H,))

    def run(part: list[Tensor], state: Any) -> tuple[Tensor, Any]:
        return linear_reference.lightning(*part, -rate.exp() / 8, chunk_size=Q, initial_state_BHPP=state)

    return sequences(dtype, (H, P), (H, P), (H, P)), run


def of_rwkv7(dtype: torch.dtype) -> tuple[list[Tensor], Run]:
    def run(part: list[Tensor], state: Any) -> tuple[Tensor, Any]:
        *rest, kk, a = part
        found: tuple[Tensor, Any] = reference_of("rwkv7")(
            *rest, torch.nn.functional.normalize(kk, dim=-1), a.sigmoid(), chunk_size=Q, initial_state_BHPV=state
        )
        return found

    return sequences(dtype, *[(H, P)] * 6), run


SCANS: dict[str, Callable[[torch.dtype], tuple[list[Tensor], Run]]] = {
    "ssd": of_ssd,
    "mamba2_core": of_core,
    "selective_scan": of_selective,
    "mamba3_scan": of_mamba3,
    "gated_delta": lambda dtype: of_delta(dtype, "gated_delta"),
    "kda": lambda dtype: of_delta(dtype, "kda"),
    "lightning": of_lightning,
    "rwkv7": of_rwkv7,
}


def last(kept: Any) -> list[Tensor]:
    return [kept] if isinstance(kept, Tensor) else list(kept)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("op", SCANS)
def test_three_pieces_are_the_whole(op: str, dtype: torch.dtype, bound: float) -> None:
    given, run = SCANS[op](dtype)
    whole, final = run(given, None)
    pieces, kept = [], None
    for first, end in CUTS:
        y, kept = run([x[:, first:end] for x in given], kept)
        pieces.append(y)
    pairs = list(zip((torch.cat(pieces, 1), *last(kept)), (whole, *last(final)), strict=True))
    if op == "mamba3_scan":
        (found, expected) = pairs.pop(1)  # angles just above 0 and just below 2 pi are close
        pairs += [(found.cos(), expected.cos()), (found.sin(), expected.sin())]
    for found, expected in pairs:
        assert found.dtype == dtype
        assert float((found - expected).norm() / expected.norm()) < bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_no_step_leave_a_state_as_it_is(dtype: torch.dtype) -> None:
    """Whatever else is in them, and to the bit."""
    rows = slice(0, TAPS - 1)
    for op, step, shape in (("ssd", 1, (B, H, P, N)), ("selective_scan", 1, (B, WIDTH, N))):
        given, run = SCANS[op](dtype)
        given[step] = torch.full_like(given[step], NO_STEP)
        start = torch.randn(shape)
        y, state = run([x[:, rows] for x in given], start)
        assert torch.equal(state, start)
        assert y.isfinite().all()
    (packed,), run = of_core(dtype)
    packed[..., -H:] = NO_STEP
    start = torch.randn(B, H, P, N)
    y, (state, _tail) = run([packed[:, rows]], (start, packed[:, :0]))
    assert torch.equal(state, start)
    assert y.isfinite().all()


def test_the_cores_initial_state_has_gradients_in_the_reference() -> None:
    (packed,), _run = of_core(torch.float64)
    weight, bias, A, D, dt_bias = drawn(torch.float64, (CHANNELS, TAPS), (CHANNELS,), (H,), (H,), (H,))
    start = torch.randn(B, H, P, N, dtype=torch.float64, requires_grad=True)

    def of_state(state: Tensor) -> tuple[Tensor, Tensor]:
        given = (packed[:, :5], weight, bias, -A.exp(), D, dt_bias, None)
        return reference.mamba2_core(*given, **CORE, initial_state_BHPN=state)

    assert torch.autograd.gradcheck(of_state, (start,), fast_mode=True)


# mamba_ssm's wrappers, with stand-ins for its kernels ----------------------------------------------------------------


def selective_from_zeros(x: Tensor, dt: Tensor, A: Tensor, b: Tensor, c: Tensor, D: Tensor, **o: Any) -> Any:
    """``selective_scan_fn`` by the reference implementation, positions last; it takes no state."""
    assert (o["delta_softplus"], o["return_last_state"]) == (True, True)
    across = [v.transpose(1, 2) for v in (x, dt, b, c, o["z"])]
    y, state = reference.selective_scan(*across[:2], A, *across[2:4], D, across[4], o["delta_bias"])
    return y.transpose(1, 2), state


@pytest.fixture
def wrapped(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    theirs = types.SimpleNamespace(selective_scan_fn=selective_from_zeros)
    monkeypatch.setattr(third_party, "imported", lambda *_: theirs)
    return third_party.load_selective_scan()


@pytest.mark.parametrize("span", [1, 7, 1000])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_what_a_state_adds_to_a_selective_scan(
    wrapped: Callable[..., Any], dtype: torch.dtype, bound: float, span: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(third_party, "DECAYED_ELEMENTS", B * WIDTH * N * span)
    given, ours = of_selective(dtype, wrapped)
    _, theirs = of_selective(dtype)
    start = torch.randn(B, WIDTH, N)
    slow = [v.clone() for v in given]
    slow[1] -= 6  # much of the state is left at the end
    for part in (given, slow):
        for found, expected in zip(ours(part, start), theirs(part, start), strict=True):
            assert found.dtype == expected.dtype
            assert float((found - expected).double().norm() / expected.double().norm()) < bound
    assert torch.equal(ours(given, None)[0], theirs(given, None)[0])


def test_what_is_added_ends_where_nothing_is_left(wrapped: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 50 positions, each of which takes more than half of what float32 can hold, two are gone through."""
    monkeypatch.setattr(third_party, "DECAYED_ELEMENTS", B * WIDTH * N)
    steps, softplus = [], torch.nn.functional.softplus
    given, run = of_selective(torch.float32, wrapped)
    _, theirs = of_selective(torch.float32)
    given[1] = torch.full_like(given[1], 1000.0)
    start = torch.randn(B, WIDTH, N)
    expected = theirs(given, start)
    from_zeros = run(given, None)
    monkeypatch.setattr(third_party, "F", types.SimpleNamespace(
        softplus=lambda x: steps.append(x) or softplus(x), silu=torch.nn.functional.silu
    ))  # fmt: skip
    found = run(given, start)
    assert 1 <= len(steps) <= 2
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found, from_zeros)


def test_gradients_from_a_state_are_refused(wrapped: Callable[..., Any]) -> None:
    given, run = of_selective(torch.float32, wrapped)
    start = torch.randn(B, WIDTH, N)
    leaves = [v.requires_grad_() for v in given]
    with pytest.raises(Unsupported, match="selective_scan from an initial state has no gradients here"):
        run(leaves, start)
    with torch.no_grad():
        run(leaves, start)


def test_the_published_core_starts_from_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """mamba_ssm's fused function gets it, and no gradients are asked of it then."""

    def fused(packed: Tensor, weight: Tensor, bias: Tensor, dt_bias: Tensor, A: Tensor, D: Tensor, Q: int, **o: Any):
        sizes = {"head_dim": o["headdim"], "n_groups": o["ngroups"], "chunk_size": Q, "eps": o["rmsnorm_eps"]}
        given = (packed, weight, bias, A, D, dt_bias, o["rmsnorm_weight"])
        return reference.mamba2_core(*given, **sizes, initial_state_BHPN=o["initial_states"])

    monkeypatch.setattr(core, "imported", lambda *_: types.SimpleNamespace(mamba_split_conv1d_scan_combined=fused))
    split = core.load_mamba2_core()
    (packed,), _run = of_core(torch.float32)
    weight, bias, A, D, dt_bias = drawn(torch.float32, (CHANNELS, TAPS), (CHANNELS,), (H,), (H,), (H,))
    given = (packed, weight, bias, -A.exp(), D, dt_bias, None)
    start = torch.randn(B, H, P, N)
    for state in (None, start):
        expected = reference.mamba2_core(*given, **CORE, initial_state_BHPN=state)
        torch.testing.assert_close(split(*given, **CORE, initial_state_BHPN=state), expected)
    packed.requires_grad_()
    split(*given, **CORE)
    with pytest.raises(Unsupported, match="mamba2_core from an initial state has no gradients here"):
        split(*given, **CORE, initial_state_BHPN=start)


@pytest.mark.parametrize("op", ["gated_delta", "kda"])
def test_flas_kernels_get_a_cached_state_in_float32(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    got = []

    def chunked(q: Tensor, k: Tensor, v: Tensor, *rest: Tensor, initial_state: Any, **options: Any) -> Any:
        got.append(initial_state)
        return v, initial_state

    published = types.SimpleNamespace(chunk_gated_delta_rule=chunked, chunk_kda=chunked)
    monkeypatch.setattr(fla, "imported", lambda *_: published)
    given, _ = of_delta(torch.bfloat16, op)
    channel = (P,) if op == "kda" else ()
    parameters = drawn(torch.float32, (H,), (H, *channel))
    start = torch.randn(B, H, P, V).bfloat16()
    run = {"gated_delta": fla.load_gated_delta, "kda": fla.load_kda}[op]()
    for state in (None, start):
        run(*given, *parameters, chunk_size=Q, initial_state_BHPV=state)
    assert got[0] is None
    assert got[1].dtype == torch.float32
    assert torch.equal(got[1], start.float())


def test_flas_kernels_are_asked_for_lightning_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decays as they are, no scale, and a state in float32; a step's new state is copied over the old one."""
    got = []

    def simple_gla(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        got.append(options)
        given = {"chunk_size": options.get("chunk_size", 1), "initial_state_BHPP": options["initial_state"]}
        return linear_reference.lightning(q, k, v, options["g_gamma"], **given)

    published = types.SimpleNamespace(chunk_simple_gla=simple_gla, fused_recurrent_simple_gla=simple_gla)
    monkeypatch.setattr(linear_fla, "imported", lambda *_: published)
    q, k, v = sequences(torch.bfloat16, (H, P), (H, P), (H, P))
    (rate,) = drawn(torch.float32, (H,))
    start = torch.randn(B, H, P, P).bfloat16()
    chunked, step = linear_fla.load_lightning(), linear_fla.load_lightning_step()
    for state in (None, start):
        found = chunked(q, k, v, -rate.exp(), chunk_size=Q, initial_state_BHPP=state)
        expected = linear_reference.lightning(q, k, v, -rate.exp(), chunk_size=Q, initial_state_BHPP=state)
        torch.testing.assert_close(found, expected)
    assert [options["initial_state"] is None for options in got] == [True, False]
    assert got[1]["initial_state"].dtype == torch.float32
    ours, theirs = start.clone(), start.clone()
    one = [x[:, 3] for x in (q, k, v)]
    torch.testing.assert_close(
        step(ours, *one, -rate.exp()), linear_reference.lightning_step(theirs, *one, -rate.exp())
    )
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, start)
    assert all((options["scale"], options["output_final_state"]) == (1.0, True) for options in got)
