"""What was made of the tuned model and how it lives: files, endpoint, re-runs, corrections."""

from __future__ import annotations

from typing import Any

from planish.evidence import merged
from planish.report import files
from planish.report.blocks import Section, cut, lines, missing
from planish.report.findings import Findings


def package_lines(found: Findings) -> list[str]:
    """Each file of the package with what it kept."""
    package = found.json("compress", "compress_report.json")
    if not package:
        return ["package: none was made"]
    said = [package["sentence"]] if "sentence" in package else []  # a report of before has none
    if tuned := package.get("reference"):
        said.append(
            f"held against the tuned model in fp32, as files are computed: {tuned['name']} {tuned['value']:.3f} [{tuned['low']:.3f}, {tuned['high']:.3f}]"
        )
    for variant in package.get("variants", ()):
        said += variant_lines(variant)
    for entry in package["files"]:
        kept = entry["figures"].get("quality_retained")
        retained = f"{kept['value']:.3f} [{kept['low']:.3f}, {kept['high']:.3f}] on {kept['n']} gold rows" if kept else files.unkept(entry)
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(entry["tensor_types"].items(), key=lambda item: -item[1]))
        said.append(
            f"{entry['file']}: {entry['bytes'] / 1e6:.1f} MB of {entry['source_bytes'] / 1e6:.1f} MB, {entry['bits_per_weight']:.2f} bits per weight; "
            f"quality retained {retained} ({entry['metric']}), {files.standing(entry)}"
        )
        why = "; ".join(sorted({one.get("why", "row length no multiple of the block") for one in entry["fell_back"]}))
        said.append(f"  tensors: {counts}; {len(entry['fell_back'])} fell back to another type" + (f" ({why})" if why else ""))
        if "kl" in entry["figures"]:
            kl, same = entry["figures"]["kl"], entry["figures"]["top1_agreement"]
            said.append(
                f"  against its source: KL {kl['value']:.4f} nats a token, the same next token in {same['value']:.1%} of {kl['n']} (weights of the file, in fp32)"
            )
        said += [f"  {note}" for note in entry.get("notes", ())]
    return said


def variant_lines(variant: dict[str, Any]) -> list[str]:
    """What was done to make a smaller or a merged model of the tuned one, and what it cost."""
    if variant["kind"] == "merged":
        return [f"{variant['name']} ({variant['method']}): {variant['verdict']['sentence']}", *(f"  {line}" for line in merged.lines(variant["verdict"]))]
    first, last = variant["steps"][0], variant["steps"][-1]
    steps = f" in {len(variant['steps'])} steps" if len(variant["steps"]) > 1 else ""
    said = [f"{variant['name']}: {first['before']:,} parameters -> {last['after']:,}{steps}{chosen_by(variant)}"]
    if (timed := variant["latency"]) is not None:
        said.append(f"  {timed['before']:.2f} ms a token -> {timed['after']:.2f} ms, wanted {timed['target']:.2f} ms (measured: {timed['how']})")
    said += [f"  warning: {warning}" for step in variant["steps"] for warning in step["warnings"]]
    if "recovery" in variant:
        said.append(f"  {variant['recovery']['sentence']}")
    if "unrecovered" in variant:
        said.append(f"  how much was recovered cannot be said: {variant['unrecovered']}")
    return said


def chosen_by(variant: dict[str, Any]) -> str:
    """How units were chosen; tokens go by how often they stand in the training rows, whatever `by` says."""
    removed = [step["removal"] for step in variant["steps"]]
    units = any(one[unit] for one in removed for unit in ("layers", "heads", "channels"))
    tokens = any(one["vocabulary"] is not None for one in removed)
    ways = ([f"chosen by {variant['by']}"] if units else []) + (["tokens by how often they occur"] if tokens else [])
    return "".join(f", {way}" for way in ways)


def answer_lines(found: Findings) -> list[str]:
    """What the endpoint answered the official client."""
    deployment, answers = found.json("serve", "deployment.json"), found.json("serve", "answers.json")
    if not deployment:
        return ["endpoint: none was started"]
    shown = [f"  {cut(answer['answer'], 60):<9} (right: {cut(answer['target'], 60)}): {cut(answer['text'], 90)}" for answer in answers]
    return [f"endpoint: {deployment['url']}", *shown]


def drift_lines(found: Findings) -> list[str]:
    """The first gold re-run on the endpoint."""
    checks = found.json("observe", "drift_check.json")
    if not checks:
        return ["gold re-run: none was made"]
    return [
        f"gold re-run on the endpoint: {check['verdict']} after {check['rows_used']} of {check['n']} rows; {check['b']} worse, {check['c']} better than at promotion, "
        f"{check['failed']} calls failed"
        + (f"; the whole set would show a drop of {check['min_detectable']:.1%}" if check["min_detectable"] is not None else "")
        for check in checks
    ]


def feedback_lines(found: Findings) -> list[str]:
    """What corrections added, and the command that goes on from there."""
    folder, said = found.folder("feedback"), found.json("feedback", "feedback.json")
    if folder is None or not said:
        return ["feedback: none was converted"]
    return [
        f"feedback: {said['corrections']} corrections of {said['requests']} logged requests, {said['rows_added']} rows added, {len(said['refused'])} refused",
        f"the next run: planish run {folder / 'next_recipe.yaml'}",
    ]


def package(found: Findings) -> Section:
    """The files."""
    if not found.folder("compress"):
        return Section("Package", missing("no file was made"))
    return Section("Package", [*lines(package_lines(found)), *files.blocks(found.json("compress", "compress_report.json")["files"])])


def endpoint(found: Findings) -> Section:
    """The endpoint and what was seen of it."""
    if not found.folder("serve"):
        return Section("Endpoint", missing("no endpoint was started"))
    return Section("Endpoint", lines(answer_lines(found) + drift_lines(found) + feedback_lines(found)))
