"""Start-up: `planish --help` under 0.3 s, `import planish` without torch. Exits 1 when a bar is missed.

Run: python benchmarks/start_up.py. Each figure is the median of 15 fresh processes with its spread (min to max), beside `python -c pass` measured in turn with it.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time

BAR_SECONDS = 0.3
ROUNDS = 15
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import planish": [sys.executable, "-c", "import planish"],
    "planish --help": [sys.executable, "-m", "planish", "--help"],
    "planish check": [sys.executable, "-m", "planish", "check", "examples/reviews/recipe.yaml"],
}
HEAVY = ("torch", "transformers", "peft", "sklearn", "fastapi", "sqlalchemy", "pandas")


def seconds(command: list[str]) -> float:
    """Wall time of one fresh process."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> int:
    """Measure in turn, so that a slow moment of the machine falls on all alike."""
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys, planish.recipe; print([m for m in {HEAVY!r} if m in sys.modules])"], check=True, capture_output=True, text=True
    )
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            taken[name].append(seconds(command))
    print(f"{platform.machine()}, Python {platform.python_version()}, n={ROUNDS} each, interleaved")
    for name, times in taken.items():
        print(f"{name:<16} median {statistics.median(times):.3f} s, {min(times):.3f} to {max(times):.3f}")
    print(json.dumps({"heavy_modules_loaded_by_a_recipe_check": loaded.stdout.strip()}))
    slow = [name for name in ("import planish", "planish --help") if statistics.median(taken[name]) > BAR_SECONDS]
    return 1 if slow or loaded.stdout.strip() != "[]" else 0


if __name__ == "__main__":
    sys.exit(main())
