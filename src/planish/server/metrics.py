"""Counters and histograms in Prometheus' text format. Label values come from closed sets only, never from a request."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable

BUCKETS_S = tuple(0.01 * 2**power for power in range(14))
"""Upper bounds of the duration buckets, 0.01 s to 81.92 s (OpenTelemetry's generative-AI conventions)."""


class Metrics:
    """The figures of one gateway. `gauge` registers a function that is read when the page is made."""

    def __init__(self) -> None:
        self._help: dict[str, tuple[str, str]] = {}
        self._counts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._histograms: dict[str, tuple[list[int], list[float]]] = {}
        self._gauges: dict[str, Callable[[], float]] = {}

    def counter(self, name: str, text: str) -> Callable[..., None]:
        """Declare a counter; the function returned adds `amount` (default 1) under the labels given by keyword."""
        self._help[name] = ("counter", text)

        def add(amount: float = 1, **labels: str) -> None:
            self._counts[name][",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))] += amount

        return add

    def histogram(self, name: str, text: str) -> Callable[[float], None]:
        """Declare a histogram of seconds; the function returned adds one observation."""
        self._help[name] = ("histogram", text)
        buckets, total = self._histograms[name] = ([0] * (len(BUCKETS_S) + 1), [0.0])

        def observe(seconds: float) -> None:
            buckets[bisect_left(BUCKETS_S, seconds)] += 1
            total[0] += seconds

        return observe

    def gauge(self, name: str, text: str, read: Callable[[], float], *, kind: str = "gauge") -> None:
        """Declare a figure that is read on demand. `kind` "counter" when it only ever grows."""
        self._help[name] = (kind, text)
        self._gauges[name] = read

    def render(self) -> str:
        """The page of /metrics."""
        lines: list[str] = []
        for name, (kind, text) in self._help.items():
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            if name in self._gauges:
                lines.append(f"{name} {self._gauges[name]():g}")
            elif name in self._histograms:
                lines += self._histogram_lines(name)
            else:
                lines += [f"{name}{{{labels}}} {value:.15g}" if labels else f"{name} {value:.15g}" for labels, value in sorted(self._counts[name].items())]
        return "\n".join(lines) + "\n"

    def _histogram_lines(self, name: str) -> list[str]:
        buckets, total = self._histograms[name]
        lines, below = [], 0
        for bound, count in zip((*BUCKETS_S, None), buckets, strict=True):
            below += count
            lines.append(f'{name}_bucket{{le="{"+Inf" if bound is None else f"{bound:g}"}"}} {below}')
        return [*lines, f"{name}_sum {total[0]:.15g}", f"{name}_count {below}"]
