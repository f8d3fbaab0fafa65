"""The gateway process of one deployment: `python -m planish.server FOLDER`. Loads the package, serves until it is told to stop, and repeats the gold check on schedule."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from planish import shelf
from planish.data import dataset
from planish.data.redact import Redactor
from planish.data.request_log import JsonlRequestLog
from planish.errors import PlanishError
from planish.events import EventType, ReasonCode
from planish.model.asker import decoding_of
from planish.model.chat import Chat
from planish.recipe_evaluate import DecodingSection
from planish.server.app import create_app
from planish.server.keys import KeyRing
from planish.server.run import ensure_port_free, serve
from planish.server.served import Served
from planish.stages._deployment import Deployment, open_deployment
from planish.stages.observe import check
from planish.store import Store


def main(folder: Path) -> int:
    """Serve one deployment folder until SIGTERM."""
    deployment = open_deployment(folder)
    config = deployment.config
    ensure_port_free(config["host"], config["port"])
    package = Path(config["package"])
    chat = Chat.load(package / "tokenizer")
    options = shelf.find("engines", config["engine"]["name"]).options(config["engine"]["options"])
    engine = shelf.call("engines", config["engine"]["name"], "start", config["engine"]["options"])(package / config["file"])
    # an exact engine answers one request at a time; the others wait here, where the queue is bounded
    slots = 1 if options.get("exact") else int(options.get("slots", 1))
    data = dataset.read(Path(config["dataset"]))
    served = Served(
        name=config["model"],
        engine=engine,
        render=chat.prompt,
        encode=chat.encode,
        context_length=int(options.get("context", 2048)),
        vocab_size=len(chat.tokenizer),
        end=chat.end,
        unproven=config["unproven"],
        template_hash=chat.template_hash,
        package_hash=package.name,
        gold_hash=data.manifest.gold_sha256,
        decoding=decoding_of(data.task, DecodingSection.model_validate(config.get("decoding") or {})),
    )
    # no text is kept unless it can be redacted first
    log = JsonlRequestLog(deployment.log, Redactor() if config["log_content"] and config["redact"] else None)
    app = create_app(served, log=log, keys=KeyRing.load(folder / "keys.json"), slots=slots, queue=config["queue"])
    stopping = threading.Event()
    if config["observe"] is not None:
        threading.Thread(target=_watch, args=(deployment, stopping), daemon=True).start()
    try:
        serve(app, host=config["host"], port=config["port"])
    finally:
        stopping.set()
        log.close()
        engine.close()
    return 0


def _watch(deployment: Deployment, stopping: threading.Event) -> None:
    """Ask the gold set again every period, through the front door like any client."""
    store = Store(Path(deployment.config["workspace"]))
    try:
        while not stopping.wait(deployment.config["observe"]["every"]):
            for detector in deployment.config["observe"]["detectors"]:
                try:
                    check(deployment, store, detector, deployment.config["run_id"])
                except Exception as failed:  # a check that could not be made is recorded, and the next one is made all the same
                    body = {"deployment": deployment.id, "error": str(failed)[:1000]}
                    store.event(deployment.config["run_id"], EventType.STAGE_FAILED, "observe", body, severity="error", reason_code=ReasonCode.STAGE_FAILED)
    finally:
        store.close()


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except PlanishError as refused:
        sys.stderr.write(f"{refused}\n")
        sys.exit(refused.exit_code)
