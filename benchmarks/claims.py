"""How every claim here is measured: work counters first, parity before any time, both sides interleaved in one process, paired ratios with an interval.

A wall time on shared cores proves little by itself, so a report says how much of the machine others used meanwhile, and is not kept where that was more than a tenth.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from measure import Foreign, Ratio, machine, versions

RESULTS = Path(__file__).parent / "results"
FOREIGN_MAX = 0.10
"""Share of the machine's processor time that others may use while a report is measured."""
PARITY = 1e-5
"""Loss (absolute) and gradient (relative) in fp32: a side that computes something else is not compared."""


@dataclass
class Finding:
    """One bar of one claim. `value` is the peer's time over ours, or ours over the peer's where `at_most` is the bar; `limit` is the best that arithmetic allows."""

    case: str
    peer: str
    unit: str
    bar: float
    value: Ratio
    limit: float | None = None
    limit_is: str = ""
    at_most: bool = False

    @property
    def reached(self) -> bool:
        """Whether the median is on the required side of the bar."""
        return self.value.median <= self.bar if self.at_most else self.value.median >= self.bar

    @property
    def verdict(self) -> Literal["reached", "reached, but the interval crosses the bar", "NOT reached"]:
        """In words, with the interval's say."""
        if not self.reached:
            return "NOT reached"
        clear = self.value.high <= self.bar if self.at_most else self.value.low >= self.bar
        return "reached" if clear else "reached, but the interval crosses the bar"


@dataclass
class Report:
    """What one script found. `work` holds counters by case and side; `parity` the distances by case; `seconds` every timed run."""

    name: str
    claim: str
    device: str
    quick: bool
    machine: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    parity: dict[str, dict[str, float]] = field(default_factory=dict)
    work: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    foreign: float = 0.0

    def same(self, case: str, **distances: float) -> None:
        """Parity of a case; raises AssertionError above 1e-5, and nothing is timed then."""
        self.parity[case] = distances
        print(f"{case}: parity " + ", ".join(f"{name} {value:.1e}" for name, value in distances.items()))
        wrong = {name: value for name, value in distances.items() if not value <= PARITY}
        assert not wrong, f"{case}: the sides do not compute the same: {wrong}"

    def counted(self, case: str, side: str, **counters: float) -> None:
        """Work counters of one side."""
        self.work.setdefault(case, {}).setdefault(side, {}).update(counters)
        print(f"{case}: {side}: " + ", ".join(f"{name} {value:,.4g}" for name, value in counters.items()))

    def found(self, finding: Finding) -> None:
        """One bar, said at once."""
        self.findings.append(finding)
        v = finding.value
        limit = f", limit {finding.limit:.2f} ({finding.limit_is})" if finding.limit is not None else ""
        sign = "<=" if finding.at_most else ">="
        print(
            f"{finding.case}: {finding.unit} against {finding.peer}: {v.median:.3g} [{v.low:.3g}, {v.high:.3g}], n={v.pairs}{limit}; bar {sign} {finding.bar}: {finding.verdict}"
        )


def arguments(doc: str, **more: Any) -> argparse.Namespace:
    """The options every script has, and its own."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, default=None, help="write the report here; default: results/<name>.json, nothing with --quick")
    parser.add_argument("--quick", action="store_true", help="two pairs, no report kept: shows that it runs and that parity holds")
    for name, settings in more.items():
        parser.add_argument(f"--{name}", **settings)
    return parser.parse_args()


def start(name: str, claim: str, options: argparse.Namespace) -> Report:
    """The head of a report: machine and versions first."""
    report = Report(name, claim, options.device, options.quick, machine(options.device), versions())
    print(f"{name}: {claim}\n{report.machine}\n" + ", ".join(f"{package} {number}" for package, number in report.versions.items()))
    return report


def finish(report: Report, foreign: Foreign, options: argparse.Namespace, *, timed: bool = True) -> int:
    """Keep the report, or say why not: a busy machine's times are refused. `timed` false: it has none, only counts and bytes. Gives the exit status."""
    report.foreign = foreign.share
    noisy = timed and report.foreign > FOREIGN_MAX
    print(f"others used {report.foreign:.1%} of the machine" + (f": more than {FOREIGN_MAX:.0%}, NOT QUIET: these times prove nothing" if noisy else ""))
    for note in report.notes:
        print(f"note: {note}")
    path = options.json or (None if options.quick else RESULTS / f"{report.name}.json")
    if path is None:
        return 0
    if noisy:
        print("the report is not kept: run again when the machine is quiet")
        return 1
    body = asdict(report) | {"findings": [asdict(f) | {"value": f.value._asdict(), "reached": f.reached, "verdict": f.verdict} for f in report.findings]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    print(f"kept in {path}")
    return 0
