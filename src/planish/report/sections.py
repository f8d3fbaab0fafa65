"""The sections of a run's report, verdict first. Each says what it read and nothing else; `measured` unless a figure is marked estimated (MISSION R-3, R-8, X7)."""

from __future__ import annotations

from typing import Any

from planish.data.task import FINISH
from planish.errors import InputError
from planish.evidence import cpt_verdict, forgetting
from planish.evidence.facts import best
from planish.evidence.losses import Losses
from planish.evidence.paired import compare
from planish.evidence.power import minimum_detectable_drop
from planish.evidence.slices import MINIMUM_SUPPORT, Slices
from planish.report import plots
from planish.report.blocks import Block, Paragraph, Section, Table, cut, lines, missing
from planish.report.findings import Findings
from planish.scores import EvalReport, Metric

SHOWN = 20
"""Rows of a long table that are shown; the rest stands in the run's own files, which the section names."""
LABELS_SHOWN = 40


def headline(found: Findings) -> list[Block]:
    """The verdict, and a warning where it was not heeded."""
    warned: list[Block] = (
        [Paragraph("UNPROVEN: the gate said no; what follows it ran on request and must not be shipped.", "warning")] if found.unproven else []
    )
    said = found.verdict.sentence if found.verdict else "No verdict: the run did not reach its gate."
    return [*warned, Paragraph(said, "verdict")]


def purpose(found: Findings) -> Section:
    """What the rows are for and which model answers them."""
    task, said = found.task, [f"model: {found.run['recipe']['model']}"]
    if task is not None:
        said.append(f"task: {task.shape}" + (f" over {len(task.labels)} labels: {cut(', '.join(task.labels), 300)}" if task.labels else ""))
        if task.instruction:
            said.append(f'instruction: "{task.instruction}"')
    return Section("What it is for", lines(said))


def ladder_table(found: Findings) -> Table | None:
    """Every system from cheap to dear: the metric with its interval, and the paired difference of the tuned model to it."""
    systems = found.systems()
    if not systems:
        return None
    tuned = found.candidate.system if found.candidate else ""
    against = {comparison.reference: comparison for comparison in (found.verdict.comparisons if found.verdict else [])}
    cheaper = [report for report in systems if report.system != tuned]
    leader = best(cheaper, found.metric).system if cheaper else None
    rows = []
    for report in systems:
        figure, paired = report.metrics[found.metric], against.get(report.system)
        mark = " (tuned)" if report.system == tuned else " (best)" if report.system == leader else ""
        difference = f"{paired.difference:+.3f} [{paired.low:+.3f}, {paired.high:+.3f}]" if paired else ""
        chance = f"p={paired.p_value:.3g}" if paired and paired.p_value is not None else ""
        rows.append([report.system + mark, f"{figure.value:.3f}", _interval(figure), difference, chance, f"{report.seconds:.0f} s"])
    return Table(["system", found.metric.rpartition(".")[2], "95 % interval", f"{tuned or 'tuned'} minus it, paired", "", "took"], rows)


def ladder(found: Findings) -> Section:
    """How far each rung got."""
    table = ladder_table(found)
    if table is None:
        return Section("Ladder", missing("no system was scored"))
    figures = [(report.system, report.metrics[found.metric]) for report in found.systems()]
    notes = [f"{report.system}: {report.details['seeds']}" for report in found.baselines.values() if "seeds" in report.details]
    tuned = found.candidate.system if found.candidate else ""
    return Section("Ladder", [table, plots.ladder(figures, found.metric, tuned), *lines([*notes, *answer_faults(found)])])


FAULTS = {"finish.length": "cut at their token limit", "finish.failed": "failed", "finish.too_long": "had a prompt that leaves no room"}


def answer_faults(found: Findings) -> list[str]:
    """What was wrong with the answers as answers: how many were cut, failed, had no room or could not be read, with the first that could not."""
    said = []
    for report in [*found.baselines.values(), *([found.candidate] if found.candidate else [])]:
        counts = {name: round(report.metrics[name].value * len(report.scores)) for name in FINISH if name in report.metrics}
        parts = [f"{count} {FAULTS[name]}" for name, count in counts.items() if count]
        unread = [score for score in report.scores if score.answer and score.parsed is None]
        parts += [f'{len(unread)} could not be read, the first on {unread[0].id}: "{cut(" ".join((unread[0].answer or "").split()), 60)}"'] if unread else []
        if parts:
            said.append(f"{report.system}: of {len(report.scores)} answers {'; '.join(parts)}")
    return said


def gate(found: Findings) -> Section:
    """Every rule and what it was decided on."""
    if found.verdict is None:
        return Section("Gate", missing("the gate did not run"))
    rows = [[rule.rule, "holds" if rule.passed else "undecided" if rule.undecided else "NOT met", rule.why] for rule in found.verdict.rules]
    return Section("Gate", [Table(["rule", "", "decided on"], rows)])


def metrics(found: Findings) -> Section:
    """Before and after, every metric: the best of the cheaper systems, and the tuned model."""
    if found.candidate is None:
        return Section("Every metric", missing("no tuned model was scored"))
    systems = [*found.systems()[:-1], found.candidate]
    rows = [[name, *(_figure(report.metrics.get(name)) for report in systems)] for name in found.candidate.metrics]
    said = Paragraph(f"each on {len(found.candidate.scores)} gold rows, with its 95 % interval; measured")
    return Section("Every metric", [said, Table(["metric", *(report.system for report in systems)], rows)])


def constrained(found: Findings) -> Section | None:
    """What the constraint did: the same model and rows without it; None where there was none. A valid answer is not yet a right one (MISSION E3)."""
    told = found.json("evaluate", "unconstrained.json")
    if not told or found.candidate is None:
        return None
    free, held = EvalReport.model_validate(told), found.candidate
    rows = [[name, _figure(figure), _figure(free.metrics.get(name))] for name, figure in held.metrics.items()]
    said = Paragraph(f"the same {len(held.scores)} gold rows with and without evaluate.decoding.constraint; a valid answer is not yet a right one")
    try:
        paired = compare(held, free, found.metric)
    except InputError as refused:
        return Section("Constraint", [said, Table(["metric", "constrained", "unconstrained"], rows), Paragraph(f"not paired: {refused}")])
    gained = f"the constraint changes {found.metric} by {paired.difference:+.3f} [{paired.low:+.3f}, {paired.high:+.3f}], paired, n={paired.n}"
    return Section("Constraint", [said, Table(["metric", "constrained", "unconstrained"], rows), Paragraph(gained)])


def general_lines(found: Findings) -> list[str]:
    """The change of general ability, base to tuned."""
    if found.general is None:
        return ["general ability: not measured on both sides"]
    base, tuned = found.general
    said = [f"{name}: base {figure} -> tuned {tuned.metrics[name]}" for name, figure in base.metrics.items() if name in tuned.metrics]
    rules = found.verdict.rules if found.verdict else []
    if guard := found.json("gate", "forgetting.json"):
        said += forgetting.lines(forgetting.Forgetting.model_validate(guard))
    return said + [f"gate: {rule.rule}: {'holds' if rule.passed else 'NOT met'}: {rule.why}" for rule in rules if "general." in rule.rule]


def stage_lines(found: Findings) -> list[str]:
    """What continued pretraining was good for, where there was any."""
    told = found.json("gate", "stage_report.json")
    return cpt_verdict.lines(cpt_verdict.StageReport.model_validate(told)) if told else []


def pretraining(found: Findings) -> Section | None:
    """The same as a section; None where there was none."""
    said = stage_lines(found)
    return Section("Continued pretraining", lines(said)) if said else None


def general(found: Findings) -> Section:
    """What tuning cost elsewhere."""
    return Section("General ability", lines(general_lines(found)) if found.general else missing("it was not measured on both sides"))


def training(found: Findings) -> Section:
    """What was trained, with the curve."""
    report, steps = found.json("train", "report.json"), found.lines("train", "metrics.jsonl")
    if not report or not steps:
        return Section("Training", missing("nothing was trained"))
    plan = report["plan"]
    facts = [
        f"{report['objective']['name']} with {report['adapter']['name']}: {report['trainable']:,} of {report['parameters']:,} parameters trained",
        f"{plan['steps']} steps over {report['rows']} rows, batch {plan['batch_size']}, learning rate {plan['learning_rate']:g} ({plan['schedule']}), {plan['precision']}",
        f"{report['tokens_computed']:,} tokens computed for {sum(step['tokens_in'] for step in steps):,}: shared prefixes are computed once; {len(report['refused'])} rows refused",
    ]
    return Section("Training", [*lines(facts), plots.curves(steps)])


def confusion(found: Findings) -> Section | None:
    """Which labels are taken for which; None where the answers are no labels."""
    labels = found.task.labels if found.task is not None else ()
    if found.candidate is None or not labels:
        return None
    place = {label: index for index, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for score in found.candidate.scores:
        counts[place[score.target]][place.get(score.parsed or "", len(labels))] += 1
    wrong = [
        (counts[place[right]][place[other]], right, other) for right in labels for other in labels if right != other and counts[place[right]][place[other]]
    ]
    ranked = [[right, other, str(count)] for count, right, other in sorted(wrong, key=lambda one: (-one[0], one[1], one[2]))[:SHOWN]]
    table: list[Block] = [Table(["right", "answered", "rows"], ranked)] if ranked else [Paragraph("no label was taken for another")]
    return Section("Confusion", [*([plots.confusion(labels, counts)] if len(labels) <= LABELS_SHOWN else []), *table])


def costs(found: Findings) -> Section:
    """What each system took here."""
    rows = [[report.system, str(len(report.scores)), f"{1000 * report.seconds / max(1, len(report.scores)):.0f} ms", "measured"] for report in found.systems()]
    trained, steps = found.stages.get("train"), found.lines("train", "metrics.jsonl")
    said = []
    if trained and trained["seconds"] and steps:
        said.append(f"training took {trained['seconds']:.0f} s here and at most {max(step['memory_mb'] for step in steps) / 1000:.2f} GB (measured)")
    if not rows:
        return Section("Cost", missing("no system was scored"))
    return Section("Cost", [Table(["system", "gold rows", "a row, all its draws together", ""], rows), *lines(said)])


def data(found: Findings) -> Section:
    """What was read and set aside, and the hashes that everything rests on."""
    manifest = found.json("prepare", "manifest.json")
    if not manifest:
        return Section("Data", missing("no rows were read"))
    counts = [[name, str(value)] for name, value in _flat(manifest.get("counts", {}))]
    hashes = [[name, str(value)] for name, value in sorted(manifest.get("hashes", {}).items()) if "/" not in name]
    return Section("Data", [Table(["", ""], counts), Table(["file", "sha256"], hashes)] if hashes else [Table(["", ""], counts)])


def limits(found: Findings) -> Section:
    """What these figures do not say."""
    systems = found.systems()
    if not systems:
        return Section("Limits", missing("nothing was measured"))
    rows = len(systems[0].scores)
    drop = minimum_detectable_drop(rows) if rows else None
    said = [
        f"{rows} gold rows: a paired test sees " + (f"a drop of {drop:.1%} 8 times of 10" if drop is not None else "no drop at all"),
        "one training seed: the spread over seeds was not measured" if found.candidate is not None else "nothing was tuned",
        "times and memory are those of this machine, whatever else ran on it",
    ]
    return Section("Limits", lines(said))


def stages(found: Findings) -> Section:
    """What became of each stage, and what each was made from."""
    from planish.events import STAGES

    rows = []
    for stage in STAGES:
        if row := found.stages.get(stage):
            said = row["status"] + (f": {row['reason']}" if row["reason"] else "")
            rows.append([stage, said, f"{row['seconds']:.1f}", (row["artifact"] or "")[:16]])
    return Section("Stages and lineage", [Table(["stage", "status", "seconds", "artifact"], rows)])


def _figure(figure: Metric | None) -> str:
    return "not measured" if figure is None else f"{figure.value:.3f} {_interval(figure)}".strip()


def _interval(figure: Metric) -> str:
    return f"[{figure.low:.3f}, {figure.high:.3f}]" if figure.low is not None and figure.high is not None else ""


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in _flat(item, f"{prefix}{key} ")]
    return [(prefix.strip(), value)]


def losses(found: Findings) -> Section:
    """Gold rows that the best cheaper system answers and the tuned model does not: in groups, side by side, and what data would help."""
    title, said = "Where the tuned model loses", found.json("gate", "losses.json")
    if not said:
        return Section(title, missing("nothing to compare"))
    lost = Losses.model_validate(said)
    counts = f"{len(lost.lost)} of {lost.n} gold rows only {lost.baseline} has right, {lost.won} only {lost.candidate}"
    blocks: list[Block] = [Paragraph(counts)]
    if lost.groups:
        rows = [[", ".join(group.terms), str(len(group.ids)), _counts(group.targets), cut(" / ".join(group.examples), 200)] for group in lost.groups[:SHOWN]]
        blocks.append(Table(["rows about", "", "right answers", "such as"], rows))
    if lost.note:
        blocks.append(Paragraph(lost.note))
    rows = [[one.id, cut(one.target, 120), cut(one.answer or "(none)", 120), cut(one.baseline_answer or "(none)", 120)] for one in lost.lost[:SHOWN]]
    if rows:
        blocks.append(Table(["row", "right", lost.candidate, lost.baseline], rows))
    if lost.to_add:
        blocks.append(Table(["data to add", "rows", "why"], [[one.what, "" if one.rows is None else str(one.rows), one.why] for one in lost.to_add]))
    return Section(title, blocks)


def slices(found: Findings) -> Section:
    """The weakest parts of the gold set, and whether the training rows are known by heart."""
    said, gap = found.json("evaluate", "slices.json"), found.json("evaluate", "memorised.json")
    if not said:
        return Section("Slices", missing("the tuned model was not scored by slice"))
    cuts = Slices.model_validate(said)
    worst = cuts.slices[:SHOWN]
    rows = [
        [
            f"{one.key}: {cut(one.value, 40)}",
            f"{one.metric.value:.3f}",
            _interval(one.metric),
            str(one.metric.n),
            "weak" if one.weak else "few rows" if one.thin else "",
        ]
        for one in worst
    ]
    drawn: list[Block] = [plots.slices([(f"{one.key}: {cut(one.value, 24)}", one.metric, one.thin) for one in worst[:12]], cuts.overall.value)] if worst else []
    weak = f"weak: proven worse than the other rows, over all {cuts.tested} slices tested (Holm); few rows: fewer than {MINIMUM_SUPPORT}"
    heart = gap.get("sentence") or f"training rows against gold: not measured ({gap['not_measured']})" if gap else "training rows against gold: not measured"
    return Section("Slices", [Table(["slice", "mean score", "95 % interval", "rows", ""], rows), *drawn, Paragraph(weak), Paragraph(heart)])


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{cut(name, 40)} {count}" for name, count in list(found.items())[:5])
