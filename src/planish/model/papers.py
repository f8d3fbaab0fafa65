"""What goes with every exported file or folder: a model card, the licence of its base, its lineage, and the hashes of its files (MISSION Z5)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planish.errors import InputError, Problem
from planish.model.exported import Exported
from planish.model.gguf_lora import adapter_beside
from planish.model.json_object import read_json
from planish.rows import Noun
from planish.store.objects import file_hash, write_atomic

LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "COPYING")
UNKNOWN = "unknown"
HASHES, LINEAGE, CARD = "SHA256SUMS", "lineage.json", "README.md"


class Licence(Noun):
    """`name` as the base's own folder says it, or "unknown"; `text` is the file that holds it, where there is one."""

    name: str
    text: str | None = None


class Lineage(Noun):
    """Where an artifact comes from. `base` and `revision` as their folder names them, `base_hash` over weights, configuration and tokenizer; `data` and `stages` are hashes by
    name; `made` is the exporter with its keys; `variant` is what was made of the tuned model before it was exported, said in sentences; `versions` are packages."""

    run: str
    recipe_hash: str
    base: str
    revision: str | None
    base_hash: str
    made: dict[str, Any]
    variant: list[str] = []
    data: dict[str, str] = {}
    stages: dict[str, str] = {}
    versions: dict[str, str] = {}
    unproven: bool = False


def licence(base: Path) -> Licence:
    """What the folder of the base model says of its licence: its card's front matter, bundled.json, config.json, or a licence file alone."""
    text = next((name for name in LICENCES if (base / name).is_file()), None)
    card = base / CARD
    if card.is_file() and (front := re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)):
        told = re.search(r"^license:\s*[\"']?([\w.\-+]+)", front[1], re.MULTILINE)
        if told:
            return Licence(name=told[1], text=text)
    for name in ("bundled.json", "config.json"):
        if (base / name).is_file() and isinstance(found := read_json(base / name).get("license"), str):
            return Licence(name=found, text=text)
    return Licence(name="other" if text else UNKNOWN, text=text)


def write_papers(artifact: Path, made: Exported, lineage: Lineage, base: Path, figures: Mapping[str, Any], *, task: str = "", use: str = "") -> list[Path]:
    """Write card, licence, lineage and hashes into the folder `artifact`, or beside the file `artifact` under its name; gives their paths, the hashes last.

    `figures` are what was measured, by name, as the card shows them; `use` is how to run it. Raises InputError where there is no such artifact.
    """
    if not artifact.exists():
        raise InputError(Problem(str(artifact), "is not there", "export it first"))
    folder = artifact if artifact.is_dir() else artifact.parent
    stem = "" if artifact.is_dir() else f"{artifact.name}."
    terms = licence(base)
    written = [folder / f"{stem}{CARD}", folder / f"{stem}{LINEAGE}"]
    write_atomic(written[0], card(artifact.name, made, lineage, terms, figures, task=task, use=use).encode())
    write_atomic(written[1], (json.dumps(lineage.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode())
    if terms.text is not None:
        written.append(folder / f"{stem}LICENSE")
        write_atomic(written[-1], (base / terms.text).read_bytes())
    hashes = folder / f"{stem}{HASHES}"
    own = [artifact, *(path for path in [adapter_beside(artifact)] if path.is_file())]
    held = sorted(path for path in artifact.rglob("*") if path.is_file() and path != hashes) if artifact.is_dir() else [*own, *written]
    lines = [f"{file_hash(path).removeprefix('sha256:')}  {path.relative_to(folder).as_posix()}" for path in held]
    write_atomic(hashes, ("\n".join(lines) + "\n").encode())
    return [*written, hashes]


def card(name: str, made: Exported, lineage: Lineage, terms: Licence, figures: Mapping[str, Any], *, task: str = "", use: str = "") -> str:
    """The model card as the hub reads it: front matter, what it is, what was measured, where it comes from, what is not known."""
    front = ["---", f"license: {terms.name}", f"base_model: {lineage.base}", "pipeline_tag: text-generation"]
    front += ["library_name: transformers"] if not name.endswith((".gguf", ".onnx")) else []
    parts = ["\n".join([*front, "---"]), f"# {name}"]
    if lineage.unproven:
        parts.append("**UNPROVEN**: its gate said no, or what it was measured by is missing.")
    about = f"Made of `{lineage.base}`" + (f" (revision {lineage.revision})" if lineage.revision else "") + (f" for {task}." if task else ".")
    types = ", ".join(f"{count} x {kind}" for kind, count in made.tensor_types.items())
    parts.append(f"{about} {made.bytes:,} bytes, {made.bits_per_weight:.2f} bits a weight ({types}).")
    parts += lineage.variant
    if use:
        parts.append(f"## Use\n\n```\n{use}\n```")
    shown = [f"| {key} | {value} |" for key, value in figures.items()] or ["| nothing | - |"]
    parts.append("\n".join(["## Measured", "", "| figure | value |", "|---|---|", *shown]))
    warned = [*made.notes, *(f"{len(made.fell_back)} tensors were written otherwise than asked" for _ in made.fell_back[:1])]
    if terms.name == UNKNOWN:
        warned.append("the base's folder names no licence: read its page before you share this")
    parts.append("## To be known\n\n" + "\n".join(f"- {note}" for note in [*warned, "what was not measured above is not known"]))
    options = json.dumps(lineage.made, sort_keys=True)
    parts.append(
        f"## Lineage\n\nRun `{lineage.run}`, recipe `{lineage.recipe_hash}`, base `{lineage.base_hash}`, made by `{options}`. All of it: `{LINEAGE}`; hashes: `{HASHES}`."
    )
    return "\n\n".join(parts) + "\n"
