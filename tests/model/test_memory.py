"""The memory model and the ladder down, each number of MISSION T7 and T8 worked by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from planish.errors import InputError
from planish.model import memory_activations, memory_logits, memory_objective, memory_weights, oom_ladder, quantised, scored_head
from planish.model.memory import estimate
from planish.model.memory_estimate import GB, Estimate
from planish.model.memory_setup import Account, Setup, Shape

LAYER = {"q": (576, 576), "k": (576, 192), "v": (576, 192), "o": (576, 576), "gate": (576, 1536), "up": (576, 1536), "down": (1536, 576)}
P135 = Shape(
    hidden=576,
    layers=30,
    kv_width=192,
    ffn=1536,
    vocabulary=49_152,
    parameters=134_515_008,
    linear=30 * sum(a * b for a, b in LAYER.values()),
    lora_unit=30 * sum(a + b for a, b in LAYER.values()),
)


def setup(technique: str = "full", **given: Any) -> Setup:
    settings: dict[str, Any] = {"trainable": P135.parameters, "micro": 4, "length": 512, "scored": 100, "account": "mixed"}
    return Setup(technique, **{**settings, **given})


def state(found: Estimate) -> float:
    return sum(found.bytes(name) for name in ("weights", "gradients", "master", "optimizer"))


@pytest.mark.parametrize(("account", "total"), [("mixed", 112), ("no_master", 84), ("bf16_moments", 56), ("ours", 112)])
def test_t7_seven_billion(account: Account, total: float) -> None:
    """MISSION T7 and correction (a): 7e9 x (2 + 2 + 4 + 8) B = 14 + 14 + 28 + 56 = 112 GB; without the master 12 B = 84; bf16 moments too 8 B = 56."""
    seven = Shape(4096, 32, 4096, 11008, 32000, 7_000_000_000, 6_476_005_376, 1)
    found = estimate(seven, setup(trainable=7_000_000_000, account=account))
    assert state(found) == memory_weights.state_bytes(7e9, account) == pytest.approx(total * GB)
    if account == "mixed":
        assert [found.bytes(name) / GB for name in ("weights", "gradients", "master", "optimizer")] == [14, 14, 28, 56]


def test_t7_p135_full() -> None:
    """MISSION T7: 134,515,008 x 16 B = 2.152 GB; our own account (fp32 weights, no second copy) is the same sum."""
    assert state(estimate(P135, setup())) / GB == pytest.approx(2.15, abs=0.005)
    assert state(estimate(P135, setup(account="ours"))) == state(estimate(P135, setup()))


def test_t7_p135_lora_of_q_and_v() -> None:
    """MISSION T7: base 134,515,008 x 2 B = 269 MB; r=16 on q (576 + 576) and v (576 + 192) of 30 layers = 921,600 parameters x 16 B = 14.7 MB."""
    own = 30 * 16 * ((576 + 576) + (576 + 192))
    assert own == 921_600
    found = estimate(P135, setup("lora", trainable=own, precision="bf16", account="ours"))
    assert found.bytes("base") / 1e6 == pytest.approx(269.0, abs=0.1)
    assert state(found) / 1e6 == pytest.approx(14.7, abs=0.05)


def test_t7_logits_naive_and_ours() -> None:
    """MISSION T7: 4 x 2048 tokens x 49,152 x 4 B = 1.61 GB. Ours: 2 chunks of at most 2**27 B (672 rows), and one hidden gradient a row: 8,192 x 576 x 4 B."""
    found = estimate(P135, setup("lora", trainable=1, length=2048, scored=2048))
    assert found.naive_logits / GB == pytest.approx(1.61, abs=0.005)
    assert found.bytes("logits") == 2 * 672 * 49_152 * 4 + 8192 * 576 * 4
    assert estimate(P135, setup(chunked=False, length=2048)).bytes("logits") == found.naive_logits


def test_t7_nf4_of_p135() -> None:
    """MISSION T7: 106,168,320 linear weights x 4.127/8 B = 54.8 MB; the other 28,346,688 stay at 2 B = 56.7 MB (the entry truncates: 56.6); 111 MB together."""
    assert P135.linear == 106_168_320
    assert memory_weights.nf4_bytes(P135.linear) / 1e6 == pytest.approx(54.8, abs=0.05)
    assert estimate(P135, setup("qlora", trainable=1, precision="bf16")).bytes("base") / 1e6 == pytest.approx(111, abs=0.6)


def test_t7_seventy_billion_in_nf4() -> None:
    """MISSION, correction (i): 70e9 x 4/8 B = 35.0 GB of codes, x 4.127/8 B = 36.1 GB with their constants."""
    assert memory_weights.nf4_bytes(70e9, constants=False) / GB == pytest.approx(35.0)
    assert memory_weights.nf4_bytes(70e9) / GB == pytest.approx(36.1, abs=0.02)
    assert quantised.bits() == memory_weights.NF4_BITS


def test_t7_activations() -> None:
    """Checkpointed, a bf16 layer keeps its input: 2 B x 2,048 tokens x 576 x 30 layers = 70.8 MB; the textbook's 34 B gives 1.203 GB, and ours, counted, is more: FFN is gated."""
    assert estimate(P135, setup("lora", trainable=1, precision="bf16", checkpointed=True)).bytes("activations") == 2 * 2048 * 576 * 30
    assert memory_activations.textbook_activations(2048, 576, 30) == 34 * 2048 * 576 * 30
    assert memory_activations.textbook_activations(2048, 576, 30, checkpointed=True) == 2 * 2048 * 576 * 30
    ours = estimate(P135, setup("lora", trainable=1, precision="bf16")).bytes("activations")
    assert ours / memory_activations.textbook_activations(2048, 576, 30) == pytest.approx(50.1 / 34, abs=0.01)


def test_chunk_is_the_heads_own() -> None:
    assert memory_logits.CHUNK_BYTES == scored_head.CHUNK_BYTES


def test_eight_bit_moments_kv_and_the_lowest_trained_layer() -> None:
    """adamw_8bit: 2 x (1 + 4/256) B; 100 rollout tokens x 2 x 30 layers x 192 x 4 B; a head on a frozen trunk keeps nothing."""
    assert estimate(P135, setup(optimizer="adamw_8bit")).bytes("optimizer") == P135.parameters * 2.03125
    assert estimate(P135, setup(rollout_tokens=100)).bytes("kv") == 100 * 2 * 30 * 192 * 4
    assert estimate(P135, setup("head", trainable=1154, trained_layers=0)).bytes("activations") == 0


def test_t7_a_teacher_and_a_rollout() -> None:
    """P135 beside itself in fp32, 4 rows of 512 tokens, 100 scored a row, and 8 rows of 192 tokens written at once.

    Weights 134,515,008 x 4 B = 538.1 MB. Reading 2,048 tokens x (4 x 576 + 3 x 1,536) x 4 B = 56.6 MB, 400 last states x 576 x 4 B = 0.9 MB, 8 chunks of 400 rows x 49,152
    x 4 B = 629.1 MB: 686.7 MB. Keys and values: 8 x 192 tokens x 2 x 30 layers x 192 x 4 B = 70.8 MB. In bf16 all but the chunks is half."""
    with_both = setup("lora", trainable=1, beside=P135.parameters, beside_hidden=576, beside_ffn=1536, rollout_tokens=8 * 192)
    found = estimate(P135, with_both)
    assert [round(found.bytes(name) / 1e6, 1) for name in ("beside", "asked", "kv")] == [538.1, 686.7, 70.8]
    half = estimate(P135, replace(with_both, precision="bf16"))
    assert [round(half.bytes(name) / 1e6, 1) for name in ("beside", "asked", "kv")] == [269.0, 657.9, 35.4]
    plain = estimate(P135, memory_objective.alone(with_both))
    assert plain.total == pytest.approx(found.total - sum(found.bytes(name) for name in ("beside", "asked", "kv")))
    assert {term.name for term in plain.terms}.isdisjoint({"beside", "asked", "kv"})


def test_t7_compared_hidden_states() -> None:
    """The same, and the teacher's hidden states of 2 layers: 2,048 tokens x 2 x 576 x 4 B = 9.4 MB more; of 30, one for each of the student's, 15 times that."""
    asked = [estimate(P135, setup("lora", trainable=1, beside=1, beside_hidden=576, beside_ffn=1536, compared=pairs)).bytes("asked") for pairs in (0, 2, None)]
    assert asked[1] - asked[0] == 2048 * 2 * 576 * 4
    assert asked[2] - asked[0] == pytest.approx(15 * (asked[1] - asked[0]))


def test_an_unknown_technique_needs_a_measured_run() -> None:
    with pytest.raises(InputError, match="--measure"):
        memory_activations.check_technique("sorcery")


def test_an_estimate_says_so_and_names_what_dominates() -> None:
    found = estimate(P135, setup(precision="fp32", micro=1, length=32, scored=8))
    assert found.label == "estimated"
    assert found.dominant.name == "optimizer"
    assert found.total < found.high
    assert estimate(P135, setup(), factor=2.0).bytes("activations") == 2 * estimate(P135, setup()).bytes("activations")


def test_t8_first_lever() -> None:
    """MISSION T8: 8 rows x 4 accumulations become 4 x 8; the effective batch of 32 stays."""
    lever = oom_ladder.next_lever(P135, setup(micro=8, accumulation=4))
    assert lever is not None
    assert lever.event() == {
        "lever": 1,
        "kind": "halve_micro",
        "name": "halve the micro-batch and double the accumulation",
        "before": {"micro": 8, "accumulation": 4},
        "after": {"micro": 4, "accumulation": 8},
        "effective": 32,
    }


def test_t8_order_and_consent() -> None:
    """Levers 1 to 4 by themselves, in order; 5 to 8 only with a yes; no yes: it asks for the first of them; all down: None."""
    now, order = setup(micro=2, chunked=False), []
    while (lever := oom_ladder.next_lever(P135, now, oom_ladder.ASKED)) is not None:
        order.append(lever.number)
        now = lever.setup
    assert order == [1, 2, 3, 4, 5, 6, 7, 7, 7, 8, 8]
    assert (now.rank, now.length, now.technique, now.rows) == (4, 128, "qlora", 2)
    down = setup(micro=1, checkpointed=True, precision="bf16")
    asking = oom_ladder.next_lever(P135, down)
    assert asking is not None
    assert (asking.number, asking.allowed) == (5, False)
    consented = oom_ladder.next_lever(P135, down, {"adamw_8bit"})
    assert consented is not None
    assert (consented.number, consented.allowed) == (7, True)


@pytest.mark.parametrize("micro", [3, 8, 12])
def test_t8_the_effective_batch_stays(micro: int) -> None:
    now = setup(micro=micro, accumulation=5)
    for _ in range(3):
        lever = oom_ladder.next_lever(P135, now)
        assert lever is not None
        now = lever.setup
        assert now.rows == micro * 5


def test_t8_smallest_that_fits() -> None:
    """It stops at the first setup that fits, leaves out levers that were not needed, asks where 1 to 4 do not suffice, and names the smallest where nothing does."""
    start = setup("lora", trainable=16 * P135.lora_unit, rank=16, micro=8, accumulation=1, account="ours")
    roomy = oom_ladder.descend(P135, start, 100 * GB)
    assert roomy.fits
    assert not roomy.levers
    some = oom_ladder.descend(P135, start, 4 * GB)
    assert some.fits
    assert some.levers
    assert not some.asks
    assert some.estimate.high <= 4 * GB
    full = oom_ladder.descend(P135, replace(start, technique="full", trainable=P135.parameters, rank=None), 1.6 * GB)
    assert full.fits
    assert full.asks
    assert 5 in [lever.number for lever in full.levers]
    none = oom_ladder.descend(P135, start, 0.1 * GB)
    assert not none.fits
    assert none.setup.micro == 1
    assert none.setup.length == 128
