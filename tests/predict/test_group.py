"""Groups of GPUs: what one of them holds, does and sends, against sums by hand and against one GPU alone."""

from __future__ import annotations

import pytest

from hybridbench.arch import model as arch
from hybridbench.arch.block import Storage
from hybridbench.arch.families import build_spec
from hybridbench.arch.model import ModelSpec, shard
from hybridbench.arch.stored import Dtypes
from hybridbench.errors import BadInput
from hybridbench.machine import PEAKS, find_gpu
from hybridbench.predict.fit import budget, largest_fit
from hybridbench.predict.group import GpuGroup, link_bytes
from hybridbench.predict.memory import Footprint, footprint
from hybridbench.predict.pricing import price
from hybridbench.suite.models import preset_specs
from hybridbench.suite.workloads import DECODE, GENERATE, PREFILL, TRAIN, Workload

HALF, STORAGE = Dtypes.of("bfloat16"), Storage()
TRANSFORMER = build_spec("transformer", "1b")
MIB_OF_BLAS = 2 * 32 * 2**20


def root_bytes(spec: ModelSpec) -> int:
    """The tied embedding and the norm of every sublayer and of the head, in bfloat16."""
    return 2 * spec.d_model * (spec.vocab_size + len(spec.layers) + 1)


def test_gpus_divide_into_groups_that_share_a_matrix() -> None:
    assert GpuGroup(8, 2).ranks == 4
    with pytest.raises(BadInput, match="--gpus 6 with --tp 4: give a number of GPUs that 4 divides"):
        GpuGroup(6, 4)


@pytest.mark.parametrize(
    ("workload", "vectors", "picks"),
    [
        (Workload(DECODE, 4096, 3), 3, 3),
        (Workload(PREFILL, 4096, 3), 3 * 4096, 3),
        (Workload(TRAIN, 4096, 3), 2 * 3 * 4096, 0),
        (Workload(GENERATE, 1024, 3, prompt=1000), 3 * 1024, 3 * 25),
    ],
    ids=lambda one: getattr(one, "kind", ""),
)
def test_each_token_adds_up_a_vector_for_each_sublayer_and_the_embedding(
    workload: Workload, vectors: int, picks: int
) -> None:
    """16 attention and 16 feed-forward sublayers of d_model 2,048, in bfloat16. Of each other GPU's words the best
    logit is gathered with its word, 8 bytes; a training step gathers the head and scatters its gradient.
    """
    for tp, share in ((1, 0.0), (2, 1.0), (4, 1.5), (8, 1.75)):
        found = link_bytes(TRANSFORMER, workload, STORAGE, GpuGroup(tp, tp))
        assert found.all_reduced == (vectors * 33 * 2048 * 2 if tp > 1 else 0)
        assert found.reduced_sent == found.all_reduced * share
        head = 0 if picks else 128_256 * 2048 * 2 * (tp - 1) // tp
        assert (found.gathered, found.scattered) == (8 * picks * (tp - 1) + head, head)
        assert found.sent == found.reduced_sent + found.gathered + found.scattered


def test_fsdp_gathers_sublayers_twice_and_scatters_gradients_in_float32() -> None:
    root = root_bytes(TRANSFORMER)
    blocks = 2 * 1_235_814_400 - root
    work = Workload(TRAIN, 4096, 1)
    for gpus in (2, 4, 8):
        found = link_bytes(TRANSFORMER, work, STORAGE, GpuGroup(gpus))
        assert found.gathered == (2 * blocks + root) * (gpus - 1) // gpus
        assert found.scattered == 4 * 1_235_814_400 * (gpus - 1) // gpus
        assert found.sent == found.gathered + found.scattered
        assert found.all_reduced == 0
    both = link_bytes(TRANSFORMER, work, STORAGE, GpuGroup(8, 2))
    part = arch.params(shard(TRANSFORMER, 2))
    head = 128_256 * 2048 * 2 // 2  # to and from the other GPU that shares it
    assert both.scattered == 4 * part * 3 // 4 + head
    assert both.all_reduced == 2 * 4096 * 33 * 2048 * 2
    assert link_bytes(TRANSFORMER, Workload(PREFILL, 4096, 1), STORAGE, GpuGroup(8)).gathered == 0


def trained(spec: ModelSpec, ranks: int, tokens: int = 4096, checkpoint: str = "none") -> Footprint:
    return footprint(spec, Workload(TRAIN, tokens, 1), STORAGE, checkpoint, ranks=ranks)


def test_the_least_memory_of_fsdp_by_hand() -> None:
    """One token: the peak is where the embedding's gradient is added up, whole beside its copy in float32."""
    root, whole = root_bytes(TRANSFORMER), 2 * 1_235_814_400
    found = trained(TRANSFORMER, 8, tokens=1)
    held = -(-whole // 8)
    assert (found.weights, found.optimizer) == (held, 2 * held)
    assert found.gathered == root
    assert found.gradients == -(-(whole - root) // 8) + root + 2 * root
    assert (found.activations, found.head, found.workspace) == (0, 0, MIB_OF_BLAS)


def test_two_sublayers_are_gathered_beside_the_embedding() -> None:
    """With full checkpointing of many tokens the peak is the backward of a block: the last, whose successor is lent."""
    (mlp,) = [block for block, _ in TRANSFORMER.uses if block.feed_forward]
    (attention,) = [block for block, _ in TRANSFORMER.uses if not block.feed_forward]
    found = trained(TRANSFORMER, 4, tokens=1 << 20, checkpoint="full")
    assert found.gathered == root_bytes(TRANSFORMER) + 2 * (mlp.params() + attention.params())


@pytest.mark.parametrize("family", ["transformer", "inter", "intra"])
def test_ranks_divide_what_is_stored_and_not_what_a_batch_needs(family: str) -> None:
    spec = build_spec(family, "1b")
    alone = trained(spec, 1)
    assert alone.gathered == 0
    totals = [trained(spec, ranks).total for ranks in (2, 4, 8, 64)]
    assert totals == sorted(totals, reverse=True)
    for ranks in (2, 8, 64):
        found = trained(spec, ranks)
        assert found.inputs == alone.inputs
        assert found.weights == -(-alone.weights // ranks)
        assert found.optimizer == 2 * found.weights


@pytest.mark.parametrize("name", ["transformer", "mamba", "inter"])
def test_a_part_does_a_share_of_the_work_and_holds_a_share_of_the_cache(name: str) -> None:
    """Of a transformer, whose vocabulary and heads divide, exactly half; of Mamba-2, also the copies of B and C."""
    spec, gpu, work = build_spec(name, "1b"), find_gpu("h200"), Workload(DECODE, 32_768, 4)
    alone, half = (price(spec, work, gpu, HALF, group=GpuGroup(tp, tp)) for tp in (1, 2))
    assert 2 * half.kv_cache_bytes == alone.kv_cache_bytes
    assert 1 <= 2 * half.flops / alone.flops < 1.02
    assert (2 * half.flops == alone.flops) == (name == "transformer")
    assert half.floor_s == pytest.approx(alone.floor_s / 2, rel=0.02)
    assert half.floor_gpu_tokens_per_s == pytest.approx(half.floor_tokens_per_s / 2)
    assert half.energy_at_tdp_j == pytest.approx(2 * 700 * half.floor_s / 4)


def test_slow_links_set_the_floor() -> None:
    work, gpu = Workload(DECODE, 4096, 4), find_gpu("h200")
    fast = price(TRANSFORMER, work, gpu, HALF, group=GpuGroup(2, 2))
    sent = 4 * 33 * 2048 * 2 + 4 * 8
    assert fast.link_s == pytest.approx(sent / 450e9)
    assert fast.bound == "memory"
    slow = price(TRANSFORMER, work, gpu, HALF, group=GpuGroup(2, 2), link_bytes_per_s=1e6)
    assert slow.bound == "link"
    assert slow.floor_s == slow.link_s == pytest.approx(sent / 1e6)
    bridged = price(TRANSFORMER, work, find_gpu("l40s"), HALF, group=GpuGroup(2, 2))
    assert bridged.link_s is None
    assert price(TRANSFORMER, work, gpu, HALF, group=GpuGroup()).link_s is None


def test_several_groups_train_on_as_many_batches() -> None:
    work, gpu = Workload(TRAIN, 4096, 2), find_gpu("h100")
    alone, eight = (price(TRANSFORMER, work, gpu, HALF, group=GpuGroup(gpus)) for gpus in (1, 8))
    assert eight.floor_s == alone.floor_s
    assert eight.floor_tokens_per_s == pytest.approx(8 * alone.floor_tokens_per_s)
    assert eight.energy_at_tdp_j == pytest.approx(alone.energy_at_tdp_j)
    assert eight.weight_bytes == -(-alone.weight_bytes // 8)


def test_more_gpus_hold_more_until_key_and_value_heads_are_copied() -> None:
    """Nemotron-3-Super has 2 KV heads: from 2 GPUs on a token's bytes stay, and only weights and states fall."""
    (spec,) = preset_specs("nemotron-3-super-120b-a12b")
    gpu = find_gpu("b200")
    fits = {tp: largest_fit(spec, gpu, DECODE, HALF, context=131_072, group=GpuGroup(tp, tp)) for tp in (1, 2, 4, 8)}
    assert not fits[1].fits
    for tp in (2, 4, 8):
        one = fits[tp]
        assert one.fits
        part, more = shard(spec, tp), Workload(DECODE, 131_072, one.workload.batch + 1)
        assert one.footprint.total <= budget(gpu) < footprint(part, more, STORAGE).total
    batches = [fits[tp].workload.batch for tp in (2, 4, 8)]
    assert batches == sorted(batches)


def test_links_have_sources_and_are_of_one_direction() -> None:
    linked = {peak.name: peak.link for peak in PEAKS if peak.link is not None}
    assert set(linked) >= {"A100 40GB SXM", "A100 80GB SXM", "H100 SXM", "H200 SXM", "B200", "GB200", "MI300X"}
    printed = {"A100 80GB SXM": 600, "H100 SXM": 900, "H200 SXM": 900, "B200": 1800, "MI300X": 896}
    for name, both_directions in printed.items():
        link = linked[name]
        assert link.bytes_per_s == pytest.approx(both_directions / 2 * 1e9)
        assert "data sheet" in link.source


def test_ranks_that_share_a_model_gather_its_head_for_the_loss() -> None:
    """One token, so that nothing but weights counts: the peak is the loss, with the head whole beside its gradient."""
    part, head = shard(TRANSFORMER, 2), 128_256 * 2048
    alone, half = (footprint(one, Workload(TRAIN, 1, 1), STORAGE, tp=tp) for one, tp in ((TRANSFORMER, 1), (part, 2)))
    assert half.weights == 2 * arch.params(part)
    assert half.optimizer == 2 * half.weights
    assert half.gathered == 2 * head
    assert half.head == pytest.approx((4 + 2) * head, rel=1e-4), "summed in float32, then rounded"
    assert alone.gathered == 0
    assert footprint(part, Workload(DECODE, 4096, 4), STORAGE, tp=2).head == 4 * 128_256 // 2 * 2, "logits of its words"
