"""On-policy distillation on fixed samples: TRL's GKD, the mixture by hand, what is sampled, the hidden-state term, and what is refused (MISSION S4)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import make_tiny
from torch import Tensor, nn

from planish.adapters import full, lora
from planish.data.tree import Sequence, build
from planish.engines.transformers import TransformersEngine
from planish.errors import InputError
from planish.model import live_teacher
from planish.model.chat import Chat
from planish.model.engine import Decoding
from planish.model.example import Example
from planish.model.load import load
from planish.model.optimizer import trainable
from planish.model.policy import Scored, score
from planish.model.rollout import Student, asked
from planish.objectives import on_policy_kd

DIRECTIONS = {"forward": 0.0, "reverse": 1.0, "jsd": 0.3}
PROMPT = (1, 40, 41, 42, 43)
ANSWERS = ((50, 51, 2), (60, 2), (50, 51, 52, 53, 54))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student and a teacher that is wider and has twice the layers, of one tokenizer."""
    folder = tmp_path_factory.mktemp("home")
    make_tiny(folder / "student", hidden=32)
    make_tiny(folder / "teacher", hidden=48, layers=4)
    return folder


def rows(own: float = 1.0) -> list[Sequence]:
    """The answers to one prompt, as the student's own or as rows of the data."""
    return [Sequence((*PROMPT, *answer), (*[0.0] * len(PROMPT), *[1.0] * len(answer)), (-1.0, own)) for answer in ANSWERS]


def teacher_of(home: Path, **more: Any) -> live_teacher.LiveTeacher:
    return live_teacher.LiveTeacher(load(home / "teacher", "fp32"), "fp32", **more)


def logits(folder: Path, model: nn.Module | None = None) -> Tensor:
    """(8 or more) padded rows of ANSWERS as transformers computes them: (3, T - 1, V), and the labels beside them."""
    from transformers import AutoModelForCausalLM

    padded, mask, _ = batch()
    model = model or AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    found: Tensor = model(input_ids=padded, attention_mask=mask).logits[:, :-1]
    return found


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """(3, T) ids padded to the right, their mask, and the labels: the answers alone."""
    longest = max(map(len, ANSWERS)) + len(PROMPT)
    ids = torch.tensor([[*PROMPT, *answer, *[0] * (longest - len(PROMPT) - len(answer))] for answer in ANSWERS])
    mask = torch.tensor([[1] * (len(PROMPT) + len(answer)) + [0] * (longest - len(PROMPT) - len(answer)) for answer in ANSWERS])
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, : len(PROMPT)] = -100
    return ids, mask, labels


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_s4_is_trls_gkd_on_fixed_samples(home: Path, divergence: Any, adapter: str) -> None:
    """S4, proof: three answers of the student to one prompt. TRL 1.16's `generalized_jsd_loss` on padded batches of transformers' own logits, a mean over the tokens of the
    answers: loss and every gradient to 1e-5, with all weights trained and with LoRA."""
    gkd = pytest.importorskip("trl.experimental.gkd.gkd_trainer")

    def student() -> nn.Module:
        model = full.attach(load(home / "student", "fp32", trained=True)) if adapter == "full" else lora.attach(load(home / "student", "fp32"), r=4)
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        return model.eval()

    from planish.model.layout import use_plain

    theirs = student()
    use_plain(theirs)
    with torch.no_grad():
        said = logits(home / "teacher")
    want = gkd.GKDTrainer.generalized_jsd_loss(logits(home, theirs), said, labels=batch()[2][:, 1:], beta=DIRECTIONS[divergence], temperature=1.0)
    want.backward()
    ours = student()
    found = on_policy_kd.loss(score(ours, build(rows()), "fp32"), teacher_of(home), divergence=divergence, beta=0.3)
    (found.total / 10).backward()
    assert found.total.item() / 10 == pytest.approx(want.item(), rel=1e-5)
    assert found.metrics["divergence"] / found.counts["divergence"] == pytest.approx(want.item(), rel=1e-5)
    for (name, one), other in zip(trainable(ours).items(), trainable(theirs).values(), strict=True):
        assert one.grad is not None, name
        assert (one.grad - other.grad).norm() <= 1e-5 * other.grad.norm() + 1e-8, name


@pytest.mark.parametrize("direction", ["forward", "reverse", "jsd"])
def test_rows_of_the_data_are_read_by_the_teacher_where_nothing_was_captured(home: Path, direction: Any) -> None:
    """S2 over the whole vocabulary: .3 CE + .7 T^2 D at T=2, against TRL's divergence and torch's cross-entropy on the same tokens."""
    gkd = pytest.importorskip("trl.experimental.gkd.gkd_trainer")
    labels = batch()[2][:, 1:]
    with torch.no_grad():
        mine, said = logits(home / "student"), logits(home / "teacher")
        apart = gkd.GKDTrainer.generalized_jsd_loss(mine, said, labels=labels, beta=DIRECTIONS[direction], temperature=2.0, reduction="batchmean")
        ce = torch.nn.functional.cross_entropy(mine.flatten(0, 1), labels.flatten())
        found = on_policy_kd.loss(
            score(load(home / "student", "fp32"), build(rows(0.0)), "fp32"), teacher_of(home), direction=direction, mix=0.3, ce_weight=0.3, kd_weight=0.7
        )
    assert found.total.item() / 10 == pytest.approx((0.3 * ce + 0.7 * 4 * apart).item(), rel=1e-5)
    assert found.metrics["coverage"] == found.counts["coverage"] == 10


def test_a_mixed_batch_is_the_sum_of_its_parts(home: Path) -> None:
    """Two rows of the student's and one of the data on one tree: loss and gradient are the sums of both parts alone, each figure is over the tokens of its own part."""
    model, teacher = full.attach(load(home / "student", "fp32", trained=True)), teacher_of(home)
    own, kept = rows()[:2], rows(0.0)[2:]

    def run(sequences: list[Sequence]) -> tuple[Any, Tensor]:
        model.zero_grad()
        found = on_policy_kd.loss(score(model, build(sequences), "fp32"), teacher)
        found.total.backward()
        return found, torch.cat([parameter.grad.flatten().clone() for parameter in trainable(model).values() if parameter.grad is not None])

    (one, of_one), (other, of_other), (both, of_both) = run(own), run(kept), run([own[0], kept[0], own[1]])
    assert both.total.item() == pytest.approx(one.total.item() + other.total.item(), rel=1e-5)
    assert (of_both - of_one - of_other).norm() <= 1e-5 * of_both.norm()
    assert (both.counts["divergence"], both.counts["kd"], both.counts["entropy"]) == (5, 5, 10)
    assert both.metrics["divergence"] == pytest.approx(one.metrics["divergence"], rel=1e-5)
    assert both.metrics["kd"] == pytest.approx(other.metrics["kd"], rel=1e-5)


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_a_student_that_is_its_teacher_learns_nothing(home: Path, divergence: Any) -> None:
    """The divergence and its gradient are zero, and what stands in the sample has no pull of its own: there is no cross-entropy on it."""
    model = full.attach(load(home / "teacher", "fp32", trained=True))
    found = on_policy_kd.loss(score(model, build(rows()), "fp32"), teacher_of(home), divergence=divergence)
    found.total.backward()
    assert abs(found.total.item()) < 1e-5
    assert max(parameter.grad.abs().max().item() for parameter in trainable(model).values() if parameter.grad is not None) < 1e-4


def test_worked_reverse_divergence() -> None:
    """Teacher (4,2,0), student (2,2,0) at T=1: p = (.4683, .4683, .0634), q = (.8668, .1173, .0159).
    KL(p || q) = .4683 ln(.4683/.8668) + .4683 ln(.4683/.1173) + .0634 ln(.0634/.0159) = -.2883 + .6482 + .0878 = .4477; JSD at beta .5: m = (.6675, .2928, .0396),
    .5 KL(q || m) + .5 KL(p || m) = .5 (.2264 - .1073 - .0145) + .5 (-.1660 + .2199 + .0298) = .0941."""
    from planish.model.lm_head import Head

    hidden, student = torch.tensor([[4.0, 2.0, 0.0]]), torch.tensor([[2.0, 2.0, 0.0]])

    def value(direction: Any) -> float:
        term = live_teacher.LiveDivergence(hidden, Head(torch.eye(3)), "fp32", 1.0, direction, 0.5)
        return term(student.clone(), slice(0, 1), gradient=False, spare=True)[0].item()

    assert value("reverse") == pytest.approx(0.4477, abs=3e-4)
    assert value("jsd") == pytest.approx(0.0941, abs=3e-4)


def examples(count: int = 8) -> list[Example]:
    """Rows with prompts of their own and an answer of the data."""
    return [Example((Sequence((1, 30 + n, 31, 32, 70, 71, 2), (0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0), (-1.0, 0.0)),), 3.0) for n in range(count)]


def student_of(home: Path) -> Student:
    return Student(load(home / "student", "fp32"), Chat.load(home / "student"), "fp32")


def test_s4_what_is_sampled(home: Path) -> None:
    """S4: half of 8 rows are the student's own: prompt kept, tokens scored one by one, the end with them where it ended, its share its tokens; figures say how many were
    sampled and cut. The same draw gives the same rows, another step others, and no other random state is touched."""
    student, given = student_of(home), examples()
    state = torch.get_rng_state()
    rolled = on_policy_kd.rollout(given, student, (42, 3), max_new_tokens=6)
    assert torch.equal(state, torch.get_rng_state())
    own = [place for place, (row, before) in enumerate(zip(rolled.examples, given, strict=True)) if row is not before]
    assert len(own) == 4
    assert rolled.figures["on_policy"] == 0.5
    cut = 0
    for place in own:
        (sequence,) = rolled.examples[place].sequences
        assert sequence.ids[:4] == asked(given[place].sequences[0]) == given[place].sequences[0].ids[:4]
        assert sequence.given == (-1.0, 1.0)
        assert sequence.weights == (*[0.0] * 4, *[1.0] * (len(sequence.ids) - 4))
        assert rolled.examples[place].share == len(sequence.ids) - 4
        cut += sequence.ids[-1] != student.chat.end
        assert len(sequence.ids) <= 4 + 6 + (sequence.ids[-1] == student.chat.end)
    assert rolled.figures["cut"] == cut
    assert rolled.figures["sampled_tokens"] == sum(rolled.examples[place].share for place in own)
    assert on_policy_kd.rollout(given, student, (42, 3), max_new_tokens=6) == rolled
    assert on_policy_kd.rollout(given, student, (42, 4), max_new_tokens=6).examples != rolled.examples


def test_greedy_samples_are_the_engines_answers(home: Path) -> None:
    """What the student writes is what the reference engine would, and training goes on as before: attention back on the tree, dropout as it was."""
    student, given = student_of(home), examples()
    student.model.train()
    rolled = on_policy_kd.rollout(given, student, (0, 0), lambda_on=1.0, sample_temperature=0.0, max_new_tokens=5)
    assert student.model.training
    engine = TransformersEngine(load(home / "student", "fp32"), student.chat, "fp32")
    want = engine.generate([asked(row.sequences[0]) for row in given], Decoding(5))
    for row, one in zip(rolled.examples, want, strict=True):
        assert row.sequences[0].ids[4:][: len(one.token_ids)] == one.token_ids
    tree = build([row.sequences[0] for row in rolled.examples])
    assert torch.equal(score(student.model.eval(), tree, "fp32").log_prob, score(load(home / "student", "fp32"), tree, "fp32").log_prob)


def test_s4_the_share_holds_on_average(home: Path) -> None:
    """S4: .3 of 5 rows is 1.5: one row or two, 1.5 on average over 400 steps (standard error .025); 0 is none and 1 is all."""

    class Silent(Student):
        def sample(self, prompts: Any, decoding: Any, seeds: Any) -> list[Any]:
            from planish.model.engine import Generation

            return [Generation("", (9,), "stop") for _ in prompts]

    student = Silent(student_of(home).model, Chat.load(home / "student"), "fp32")
    shares = [round(5 * on_policy_kd.rollout(examples(5), student, (1, step), lambda_on=0.3).figures["on_policy"]) for step in range(400)]
    assert set(shares) == {1, 2}
    assert sum(shares) / 400 == pytest.approx(1.5, abs=0.1)
    assert on_policy_kd.rollout(examples(5), student, (1, 0), lambda_on=0.0).examples == examples(5)
    assert on_policy_kd.rollout(examples(5), student, (1, 0), lambda_on=1.0).figures["on_policy"] == 1


def test_a_prompt_that_fills_the_context_keeps_its_row(home: Path) -> None:
    """512 places: a prompt of 512 tokens leaves room for none, one of 510 for two."""
    full_one = Example((Sequence((1, *[40] * 511, 2), (*[0.0] * 512, 1.0), (-1.0, 0.0)),), 1.0)
    nearly = Example((Sequence((1, *[40] * 509, 2), (*[0.0] * 510, 1.0), (-1.0, 0.0)),), 1.0)
    rolled = on_policy_kd.rollout([full_one, nearly], student_of(home), (0, 0), lambda_on=1.0)
    assert rolled.examples[0] is full_one
    assert len(rolled.examples[1].sequences[0].ids) <= 512
    assert (rolled.figures["no_room"], rolled.figures["on_policy"]) == (1, 0.5)


@pytest.mark.parametrize("kind", ["cosine", "mse"])
def test_the_hidden_state_term_by_hand(home: Path, tmp_path: Path, kind: Any) -> None:
    """Student of 2 layers, teacher of 4 and the same width: layers (1, 2) and (2, 4), transformers' own hidden states at the tokens before each token of the answers; the mean over
    pairs and tokens of 1 - cosine, or of the mean square. The last state is taken before the final norm, so it is compared through a hook on the layer."""
    from transformers import AutoModelForCausalLM

    make_tiny(tmp_path / "student", hidden=48)
    student = full.attach(load(tmp_path / "student", "fp32", trained=True))
    teacher = live_teacher.opened(str(home / "teacher"), student, "fp32", "cpu", None, "x")
    assert teacher.pairs == ((1, 2), (2, 4))
    base = dict(hidden_weight=0.5, hidden=kind)
    plain = on_policy_kd.loss(score(student, build(rows()), "fp32"), teacher)
    found = on_policy_kd.loss(score(student, build(rows()), "fp32"), teacher, **base)
    ids, mask, labels = batch()

    def states(folder: Path, numbers: tuple[int, ...]) -> list[Tensor]:
        model, held = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager"), list[Tensor]()
        for number in numbers:
            model.model.layers[number - 1].register_forward_hook(lambda _m, _i, output: held.append(output[0] if isinstance(output, tuple) else output))
        with torch.no_grad():
            model(input_ids=ids, attention_mask=mask)
        return [one[:, :-1][labels[:, 1:] != -100] for one in held]

    pairs = list(zip(states(tmp_path / "student", (1, 2)), states(home / "teacher", (2, 4)), strict=True))
    if kind == "cosine":
        want = torch.stack([1 - (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1)) for one, other in pairs]).mean()
    else:
        want = torch.stack([((one - other) ** 2).mean(1) for one, other in pairs]).mean()
    assert found.metrics["hidden"] / found.counts["hidden"] == pytest.approx(want.item(), rel=1e-5)
    assert found.total.item() == pytest.approx(plain.total.item() + 0.5 * 10 * want.item(), rel=1e-5)
    found.total.backward()
    assert all(parameter.grad is not None for name, parameter in trainable(student).items() if "norm.weight" not in name)


def test_hidden_states_of_other_widths_are_refused(home: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)32 values, the teacher's 48.*planish prune"):
        live_teacher.opened(str(home / "teacher"), load(home / "student", "fp32"), "fp32", "cpu", None, "x")
    with pytest.raises(InputError, match=r"\[3, 1\] names a layer that is not there: the student has 2, the teacher 4"):
        live_teacher.opened(str(home / "teacher"), load(home / "student", "fp32"), "fp32", "cpu", [(3, 1)], "x")


def test_the_hidden_state_term_of_kd_needs_a_live_teacher(tmp_path: Path) -> None:
    """A capture holds no hidden states: kd refuses the key and names the objective that asks the teacher itself."""
    from planish.recipe import Recipe

    text = "recipe: 1\nmodel: m\ndata: {path: x.jsonl}\ntrain: [{objective: {kd: {capture: c, hidden_weight: 0.5}}}]\n"
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"(?s)hidden_weight.*on_policy_kd with teacher: MODEL, lambda_on: 0"):
        Recipe.load(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"lambda_on": 1.5}, "lambda_on"),
        ({"lambda_on": -0.1}, "lambda_on"),
        ({"divergence": "jsd", "beta": 1.0}, "beta"),
        ({"on_weight": 0.0}, "on_weight"),
        ({"sample_temperature": -1.0}, "sample_temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"ce_weight": 0.0, "kd_weight": 0.0}, "both 0"),
        ({"tail": "sampled"}, "tail"),
        ({"temperature": 0.0}, "temperature"),
        ({"hidden_layers": [[1]]}, "hidden_layers"),
        ({"on_weight": float("inf")}, "on_weight"),
    ],
)
def test_options_without_meaning_are_refused(options: dict[str, Any], where: str, home: Path) -> None:
    assert where in "\n".join(map(str, on_policy_kd.refusals(home / "student", teacher=str(home / "teacher"), **options)))


def test_all_that_is_wrong_is_said_at_once(home: Path) -> None:
    wrong: dict[str, Any] = {"lambda_on": 2.0, "top_p": 3.0, "max_new_tokens": 0, "kd_weight": -1.0}
    found = on_policy_kd.refusals(home / "student", teacher=str(home / "teacher"), **wrong)
    assert {problem.where.rpartition(".")[2] for problem in found} == set(wrong)


def test_hidden_states_that_cannot_be_compared_are_known_before_a_model_is_loaded(home: Path) -> None:
    """The student's 32 values against the teacher's 48, and a layer 9 of 2, read from what the folders say of themselves."""
    found = on_policy_kd.refusals(home / "student", teacher=str(home / "teacher"), hidden_weight=1.0, hidden_layers=[[9, 1]])
    assert [problem.where.rpartition(".")[2] for problem in found] == ["hidden_layers", "hidden_weight"]
    assert on_policy_kd.refusals(home / "teacher", teacher=str(home / "teacher"), hidden_weight=1.0) == []


def test_s4_a_teacher_that_cannot_score_given_tokens_is_refused(home: Path, tmp_path: Path) -> None:
    """S4: an endpoint tells of the tokens that it writes itself; another tokenizer has none of the student's; sequence-level and a capture are offered instead."""
    (said,) = on_policy_kd.refusals(home / "student", teacher="https://api.example.com/v1")
    assert "not of given ones" in said.why
    assert "--text" in said.fix
    with pytest.raises(InputError, match="not of given ones"):
        on_policy_kd.content(teacher="https://api.example.com/v1")
    shutil.copytree(home / "teacher", tmp_path / "other")
    told = json.loads((tmp_path / "other" / "tokenizer.json").read_text(encoding="utf-8"))
    words = told["model"]["vocab"]
    first, second = list(words)[300:302]
    words[first], words[second] = words[second], words[first]
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(told), encoding="utf-8")
    (said,) = on_policy_kd.refusals(home / "student", teacher=str(tmp_path / "other"))
    assert "another tokenizer" in said.why
    assert "--align" in said.fix
    assert "--text" in said.fix
    (said,) = on_policy_kd.refusals(home / "student", teacher=str(tmp_path / "nowhere"))
    assert said.where.endswith("teacher")
    assert on_policy_kd.refusals(home / "student", teacher=str(home / "teacher")) == []


def test_a_padded_vocabulary_is_refused(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "teacher", tmp_path / "wide")
    told = json.loads((tmp_path / "wide" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "wide" / "config.json").write_text(json.dumps(told | {"vocab_size": 576}), encoding="utf-8")
    (said,) = on_policy_kd.refusals(home / "student", teacher=str(tmp_path / "wide"))
    assert "576" in said.why
    assert "512" in said.why


def test_only_the_paths_of_the_rows_are_read_by_the_teacher(home: Path) -> None:
    """The part of a mixed tree that holds the student's rows: their prompt and answers, none of the others' tokens."""
    policy: Scored = score(load(home / "student", "fp32"), build([rows()[0], rows(0.0)[2], rows()[1]]), "fp32")
    place = policy.part(policy.given[:, 1] > 0).place.restricted()
    assert len(place.tree.ids) < len(policy.place.tree.ids)
    assert [int(place.tree.ids[at]) for at in place.at] == [43, 50, 51, 43, 60]
