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

from preference_run import Words, answered, own_answers, sections, three_runs, trained_first, write

from planish import Recipe, doctor
from planish.data.verify import Asked, verify
from planish.errors import PlanishError
from planish.progress import Progress, Terminal
from planish.report.blocks import Code, Paragraph, Section
from planish.report.page import bare_markdown
from planish.stages._context import read_json

HERE = Path(__file__).parent
FIRST, TRAINED, GOLD = 700, 500, 400
"""Sums for SFT, sums that it then answers for the pairs, and sums that judge."""
SAMPLES = 4
WORDS = Words("verifier.score", "right by the verifier", "sums", "right answer")


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
    done = three_runs(Recipe.load(folder / "recipe.yaml"), workspace, progress)
    counts = read_json(folder / "pairs.json")
    few = " (fewer than the 200 that are advised)" if counts["pairs"] < 200 else ""
    made = (
        f"SFT on {FIRST} sums of reasoning-gym (chain_sum, two numbers of two digits) with their right answers; then {counts['pairs']} pairs{few} from "
        f"{counts['asked']} other sums "
        f"that this model answered {SAMPLES} times each at temperature 1, {counts['right']:.0%} of the answers right; {counts['gold']} further sums are gold. Chosen and rejected "
        "share their prompt, and the verifier that made the pairs scores the answers."
    )
    page = bare_markdown(
        "DPO on pairs that a verifier made",
        [Paragraph(f"Made by python examples/preferences/run.py with SmolLM2-135M-Instruct on {doctor.machine()}."), Paragraph(made)],
        [*sections(done, answered(done), WORDS), Section("Again", [Code("python examples/preferences/run.py")])],
    )
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


def write_pairs(sums: list[tuple[str, str]], folder: Path, progress: Progress) -> None:
    """`pairs.jsonl`: of each sum that the model answered both right and wrong, its first of each. `gold.jsonl`: a pair for every other sum, with the right number where it
    never said it, and a slip where it was never wrong. `pairs.json`: the counts. The verifier is the one that scores the run."""
    said = own_answers(folder / "sft", [question for question, _ in sums], SAMPLES, 16, progress)
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


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PlanishError as refused:
        print(refused, file=sys.stderr)
        sys.exit(refused.exit_code)
