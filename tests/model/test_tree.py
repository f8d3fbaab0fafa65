"""The prefix tree and its attention: shared tokens stand once, and nothing a row sees or learns changes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.data.tree import Sequence, Trie, build, pack
from planish.model import tree_attention
from planish.model.head_terms import Divergence, Entropy, LogProb, Teacher
from planish.model.layout import use_plain
from planish.model.load import load
from planish.model.policy import Scored, hidden_states, score


def row(*ids: int, scored: int = 1) -> Sequence:
    return Sequence(ids, (*[0.0] * (len(ids) - scored), *[1.0] * scored))


def test_a_shared_prefix_stands_once() -> None:
    """Three rows of 4 inputs that share 3, 3 and 1 of them: 4 + 1 + 3 = 8 unique tokens of 12; the last token of a row is only ever a target."""
    tree = build([row(1, 2, 3, 4, 9), row(1, 2, 3, 5, 9), row(1, 7, 7, 7, 9)])
    assert (len(tree.ids), tree.tokens_in) == (8, 12)
    assert tree.positions.tolist() == [0, 1, 2, 3, 3, 1, 2, 3]
    assert tree.target.tolist() == [9, 9, 9]


def test_t11_worked_number() -> None:
    """MISSION T11: a 1,000-token catalogue and 16 rows of 100 tokens: 16 x 1,100 = 17,600 -> 1,000 + 16 x 100 = 2,600 token passes, 6.8 times fewer.

    A row has one token more, which is only a target.
    """
    catalogue = list(range(1000))
    tree = build([row(*catalogue, 2000 + i, *[3000] * 99, 1) for i in range(16)])
    assert (tree.tokens_in, len(tree.ids)) == (17600, 2600)
    assert round(tree.tokens_in / len(tree.ids), 1) == 6.8


sequences = st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=9), min_size=1, max_size=9)


@given(sequences)
@settings(max_examples=150, deadline=None)
def test_any_tree_holds_its_rows(rows: list[list[int]]) -> None:
    """Unique tokens are the distinct prefixes; every row is read back along its path; cost foretells growth."""
    trie = Trie()
    for ids in rows:
        before, cost = trie.size, trie.cost(row(*ids))
        trie.add(row(*ids))
        assert trie.size == before + cost
    tree = trie.flatten()
    assert len(tree.ids) == trie.size == len({tuple(ids[:n]) for ids in rows for n in range(1, len(ids))})
    for index, ids in enumerate(rows):
        (at,) = tree.scored_at[tree.sequence == index]
        segment = max(i for i, s in enumerate(tree.segments) if s.start <= at)
        path = [*tree.ancestors(segment), *range(tree.segments[segment].start, at + 1)]
        assert [int(tree.ids[place]) for place in path] == ids[:-1]


def test_packing_keeps_every_group_once_and_the_budget() -> None:
    draw = random.Random(0)
    groups = [[row(*[draw.randrange(3) for _ in range(draw.randrange(2, 12))])] for _ in range(60)]
    seen = []
    for members, tree in pack(groups, 20):
        seen += members
        assert len(tree.ids) <= 20
    assert sorted(seen) == list(range(60))


def test_a_sequence_needs_two_tokens() -> None:
    with pytest.raises(ValueError, match="at least two"):
        Sequence((1,), (1.0,))


def ragged(seed: int, rows: int = 12) -> list[Sequence]:
    """Rows with prefixes shared on several levels, and rows that share nothing."""
    draw = random.Random(seed)
    stem = [draw.randrange(3, 500) for _ in range(20)]
    found = []
    for _ in range(rows):
        ids = stem[: draw.choice([0, 5, 20])] + [draw.randrange(3, 500) for _ in range(draw.randrange(4, 17))]
        found.append(row(*ids, scored=min(3, len(ids) - 1)))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_tree_equals_rows_one_by_one(tiny: Path, seed: int) -> None:
    """Loss and every gradient of the tree against transformers' own loss of each row alone, in fp32: 1e-5 relative (MISSION T11, K6)."""
    rows = ragged(seed)
    model = load(tiny, "fp32").requires_grad_(True)
    part = score(model, build(rows), "fp32")
    (-(part.log_prob * part.weight).sum()).backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.set_attn_implementation("eager")
    total = torch.zeros(())
    for one in rows:
        ids = torch.tensor([one.ids])
        labels = torch.where(torch.tensor([one.weights]) > 0, ids, -100)
        scored = (labels[:, 1:] != -100).sum()
        total = total + model(input_ids=ids, labels=labels).loss * scored
    total.backward()
    assert -(part.log_prob * part.weight).sum().item() == pytest.approx(total.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert (ours[name] - parameter.grad).norm() <= 1e-5 * parameter.grad.norm().clamp(min=1e-3), name


def test_one_row_cannot_see_another(tiny: Path) -> None:
    """Changing a row leaves the hidden states of its neighbours bit for bit as they were."""
    model = load(tiny, "fp32")
    with torch.inference_mode():
        first, second = (hidden_states(model, build([row(5, 6, 7, 8, 9), row(5, 6, other, other, 9)])) for other in (20, 30))
    assert torch.equal(first[:4], second[:4])
    assert not torch.equal(first[4:], second[4:])


def test_attention_refuses_to_run_without_its_plan() -> None:
    q = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match="tree_plan"):
        tree_attention.tree_attention(torch.nn.Identity(), q, q, q, None)


def test_plan_indexes_every_token_once() -> None:
    tree = build(ragged(1, 20))
    plan = tree_attention.plan(tree)
    cells = torch.cat([group.query.flatten() for group in plan.groups])
    assert cells[plan.gather].tolist() == list(range(len(tree.ids)))
    assert len(np.unique(plan.gather.numpy())) == len(tree.ids)


def test_an_objective_may_ask_for_more_than_log_probabilities(tiny: Path) -> None:
    """Entropy, divergence and a blend of a tree's scored rows, against softmax over the full logits of each row alone; a blend is one gradient."""
    rows = ragged(5, 6)
    model = load(tiny, "fp32").requires_grad_(False)
    adapter = model.model.layers[1].mlp.down_proj.weight.requires_grad_(True)
    tree = build(rows)
    part = score(model, tree, "fp32")
    use_plain(model)
    logits = torch.cat([model(input_ids=torch.tensor([one.ids])).logits[0, one.scored - 1] for one in rows])
    p = logits.softmax(1)
    teacher = Teacher(*reversed(torch.randn_like(logits).log_softmax(1).topk(5)))
    kl = teacher.log_probs.exp() * (teacher.log_probs - p.log().gather(1, teacher.ids))
    tail = 1 - teacher.coverage()
    kl = kl.sum(1) + tail * (tail / (1 - p.gather(1, teacher.ids).sum(1))).log()
    entropy = -(p * p.log()).sum(1)
    own = p.log().gather(1, part.rows.target[:, None])[:, 0]
    assert torch.allclose(part.log_prob, own, atol=1e-5)
    assert torch.allclose(part.rows.entropy(), entropy, atol=1e-5)
    assert not part.rows.entropy().requires_grad
    assert torch.allclose(part.rows.divergence(teacher), kl, atol=1e-5)
    total, *parts = part.rows.blend([LogProb(part.rows.target), Divergence(teacher), Entropy()], [-0.5, 0.5, 0.1])
    wanted = -0.5 * own + 0.5 * kl + 0.1 * entropy
    assert torch.allclose(total, wanted, atol=1e-5)
    assert [value.requires_grad for value in parts] == [False] * 3
    ours, theirs = (torch.autograd.grad(value.sum(), adapter, retain_graph=True)[0] for value in (total, wanted))
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    assert torch.allclose(part.rows.entropy(gradient=True), entropy, atol=1e-5)
    with pytest.raises(ValueError, match="only log-probabilities"):
        Scored(part.log_prob, part.weight, part.sequence, part.sequences).rows  # noqa: B018


def test_restricting_keeps_paths() -> None:
    """The tree of some leaves alone: same tokens, positions and visibility as in the whole."""
    tree = build(ragged(2, 15))
    part, places = tree.restricted(tree.leaves[1::3])
    assert part.ids.tolist() == tree.ids[places].tolist()
    assert part.positions.tolist() == tree.positions[places].tolist()
    here, there = np.arange(len(places)), places
    sees = (here[None] <= here[:, None]) & (here[:, None] < part.ends[None])
    assert (sees == ((there[None] <= there[:, None]) & (there[:, None] < tree.ends[there][None]))).all()
