"""What a gold set can and cannot see, before anyone is disappointed by it (MISSION D10)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from planish.data import dataset, gold
from planish.data.gold_lock import Change, read_lock
from planish.data.reading import read_rows
from planish.errors import InputError, Problem
from planish.evidence.power import ADVISED_ROWS, MINIMUM_ROWS, RECOMMENDED_ROWS, mcnemar_power, minimum_detectable_drop, rows_needed
from planish.rows import Noun

DROPS = (0.01, 0.02, 0.03, 0.05, 0.10)
"""Drops whose chance of being seen is shown."""


class GoldPage(Noun):
    """`power` is the chance of seeing each drop; `needed` the rows that see each gain 8 times of 10 at this discordance; `refused` rows are no gold."""

    rows: int
    refused: int = 0
    status: str
    labels: dict[str, int]
    detectable: float | None
    power: dict[str, float]
    needed: dict[str, int]
    discordance: float
    changes: tuple[Change, ...] = ()
    blind: int = 0


def of(path: Path, discordance: float = 0.1) -> GoldPage:
    """The page of a file of gold rows (draft or locked) or of a prepared data set. Raises InputError when it is neither, and on a discordance that is no share."""
    if not 0 < discordance <= 1:
        raise InputError(Problem("--discordance", f"{discordance:g} is no share of rows", "give a number above 0 and up to 1; 0.1 is common"))
    changes: tuple[Change, ...] = ()
    blind = refused = 0
    if (path / dataset.MANIFEST).is_file():
        data = dataset.read(path)
        sealed = gold.read(data.gold_path)
        n, labels, status = len(sealed.samples), Counter(sample.target for sample in sealed.samples if sealed.labels), f"sealed, version {sealed.version}"
        blind = len(gold.read(data.blind_path).samples) if data.blind_path.is_file() else 0
    elif path.is_dir():
        raise InputError(Problem(str(path), "is no prepared data set", "give a file of gold rows, or the folder of the prepare stage"))
    else:
        lock = read_lock(path)
        reading = read_rows(path, mixed=True, strict=False)
        refused = len(reading.rejected)
        n, labels = len(reading.accepted), Counter(key.label for key in reading.accepted.keys if key.label is not None)
        status = f"locked, version {lock.version}" if lock is not None else "draft"
        changes = lock.changes if lock is not None else ()
    return GoldPage(
        rows=n,
        refused=refused,
        status=status,
        labels=dict(sorted(labels.items())),
        detectable=minimum_detectable_drop(n) if n else None,
        power={f"{drop:.0%}": round(mcnemar_power(n, drop), 3) if n else 0.0 for drop in DROPS},
        needed={f"{gain:.0%}": rows_needed(discordance, gain) for gain in DROPS if gain <= discordance},
        discordance=discordance,
        changes=changes,
        blind=blind,
    )


def text(page: GoldPage) -> str:
    """The page for people."""
    lines = [f"{page.rows} gold rows, {page.status}" + (f", {page.blind} more kept blind" if page.blind else "")]
    if page.refused:
        lines.append(f"  {page.refused} more rows are refused and count for nothing; see why: planish check FILE")
    if page.labels:
        lines.append("  " + ", ".join(f"{label} {count}" for label, count in page.labels.items()))
    if page.rows < MINIMUM_ROWS:
        lines.append(f"  fewer than {MINIMUM_ROWS}: no interval means anything, and a run is refused")
    elif page.rows < ADVISED_ROWS:
        lines.append(f"  {RECOMMENDED_ROWS} are recommended, {ADVISED_ROWS} the least advised: a close result will say need_more_gold")
    lines.append("\nchance of seeing a drop (paired one-sided test at 5 %, 3 % of rows flipping each way by chance):")
    lines += [f"  {drop:>4}  {chance:>4.0%}  {'█' * round(chance * 40)}" for drop, chance in page.power.items()]
    lines.append(f"\nrows needed to see a gain 8 times of 10 (two-sided 5 %, {page.discordance:.0%} of rows differing):")
    lines += [f"  {gain:>4}  {rows:,}" for gain, rows in page.needed.items()]
    if page.changes:
        lines.append("\nversions:")
        lines += [f"  {one.version}: {one.why} ({one.added} added, {one.removed} removed, {one.changed} changed)" for one in page.changes]
    return "\n".join(lines)
