"""recurrent_activations: what the cores of recurrent mixers other than Mamba-2 keep and need, tensor by tensor.

Lists as those of ``arch.activations``, of the published kernels as their Python sources allocate: mamba_ssm 2.3.2 and
causal_conv1d 1.7.0 for Mamba-1 and Mamba-3, flash-linear-attention's fla-core 0.6.0 for the delta rules. Left out is
what does not grow with the tokens: final states, sums over programs.

These sources, run on CPU tensors with every kernel left out, allocated what is listed to within 1.1% at 350m and 1b. Of
Mamba-3 it was 1.5% in the forward, and 5% less is listed as saved than its norms, which a CPU splits up, keep there.
Peaks of inter at 1b on an H200, in training and prefill with each of these mixers: within 0.3%.
"""

from __future__ import annotations

from hybridbench.arch.delta import GatedDelta, Kda
from hybridbench.arch.mamba1 import Mamba1
from hybridbench.arch.mamba3 import Mamba3
from hybridbench.arch.terms import FLOAT, Activations, Term, padded
from hybridbench.sizes import SELECTIVE_SCAN_CHUNK

WIDE_SUMS = 6
"""Of gradients of beta a head and token, in float32: four parts of the triangular system's, the sum, the rule's own."""


def mamba1_core(block: Mamba1, size: int) -> Activations:
    """Conv, projection of dt's rank, B and C, dt, scan with gate (``SelectiveScanFn``), all channel by channel."""
    inner, states = block.d_inner, block.d_inner * block.d_state
    packed = Term("x and z", 2 * size * inner)
    convolved = Term("conv output", size * inner, cheap=True)
    ranked = Term("rank of dt, B and C", size * (block.dt_rank + 2 * block.d_state))
    steps = Term("dt", size * inner)
    decay = Term("A and its exponential, bias of dt", fixed=FLOAT * (2 * states + inner))
    scanned = Term("scan output before the gate", size * inner)
    kept = Term("states between chunks", 2 * FLOAT * states // SELECTIVE_SCAN_CHUNK)
    gated = Term("gated output", size * inner)
    saved = (packed, convolved, ranked, steps, decay, scanned, kept, gated)
    return Activations(
        saved=saved,
        forward=(saved,),
        backward=(
            (
                Term("gradient of the gated output", gated.per_token),
                Term("gated output, freed", -gated.per_token),
                Term("gradients of the conv output, dt and z", 3 * size * inner),
                Term("gradients of B and C in float32", 2 * FLOAT * block.d_state),
                Term("gradient of A", fixed=FLOAT * states),
            ),
        ),
    )


def mamba3_core(block: Mamba3, size: int) -> Activations:
    """Norms of B and C, steps and decays in float32, a scan that turns B and C of every head and keeps them, its states
    and its output with and without the gate (``_Mamba3Function``). It keeps them in a prefill too, since parameters ask
    for gradients; x and z, which lie in the packed row, are copied for it while it runs."""
    heads, inner, groups = block.n_heads, block.d_inner, block.n_groups * block.d_state
    columns, copied = padded(2 * inner + 2 * groups + 3 * heads + block.n_angles, block.d_model, size)
    packed = Term("packed z, x, B, C, dt, decay, share, angles", size * columns, fixed=copied)
    normed = Term("normed B and C, their lengths", 2 * size * groups + 2 * FLOAT * block.n_groups)
    steps = Term("steps and decays in float32, made in six parts", 6 * FLOAT * heads)
    turned = Term("B and C of every head", 2 * size * heads * block.d_state)
    angles = Term("angles added up", size * heads * block.n_angles)
    outputs = Term("output with and without the gate", 2 * size * inner)
    states = Term("states before chunks", 2 * inner * block.d_state // block.chunk_size)
    sums = Term("decays and products in float32", 4 * FLOAT * heads)
    saved = (packed, normed, steps, turned, angles, outputs, states, sums)
    return Activations(
        saved=saved,
        forward=((*saved, Term("copies of x and z", 2 * size * inner)),),
        backward=(
            (
                Term("gradients of the output, gated and scaled", 2 * size * inner),
                Term("copy of z, gradients of z and x", 3 * size * inner),
                Term("gradients of B and C of every head", turned.per_token),
                Term("gradients of decays and products", 2 * FLOAT * heads),
            ),
        ),
    )


def delta_core(block: GatedDelta | Kda, size: int) -> Activations:
    """Conv of q, k and v one by one, the delta rule by chunks, norm and gate.

    The rule keeps q and k of length one, beta, two triangles a chunk and its output, and makes decays, the chunks'
    inputs, states and new values again in its backward (``ChunkKDAFunction``). A gated delta net trains on KDA's
    kernels, with its decay in every channel (``kernels.delta.WRONG_ON_HOPPER``); a prefill of it takes its own.
    """
    heads, chunk, kda = block.n_heads, block.chunk_size, isinstance(block, Kda)
    keys, wide, values = block.n_k_heads * block.k_head_dim, heads * block.k_head_dim, block.out_width
    gate_and_decay = 2 * block.k_head_dim if kda else values + heads
    columns, copied = padded(2 * keys + values + gate_and_decay + heads, block.d_model, size)
    packed = Term("packed q, k, v, gate, decay, beta", size * columns, fixed=copied)
    gate = Term("gate", size * values if kda else 0)
    decay = Term("decay of every channel", size * wide)
    convolved = Term("convolved v", size * values, cheap=True)
    units = Term("q and k of length one", 2 * size * keys)
    small = Term("lengths, beta", 2 * FLOAT * block.n_k_heads + (size + FLOAT) * heads)
    triangles = Term("products within chunks", 2 * size * heads * chunk)
    out = Term("rule's output", size * values)
    gated = Term("gated output", size * values, cheap=True)
    states = Term("states before chunks", size * heads * block.k_head_dim * block.v_head_dim // chunk)
    logs = Term("decays added up, float32", FLOAT * (wide if kda else heads))
    fresh = Term("new values", size * values)
    inputs = Term("chunks' inputs w, u, k", size * (wide + values + (wide if kda else 0)))
    within = Term("products within chunks", triangles.per_token if kda else size * heads * chunk)
    mixed = Term("convolved q and k", 2 * size * keys)
    own = (packed, gate, decay) if kda else (packed,)
    return Activations(
        saved=(packed, gate, decay, convolved, units, small, triangles, out, gated),
        forward=((*own, mixed, convolved, units, small, logs, within, inputs, states, fresh, out),),
        backward=(
            (
                Term("gradients of the rule's output and of the gate", out.per_token + size * values),
                Term("gated output, output and gate, freed", -gated.per_token - out.per_token - gate.per_token),
                Term("decays added up, float32", FLOAT * wide),
                Term("chunks' inputs w, u, q, k", size * (3 * wide + values)),
                Term("states before chunks and their gradients", 2 * states.per_token),
                Term("new values, their gradients", fresh.per_token + size * values),
                Term("gradients of the products within chunks", 2 * FLOAT * heads * chunk),
                Term("gradients of q, k and decays in float32, twice", 2 * 3 * FLOAT * wide),
                Term("gradients of beta", WIDE_SUMS * FLOAT * heads),
            ),
        ),
    )
