"""DPO on pairs that a verifier made: a 135M model answers sums, right answers are preferred to wrong ones, and sums that were never trained judge the result.

SFT first, on other sums, so that it can answer at all; then DPO over pairs of its own answers, and as the control SFT on the right ones of the same pairs. Works in the folder
`preferences`; given again, it goes on where it stopped. About eight minutes on two cores; `--prepare` stops when the pairs are there. Writes report.md. Exits 0 when
everything ran, whatever the verdict.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from planish import Recipe, doctor, pipeline
from planish.data.verify import Asked, verify
from planish.engines import transformers
from planish.errors import PlanishError
from planish.evidence import forgetting
from planish.evidence.paired import compare
from planish.model import bundled, trained
from planish.model.engine import Decoding
from planish.progress import Progress, Terminal
from planish.recipe import Use
from planish.report.blocks import Code, Paragraph, Section, Table
from planish.report.page import bare_markdown
from planish.rows import Message
from planish.scores import Comparison, EvalReport
from planish.stages._context import read_json, read_reports
from planish.store.objects import write_folder

HERE = Path(__file__).parent
BASE = "smollm2-135m-instruct"
FIRST, TRAINED, GOLD = 700, 500, 400
"""Sums for SFT, sums that it then answers for the pairs, and sums that judge."""
SAMPLES = 4
AT_ONCE = 32
SCORE, ACCURACY, MARGIN = "verifier.score", "pair_accuracy.accuracy", "pair_accuracy.margin"


def main() -> int:
    """SFT, pairs, three runs on the same gold, one page."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--prepare", action="store_true", help="stop when the pairs are there")
    asked = given.parse_args()
    folder, progress = Path("preferences"), Terminal()
    workspace = folder / ".planish"
    folder.mkdir(exist_ok=True)
    for name in ("sft.yaml", "recipe.yaml"):
        shutil.copy(HERE / name, folder / name)
    sums = questions()
    write(folder / "sums.jsonl", [{"prompt": question, "completion": answer} for question, answer in sums[:FIRST]])
    if not (folder / "sft").is_dir():
        trained_first(Recipe.load(folder / "sft.yaml"), workspace, folder / "sft", progress)
    if not (folder / "pairs.json").is_file():
        write_pairs(sums[FIRST:], folder, progress)
    if asked.prepare:
        return 0
    recipe = Recipe.load(folder / "recipe.yaml")
    again = recipe.train[0].model_copy(update={"objective": Use(name="sft"), "learning_rate": 2e-4})
    asked_of = {
        "base": recipe.model_copy(update={"model": BASE, "train": [], "gate": None}),
        "sft again": recipe.model_copy(update={"train": [again]}),
        "dpo": recipe,
    }
    done: dict[str, dict[str, Path]] = {}
    for name, one in asked_of.items():
        progress.say(f"--- {name}")
        ran = pipeline.run(one, workspace=workspace, until="gate" if one.train else "baseline", progress=progress)
        done[name] = {stage: outcome.folder for stage, outcome in ran.stages.items() if outcome.folder is not None}
    page = written(done, read_json(folder / "pairs.json"))
    (folder / "report.md").write_text(page, encoding="utf-8")
    print(page)
    return 0


def questions() -> list[tuple[str, str]]:
    """Sums of reasoning-gym with their answers, each once."""
    import reasoning_gym

    needed = FIRST + TRAINED + GOLD
    data = reasoning_gym.create_dataset("chain_sum", size=2 * needed, seed=11, min_terms=2, max_terms=2, min_digits=2, max_digits=2)
    found = {entry["question"].strip(): str(entry["answer"]) for entry in data}
    return list(found.items())[:needed]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def trained_first(recipe: Recipe, workspace: Path, out: Path, progress: Progress) -> None:
    """`sft`: the base with what SFT made of it in its weights."""
    progress.say("--- sft")
    trained_in = pipeline.run(recipe, workspace=workspace, until="train", progress=progress).stages["train"].folder
    assert trained_in is not None  # nothing gates train
    write_folder(out, lambda partial: trained.write_merged(bundled.locate(BASE), trained_in / "adapter", partial, "original"))


def write_pairs(sums: list[tuple[str, str]], folder: Path, progress: Progress) -> None:
    """`pairs.jsonl`: of each sum that the model answered both right and wrong, its first of each. `gold.jsonl`: a pair for every other sum, with the right number where it
    never said it, and a slip where it was never wrong. `pairs.json`: the counts. The verifier is the one that scores the run."""
    engine = transformers.start(folder / "sft", exact=False)
    prompts = [engine.chat.prompt((Message(role="user", content=question),)) for question, _ in sums]
    said: list[list[str]] = [[] for _ in sums]
    with progress.bar("the model's own answers", SAMPLES * len(sums)) as advance:
        for seed in range(SAMPLES):
            for start in range(0, len(sums), AT_ONCE):
                part = engine.generate(prompts[start : start + AT_ONCE], Decoding(max_new_tokens=16, temperature=1.0, seed=seed))
                for place, answer in enumerate(part, start=start):
                    said[place].append(answer.text.strip())
                advance(len(part))
    engine.close()
    pairs, gold, right_answers = [], [], 0
    for place, ((question, answer), texts) in enumerate(zip(sums, said, strict=True)):
        verdicts = {text: verify(text, Asked(question, answer, (question,)), "numeric", {}).score == 1 for text in texts if text}
        right, wrong = ([text for text, good in verdicts.items() if good is kind] for kind in (True, False))
        right_answers += sum(verdicts.get(text, False) for text in texts)
        if place >= TRAINED:
            both = "its own answers" if right and wrong else "one made up"
            gold.append({"prompt": question, "chosen": (right or [answer])[0], "rejected": (wrong or [str(int(answer) + 10)])[0], "pair": both})
        elif right and wrong:
            pairs.append({"prompt": question, "chosen": right[0], "rejected": wrong[0]})
    write(folder / "pairs.jsonl", pairs)
    write(folder / "gold.jsonl", gold)
    counts = {"asked": TRAINED, "pairs": len(pairs), "gold": len(gold), "right": right_answers / (SAMPLES * len(sums))}
    (folder / "pairs.json").write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    progress.say(f"  {len(pairs)} pairs of {TRAINED} sums; {counts['right']:.1%} of the model's {SAMPLES * len(sums):,} answers are right")


def written(done: dict[str, dict[str, Path]], counts: dict[str, Any]) -> str:
    """The page: every system on the same gold sums, what it forgot, what the gates say."""
    base, start = (read_reports(done[name]["baseline"])["prompt"] for name in ("base", "dpo"))
    before = EvalReport.model_validate(read_json(done["base"]["baseline"] / "general.json"))
    general = {"sft": EvalReport.model_validate(read_json(done["dpo"]["baseline"] / "general.json"))}
    systems, said = {"sft": start}, []
    for name in ("sft again", "dpo"):
        (systems[name],) = read_reports(done[name]["evaluate"]).values()
        general[name] = EvalReport.model_validate(read_json(done[name]["evaluate"] / "general.json"))
        said.append(f"{SAID[name]}: {read_json(done[name]['gate'] / 'verdict.json')['sentence']}")
    shown = [[SAID["base"], str(base.metrics[SCORE]), "", "", "", f"{base.metrics[TOKENS].value:.1f}", ""]]
    for name, report in systems.items():
        gain = None if name == "sft" else compare(report, start, SCORE)
        pairs = [] if gain is None else [str(report.metrics[ACCURACY]), str(report.metrics[MARGIN])]
        cells = [str(report.metrics[SCORE]), wins(compare(report, base, SCORE)), *(pairs or ["", ""]), f"{report.metrics[TOKENS].value:.1f}"]
        shown.append([SAID[name], *cells, change(forgetting.pooled(before, general[name]))])
        if gain is not None:
            said.append(f"{SAID[name]} against where it started: win rate {wins(gain)}, {SCORE} {change(gain)}, p = {gain.p_value:.2g}, on {gain.n} sums")
    over = compare(systems["dpo"], systems["sft again"], SCORE)
    said.append(
        f"dpo against SFT on the right answers of the same pairs: win rate {wins(over)}, {SCORE} {change(over)}, p = {over.p_value:.2g}, on {over.n} sums"
    )
    header = [
        "system",
        "right by the verifier",
        "win rate against the base",
        "preference accuracy",
        "margin, nats",
        "tokens an answer",
        "general ability against the base",
    ]
    few = " (fewer than the 200 that are advised)" if counts["pairs"] < 200 else ""
    made = (
        f"SFT on {FIRST} sums of reasoning-gym (chain_sum, two numbers of two digits) with their right answers; then {counts['pairs']} pairs{few} from "
        f"{counts['asked']} other sums "
        f"that this model answered {SAMPLES} times each at temperature 1, {counts['right']:.0%} of the answers right; {counts['gold']} further sums are gold. Chosen and rejected "
        "share their prompt, and the verifier that made the pairs scores the answers."
    )
    return bare_markdown(
        "DPO on pairs that a verifier made",
        [Paragraph(f"Made by python examples/preferences/run.py with SmolLM2-135M-Instruct on {doctor.machine()}."), Paragraph(made)],
        [
            Section("Every system on the same gold sums", [Table(header, shown), Paragraph(_READING)]),
            Section("What the gates and the pairs say", [Paragraph(line) for line in said]),
            Section("Again", [Code("python examples/preferences/run.py")]),
        ],
    )


TOKENS = "cost.answer_tokens"
SAID = {"base": "the base", "sft": "after SFT", "sft again": "SFT again, on the right answers", "dpo": "DPO on the pairs"}
_READING = (
    "Values with their 95 % intervals. Win rate: the share of sums that only it has right, ties half; .5 is a draw. Preference accuracy: the share of gold pairs whose right "
    "answer gained more than the wrong one on the model that training started from; margin: by how much, the implicit reward over beta. One training seed."
)


def wins(found: Comparison) -> str:
    """The win rate with ties as half: a win is +1 and a loss -1 in the paired difference, so it is (1 + difference) / 2, ends and all."""
    return f"{(1 + found.difference) / 2:.3f} [{(1 + found.low) / 2:.3f}, {(1 + found.high) / 2:.3f}]"


def change(found: Comparison) -> str:
    """A paired difference with its interval."""
    return f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PlanishError as refused:
        print(refused, file=sys.stderr)
        sys.exit(refused.exit_code)
