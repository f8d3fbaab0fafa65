"""Serving: the package behind an OpenAI-compatible endpoint on this machine, asked three questions by the official client before it is called live."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from planish.data import dataset
from planish.data.task import Task, filled
from planish.engines.endpoint import openai_turns
from planish.errors import InputError, Problem
from planish.events import EventType
from planish.recipe import Recipe
from planish.rows import Row, canonical_json
from planish.server.keys import KeyRing
from planish.server.run import ensure_port_free
from planish.stages._context import Context, Inputs, read_json, write_json
from planish.stages._deployment import Deployment, live, open_deployment
from planish.stages._scoring import readable
from planish.store import Store

NEEDS = ("prepare", "compress")
QUESTIONS = 3


def options(recipe: Recipe) -> dict[str, Any]:
    """The endpoint's settings, and what the observe and feedback stages ask of it."""
    assert recipe.serve is not None
    observe = recipe.observe.model_dump() if recipe.observe else None
    return {
        "serve": recipe.serve.model_dump(),
        "decoding": recipe.evaluate.decoding.model_dump(),
        "observe": observe,
        "feedback": recipe.feedback.model_dump(exclude={"corrections"}) if recipe.feedback else None,
    }


def preflight(recipe: Recipe, store: Store) -> None:
    """An engine that opens no package, and a port that another program holds, are refused before anything runs; our own endpoint on it will be replaced."""
    assert recipe.serve is not None
    if recipe.serve.engine.name != "llamacpp":
        raise InputError(Problem("serve.engine", f"{recipe.serve.engine.name} does not serve a package yet", "use llamacpp, with compress: {export: [gguf]}"))
    if recipe.compress is None or all(use.name != "gguf" for use in recipe.compress.export):
        raise InputError(Problem("serve", "there would be no GGUF file to serve", "add to the recipe: compress: {export: [gguf]}"))
    if recipe.serve.port and all(deployment.config["port"] != recipe.serve.port for deployment in live(store)):
        ensure_port_free(recipe.serve.host, recipe.serve.port)


def still_true(context: Context, folder: Path) -> bool:
    """An endpoint that was stopped must be started again."""
    where = Path(read_json(folder / "deployment.json")["folder"])
    return (where / "config.json").is_file() and open_deployment(where).pid is not None and open_deployment(where).ready()


def run(context: Context, inputs: Inputs, folder: Path) -> None:
    """`deployment.json` and `answers.json`. An endpoint of this workspace on the same port is drained and replaced."""
    recipe = context.recipe
    assert recipe.serve is not None
    [file, *_] = [entry["file"] for entry in read_json(inputs["compress"] / "compress_report.json")["files"] if entry["file"].endswith(".gguf")]
    for old in live(context.store):
        if old.config["port"] == recipe.serve.port:
            context.progress.say(f"  replacing the endpoint {old.id} on port {recipe.serve.port}")
            old.stop()
            context.store.stop_deployment(old.id)
            context.event(EventType.DEPLOY_STOPPED, {"deployment": old.id})
    ensure_port_free(recipe.serve.host, recipe.serve.port)
    context.store.objects.verify(inputs["compress"].name)  # what was scored is what is served
    deployment = _configure(context, inputs, file)
    deployment.start()
    data = dataset.read(inputs["prepare"])
    answers = _ask(deployment, data.task, list(islice(data.rows("validation"), QUESTIONS)))
    context.store.add_deployment(deployment.id, context.run_id, inputs["compress"].name, deployment.folder, context.unproven)
    context.event(EventType.DEPLOY_STARTED, {"deployment": deployment.id, "url": deployment.url, "unproven": context.unproven})
    write_json(folder / "deployment.json", {"id": deployment.id, "folder": str(deployment.folder), "url": deployment.url, "unproven": context.unproven})
    write_json(folder / "answers.json", answers)


def _configure(context: Context, inputs: Inputs, file: str) -> Deployment:
    """Write the deployment's folder: settings, a new key of which the gateway sees only the hash."""
    recipe, task = context.recipe, dataset.read(inputs["prepare"]).task
    assert recipe.serve is not None
    folder = context.store.workspace / "deployments" / f"deploy-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    ring = KeyRing()
    secret = ring.create("owner", ["infer", "feedback", "read"])
    ring.save(folder / "keys.json")
    key = folder / "key"
    key.touch(mode=0o600)
    key.write_text(secret + "\n", encoding="utf-8")
    config = {
        "model": context.recipe.source.stem if context.recipe.source else "planish",
        "package": str(inputs["compress"]),
        "file": file,
        "dataset": str(inputs["prepare"]),
        "decoding": recipe.evaluate.decoding.model_dump(),
        "engine": recipe.serve.engine.model_dump(),
        "host": recipe.serve.host,
        "port": recipe.serve.port,
        "queue": recipe.serve.queue,
        "log_content": recipe.serve.log_content,
        "redact": recipe.feedback.redact if recipe.feedback else True,
        "observe": recipe.observe.model_dump() if recipe.observe else None,
        "scorers": [scorer.model_dump() for scorer in readable(filled(recipe, task.shape).evaluate.scorers)],
        "unproven": context.unproven,
        "run_id": context.run_id,
        "workspace": str(context.store.workspace),
    }
    write_json(folder / "config.json", config)
    return open_deployment(folder)


def _ask(deployment: Deployment, task: Task, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Three validation rows through the official client, as any user would: a choice among the labels, or a free answer with the row's tools."""
    import openai

    answers = []
    with openai.OpenAI(base_url=deployment.url, api_key=deployment.key) as client:
        for row in rows:
            asked, target, tools = task.asked(row)
            turns: Any = openai_turns(asked)
            more: Any = {"extra_body": {"structured_outputs": {"choice": list(task.labels)}}} if task.labels else {}
            more |= {"tools": list(tools)} if tools else {}
            reply = client.chat.completions.create(model=deployment.config["model"], messages=turns, temperature=0, **more)
            [choice] = reply.choices
            called = [call.model_dump() for call in choice.message.tool_calls or ()]
            said = {"answer": canonical_json(called) if called else choice.message.content, "finish": choice.finish_reason}
            answers.append({"log_id": reply.id, "text": task.text_of(asked[-1].content), "target": target, **said})
    return answers
