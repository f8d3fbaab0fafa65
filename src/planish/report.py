"""A run for people: tables in the terminal, and one HTML page with its loss curve. Every number is read from the run's own files; a missing section says so."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from planish.events import STAGES
from planish.scores import EvalReport, Verdict
from planish.stages._context import read_json, read_reports
from planish.store import Store
from planish.store.objects import write_atomic

Table = tuple[list[str], list[list[str]]]


@dataclass(frozen=True)
class Findings:
    """What the artifacts of one run say."""

    run: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    store: Store

    def folder(self, stage: str) -> Path | None:
        """A stage's artifact, when it has one."""
        artifact = self.stages.get(stage, {}).get("artifact")
        return self.store.path(artifact) if artifact else None

    def json(self, stage: str, name: str) -> Any:
        """A JSON file of a stage, or None."""
        folder = self.folder(stage)
        return read_json(folder / name) if folder is not None and (folder / name).is_file() else None

    @cached_property
    def verdict(self) -> Verdict | None:
        """The gate's word."""
        found = self.json("gate", "verdict.json")
        return Verdict.model_validate(found) if found else None

    @cached_property
    def baselines(self) -> dict[str, EvalReport]:
        """The cheaper systems."""
        folder = self.folder("baseline")
        return read_reports(folder) if folder else {}

    @cached_property
    def candidate(self) -> EvalReport | None:
        """The tuned model."""
        folder = self.folder("evaluate")
        return next(iter(read_reports(folder).values()), None) if folder else None

    @property
    def unproven(self) -> bool:
        """Whether a gate said no and later stages ran all the same."""
        return any(
            (self.json(stage, name) or {}).get("unproven", False) for stage, name in (("compress", "compress_report.json"), ("serve", "deployment.json"))
        )


def gather(workspace: Path, run_id: str) -> Findings:
    """Everything of one run."""
    store = Store(workspace)
    return Findings(store.run(run_id), store.stages(run_id), store)


def primary_metric(found: Findings) -> str:
    """The metric by which the systems are ranked: that of the verdict's comparisons, else macro-F1 of the first scorer."""
    if found.verdict is not None and found.verdict.comparisons:
        return found.verdict.comparisons[0].metric
    systems = list(found.baselines.values())
    return next((name for report in systems for name in report.metrics if name.endswith("macro_f1")), "")


def ladder(found: Findings) -> Table:
    """Every system from cheap to dear: the metric with its interval, and the paired difference of the tuned model to it."""
    metric = primary_metric(found)
    from planish.stages.baseline import COST_ORDER

    order = sorted(found.baselines.values(), key=lambda report: COST_ORDER.index(report.system) if report.system in COST_ORDER else len(COST_ORDER))
    systems = [*order, *([found.candidate] if found.candidate else [])]
    against = {comparison.reference: comparison for comparison in (found.verdict.comparisons if found.verdict else [])}
    best = max((report.metrics[metric].value for report in order if metric in report.metrics), default=None)
    rows = []
    for report in systems:
        figure = report.metrics.get(metric)
        if figure is None:
            continue
        paired = against.get(report.system)
        tuned = found.candidate.system if found.candidate else ""
        mark = " (tuned)" if report.system == tuned else " (best)" if figure.value == best else ""
        difference = f"{paired.difference:+.3f} [{paired.low:+.3f}, {paired.high:+.3f}]" if paired else ""
        chance = f"p={paired.p_value:.3g}" if paired and paired.p_value is not None else ""
        interval = f"[{figure.low:.3f}, {figure.high:.3f}]" if figure.low is not None else ""
        rows.append([report.system + mark, f"{figure.value:.3f}", interval, difference, chance, f"{report.seconds:.0f} s"])
    name = found.candidate.system if found.candidate else "tuned"
    return ["system", metric.rpartition(".")[2], "95 % interval", f"{name} minus it, paired", "", "took"], rows


def general_lines(found: Findings) -> list[str]:
    """The change of general ability, base to tuned."""
    before, after = found.json("baseline", "general.json"), found.json("evaluate", "general.json")
    if not before or not after:
        return ["general ability: not measured on both sides"]
    base, tuned = EvalReport.model_validate(before), EvalReport.model_validate(after)
    lines = []
    for name, figure in base.metrics.items():
        lines.append(f"{name}: base {figure} -> tuned {tuned.metrics[name]}")
    return lines + [
        f"gate: {rule.rule}: {'holds' if rule.passed else 'NOT met'}: {rule.why}"
        for rule in (found.verdict.rules if found.verdict else [])
        if "general." in rule.rule
    ]


def package_lines(found: Findings) -> list[str]:
    """Each file of the package with what it kept."""
    package = found.json("compress", "compress_report.json")
    if not package:
        return ["package: none was made"]
    lines = []
    for entry in package["files"]:
        kept = entry["figures"]["quality_retained"]
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(entry["tensor_types"].items(), key=lambda item: -item[1]))
        lines.append(
            f"{entry['file']}: {entry['bytes'] / 1e6:.1f} MB of {entry['source_bytes'] / 1e6:.1f} MB, {entry['bits_per_weight']:.2f} bits per weight; "
            f"quality retained {kept['value']:.3f} [{kept['low']:.3f}, {kept['high']:.3f}] on {kept['n']} gold rows ({entry['metric']}), "
            f"{'passed' if entry['passed'] else 'NOT passed'}"
        )
        lines.append(f"  tensors: {counts}; {len(entry['fell_back'])} fell back to another type (row length no multiple of 256)")
    return lines


def answer_lines(found: Findings) -> list[str]:
    """What the endpoint answered the official client."""
    deployment, answers = found.json("serve", "deployment.json"), found.json("serve", "answers.json")
    if not deployment:
        return ["endpoint: none was started"]
    shown = [f"  {answer['answer']:<9} (labelled {answer['label']}): {_cut(answer['text'], 90)}" for answer in answers]
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


def seconds_line(found: Findings) -> str:
    """Seconds per stage."""
    parts = [f"{stage} {row['seconds']:.0f}" if row["status"] == "done" else f"{stage} {row['status']}" for stage in STAGES if (row := found.stages.get(stage))]
    return "seconds: " + ", ".join(parts)


def show(workspace: Path, run_id: str) -> None:
    """Print a run: stages, ladder, verdict, package, endpoint."""
    from rich.console import Console
    from rich.table import Table as Drawn

    found = gather(workspace, run_id)
    out = Console(highlight=False, markup=False)
    out.print(f"\n{found.run['id']}  {found.run['status']}" + ("  UNPROVEN: the gate said no" if found.unproven else ""))
    header, rows = ladder(found)
    if rows:
        table = Drawn(box=None, pad_edge=False, header_style="bold")
        for index, column in enumerate(header):
            if index < 5:  # seconds stand on the page; a terminal of 80 columns has no room for them
                table.add_column(column, justify="right" if index == 1 else "left", no_wrap=True)
        for row in rows:
            table.add_row(*row[:5])
        out.print(table)
    notes = [f"{report.system}: {report.details['seeds']}" for report in found.baselines.values() if "seeds" in report.details]
    sections = [notes, general_lines(found) if found.candidate else []]
    if found.verdict:
        sections.append([f"verdict: {found.verdict.decision}. {found.verdict.sentence}"])
        folder = found.folder("baseline")
        if found.verdict.ship == "classifier" and folder is not None:
            sections.append([f"the classifier to ship: {folder / 'classifier'}"])
    sections += [
        lines(found)
        for stage, lines in (("compress", package_lines), ("serve", answer_lines), ("observe", drift_lines), ("feedback", feedback_lines))
        if found.folder(stage)
    ]
    for lines in sections:
        for line in lines:
            out.print(line, soft_wrap="/" in line)  # a path is never broken
    out.print(seconds_line(found))


def write(workspace: Path, run_id: str) -> Path:
    """`reports/<run>.html` in the workspace: one file, no network, no script."""
    found = gather(workspace, run_id)
    path = workspace / "reports" / f"{found.run['id']}.html"
    write_atomic(path, _page(found).encode())
    return path


def _page(found: Findings) -> str:
    e = html.escape
    title = f"{found.run['name']}: {found.run['id']}"
    headline = found.verdict.sentence if found.verdict else "No verdict: the run did not reach its gate."
    parts = [f"<h1>{e(title)}</h1>"]
    if found.unproven:
        parts.append('<p class="warn">UNPROVEN: the gate said no; what follows it ran on request and must not be shipped.</p>')
    parts.append(f'<p class="verdict">{e(headline)}</p>')
    header, rows = ladder(found)
    parts.append("<h2>Ladder</h2>" + (_table(header, rows) + _ladder_plot(found) if rows else "<p>missing: no system was scored</p>"))
    parts.append(
        "<h2>Gate</h2>"
        + (
            _table(["rule", "", "decided on"], [[r.rule, "holds" if r.passed else "NOT met", r.why] for r in found.verdict.rules])
            if found.verdict
            else "<p>missing: the gate did not run</p>"
        )
    )
    parts.append("<h2>General ability</h2>" + _lines(general_lines(found)))
    parts.append("<h2>Training</h2>" + _training(found))
    parts.append("<h2>Data</h2>" + _data(found))
    parts.append("<h2>Package</h2>" + _lines(package_lines(found)))
    parts.append("<h2>Endpoint</h2>" + _lines(answer_lines(found) + drift_lines(found) + feedback_lines(found)))
    parts.append("<h2>Where the tuned model loses</h2>" + _losses(found))
    parts.append(
        "<h2>Stages</h2>"
        + _table(
            ["stage", "status", "seconds", "artifact"],
            [
                [s, r["status"] + (f": {r['reason']}" if r["reason"] else ""), f"{r['seconds']:.1f}", (r["artifact"] or "")[:16]]
                for s in STAGES
                if (r := found.stages.get(s))
            ],
        )
    )
    parts.append(f"<p>Recipe {e(found.run['recipe_sha256'][:16])}, planish {e(found.run['code_version'])}. Again: <code>planish run recipe.yaml</code></p>")
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{e(title)}</title><style>{_STYLE}</style><main>{"".join(parts)}</main></html>'


def _table(header: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _lines(lines: list[str]) -> str:
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines)


def _training(found: Findings) -> str:
    folder, report = found.folder("train"), found.json("train", "report.json")
    if folder is None or not report:
        return "<p>missing: nothing was trained</p>"
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    plan = report["plan"]
    facts = [
        f"{report['objective']['name']} with {report['adapter']['name']}: {report['trainable']:,} of {report['parameters']:,} parameters trained",
        f"{plan['steps']} steps over {report['rows']} rows, batch {plan['batch_size']}, learning rate {plan['learning_rate']:g} ({plan['schedule']}), {plan['precision']}",
        f"{report['tokens_computed']:,} tokens computed for {sum(step['tokens_in'] for step in steps):,}: shared prefixes are computed once; {len(report['refused'])} rows refused",
    ]
    return _lines(facts) + _curve(steps)


def _data(found: Findings) -> str:
    manifest = found.json("prepare", "manifest.json")
    if not manifest:
        return "<p>missing: no rows were read</p>"
    return _table(["", ""], [[name, str(value)] for name, value in _flat(manifest.get("counts", {}))])


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in _flat(item, f"{prefix}{key} ")]
    return [(prefix.strip(), value)]


def _losses(found: Findings) -> str:
    if found.candidate is None or not found.baselines:
        return "<p>missing: nothing to compare</p>"
    metric = primary_metric(found)
    best = max(found.baselines.values(), key=lambda report: report.metrics[metric].value)
    right = {score.id for score in best.scores if score.value == 1}
    lost = [score for score in found.candidate.scores if score.id in right and score.value < 1]
    rows = [[score.id, score.target, score.answer or ""] for score in lost[:20]]
    return (
        f"<p>{len(lost)} gold rows that {html.escape(best.system)} answers and the tuned model does not"
        + (", the first 20:</p>" if len(lost) > 20 else ":</p>")
        + _table(["row", "right", "tuned model said"], rows)
    )


def _curve(steps: list[dict[str, Any]]) -> str:
    plot, axes = _figure()
    axes.plot([step["step"] for step in steps], [step["loss"] for step in steps], color="#3b6ea5", linewidth=1.2, label="training")
    checks = [(step["step"], step["validation_loss"]) for step in steps if step["validation_loss"] is not None]
    if checks:
        axes.plot(*zip(*checks, strict=True), color="#c1553b", marker="o", markersize=4, linewidth=1.2, label="validation")
    axes.set(xlabel="step", ylabel="loss per trained token (nats)")
    axes.legend(frameon=False)
    return _svg(plot, "Loss over steps")


def _ladder_plot(found: Findings) -> str:
    metric = primary_metric(found)
    systems = [*found.baselines.values(), *([found.candidate] if found.candidate else [])]
    figures = sorted(((report.system, report.metrics[metric]) for report in systems if metric in report.metrics), key=lambda pair: pair[1].value)
    plot, axes = _figure(height=0.4 * len(figures) + 0.9)
    for place, (system, figure) in enumerate(figures):
        tuned = found.candidate is not None and system == found.candidate.system
        low, high = figure.low if figure.low is not None else figure.value, figure.high if figure.high is not None else figure.value
        axes.errorbar(figure.value, place, xerr=[[figure.value - low], [high - figure.value]], fmt="o", color="#c1553b" if tuned else "#3b6ea5", capsize=3)
    axes.set_yticks(range(len(figures)), [system for system, _ in figures])
    axes.set(xlabel=f"{metric} with 95 % interval", xlim=(0, 1))
    return _svg(plot, "Ladder")


def _figure(height: float = 2.8) -> tuple[Any, Any]:
    from planish.lazy import require

    figure = require("matplotlib.figure", extra="report").Figure(figsize=(7.2, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any, label: str) -> str:
    import io

    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return f'<figure role="img" aria-label="{html.escape(label)}">{text[text.index("<svg") :]}</figure>'


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:0;color:#1c2430;background:#fff}main{max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem;border-bottom:1px solid #d5dbe3}p{margin:.4rem 0}.verdict{font-size:1.15rem;font-weight:600}"
    ".warn{background:#fbe9e4;border-left:4px solid #c1553b;padding:.5rem 1rem}table{border-collapse:collapse;font-variant-numeric:tabular-nums;display:block;overflow-x:auto}"
    "th,td{text-align:left;padding:.25rem .8rem .25rem 0;border-bottom:1px solid #e6eaf0}figure{margin:1rem 0}svg{max-width:100%;height:auto}"
    "@media(prefers-color-scheme:dark){body{background:#14181f;color:#dfe5ee}figure{background:#fff;border-radius:4px}.warn{background:#43241c}th,td{border-color:#2a323d}}"
)
