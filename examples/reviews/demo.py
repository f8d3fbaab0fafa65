"""The whole line on real rows: customer-review triage with a 135M model, from rated sentences to a gated, served, watched model. `make demo` runs it.

Works in the folder `demo`; given again, it goes on where it stopped and skips what is done. It runs every stage whatever the gate says (--unproven), corrects one
answer of the endpoint, and stops the endpoint at the end. Exits 0 when all nine stages ran, whatever the verdict.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import openai

from planish import Recipe, pipeline, report
from planish.data import dataset
from planish.data.reviews import write_reviews
from planish.errors import PlanishError
from planish.events import STAGES
from planish.progress import Terminal
from planish.stages._deployment import Deployment, live
from planish.store import Store

HERE = Path(__file__).parent


QUESTION = "after two days the battery died, and nobody answered my mail from jane.doe@example.com."
"""Not among the rows. Its address is taken out before the request is logged."""


def ask(deployment: Deployment) -> tuple[str, str]:
    """One question of a user to the live endpoint, by the official client: the request's id and the answer."""
    task = dataset.read(Path(deployment.config["dataset"])).task
    messages: Any = [message.model_dump(include={"role", "content"}) for message in task.prompt(QUESTION)]
    with openai.OpenAI(base_url=deployment.url, api_key=deployment.key) as client:
        choice = {"structured_outputs": {"choice": list(task.labels)}}
        reply = client.chat.completions.create(model=deployment.config["model"], messages=messages, temperature=0, extra_body=choice)
    return reply.id, str(reply.choices[0].message.content)


def main() -> int:
    """Run, correct one answer, run the rest, show."""
    began = time.perf_counter()
    folder = Path("demo")
    folder.mkdir(exist_ok=True)
    workspace = folder / ".planish"
    if not (folder / "reviews.jsonl").is_file():
        write_reviews(folder / "reviews.jsonl")
    shutil.copy(HERE / "recipe.yaml", folder / "recipe.yaml")
    recipe = Recipe.load(folder / "recipe.yaml")
    progress = Terminal()
    try:
        first = pipeline.run(recipe, workspace=workspace, until="observe", unproven=True, progress=progress)
        log_id, answer = ask(live(Store(workspace))[0])
        if not (folder / "corrections.jsonl").is_file():
            (folder / "corrections.jsonl").write_text(json.dumps({"log_id": log_id, "corrected": "negative"}) + "\n", encoding="utf-8")
        progress.say(f"asked the endpoint a new question; it said {answer}, a person says negative: {folder / 'corrections.jsonl'}")
        last = pipeline.run(recipe, workspace=workspace, unproven=True, progress=progress)
    finally:
        store = Store(workspace)
        for deployment in live(store):
            deployment.stop()
            store.stop_deployment(deployment.id)
    seconds = {stage: max(first.stages[stage].seconds if stage in first.stages else 0.0, last.stages[stage].seconds) for stage in STAGES}
    report.show(workspace, last.run_id)
    print("seconds per stage: " + ", ".join(f"{stage} {taken:.0f}" for stage, taken in seconds.items()))
    print(f"report: {report.write(workspace, last.run_id)}")
    ran = [stage for stage, outcome in last.stages.items() if outcome.status in ("done", "unchanged")]
    print(f"{len(ran)} of {len(STAGES)} stages ran in {time.perf_counter() - began:.0f} s; the gate's exit code was {last.exit_code}")
    return 0 if len(ran) == len(STAGES) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PlanishError as refused:
        print(refused, file=sys.stderr)
        sys.exit(refused.exit_code)
