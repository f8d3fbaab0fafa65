"""What is made of a file does not depend on how many processes make it: rows, refusals, findings, split and tokens are the same to the byte (MISSION D2, D6, D9, K6)."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.model.chat_families import chat

from planish.data import parallel
from planish.data.parallel import may_fork

APART = "PLANISH_TEST_APART"
WORDS = [f"{a}{b}{c}" for a in "bdgkmprstv" for b in "aeiou" for c in ("n", "l", "st", "rk", "sh")]

RUN = """
import hashlib, json, sys
from pathlib import Path
from planish.data import containers, parallel
from planish.data.reading import read_rows
from planish.data.task import make
from planish.model import tokenise
from planish.recipe_data import SplitSection
from planish.recipe_keys import Use
from planish.stages._examined import Places, examine
from planish.data import traces

file, model, work, cores = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
pools, start = [], parallel.ProcessPoolExecutor
parallel.ProcessPoolExecutor = lambda *given, **more: pools.append(1) or start(*given, **more)
parallel.cores = lambda: cores
containers.BLOCK, parallel.CHUNK, tokenise.CHUNK = 1 << 14, 100, 64
parallel.map_chunks.__kwdefaults__["chunk"] = 100
checks = ("duplicates", "near_duplicates", "label_conflicts", "lengths", "leakage")
examined = examine(read_rows(file), make("chat"), [Use(name=name) for name in checks], Places(SplitSection()), lambda: None)
store = tokenise.build(examined.reading.accepted, tokenise.How(model, max_length=170), work)
digest = hashlib.sha256()
for path in sorted(store.folder.iterdir()):
    digest.update(path.name.encode() + path.read_bytes())
for row in examined.reading.rejected:
    digest.update(row.model_dump_json().encode())
for line in examined.reading.accepted.lines():
    digest.update(line)
found = {name: [result.figures, [finding.model_dump(mode="json") for finding in result.findings]] for name, result in examined.found.items()}
digest.update(json.dumps([found, list(examined.split.assignment.items())], sort_keys=True).encode())
codes = sorted({row.code for row in examined.reading.rejected} | {fault.code for fault in store.faults})
print(json.dumps({"pools": len(pools), "hash": digest.hexdigest(), "rows": len(store), "codes": codes}))
"""


def _rows(path: Path) -> None:
    draw = random.Random(3)
    held: list[tuple[str, str]] = []
    with path.open("w", encoding="utf-8") as out:
        for number in range(600):
            asked, said = (" ".join(draw.choices(WORDS, k=draw.randint(8, 16))) for _ in range(2))
            if number % 50 == 20:
                asked, said = held[number // 2]
            elif number % 50 == 21:
                asked, said = held[number // 2][0] + " again", held[number // 2][1]
            elif number % 50 == 22:
                asked = held[number // 2][0]
            held.append((asked, said))
            turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said if number % 40 else f"<|im_end|> {said} 12 é"}]
            turns += [{"role": "user", "content": ""}] if number % 60 == 7 else []
            out.write(json.dumps({"messages": turns, "id": number % 550, "source": "a"}, ensure_ascii=number % 2 == 0) + "\n")


def test_two_processes_make_what_one_makes(tmp_path: Path) -> None:
    _rows(tmp_path / "rows.jsonl")
    chat("chatml").save(tmp_path / "model")
    made = []
    for cores in (1, 2):
        command = [sys.executable, "-c", RUN, str(tmp_path / "rows.jsonl"), str(tmp_path / "model"), str(tmp_path / f"store{cores}"), str(cores)]
        made.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    one, two = made
    assert (one.pop("pools"), two.pop("pools")) == (0, 2)  # reading, tokens
    assert one == two
    assert {"duplicate", "near_duplicate", "role_order"} <= set(one["codes"])
    assert one["rows"] > 300


def ran_apart(request: pytest.FixtureRequest) -> bool:
    """Whether the test has run, and passed, in a process of its own: here another one left a thread that works, beside which nothing may be forked."""
    if may_fork():
        return False
    assert APART not in os.environ, "a fresh process has a thread that works"
    name = request.node.nodeid.partition("::")[2]
    asked = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", f"{Path(__file__)}::{name}"]
    done = subprocess.run(asked, cwd=request.config.rootpath, env={**os.environ, APART: "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")
@pytest.mark.parametrize(("daemon", "sleeps", "may"), [(True, True, True), (True, False, False), (False, True, False)])
def test_only_threads_that_sleep_may_stay(daemon: bool, sleeps: bool, may: bool, request: pytest.FixtureRequest) -> None:
    """Progress bars and telemetry leave threads behind that wait to be woken; one that works, or that is waited for, forbids a fork."""
    if ran_apart(request):
        return
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            sum(range(1000))

    thread = threading.Thread(target=done.wait if sleeps else work, daemon=daemon)
    thread.start()
    time.sleep(0.1)
    assert may_fork() == may
    done.set()
    thread.join()


@pytest.mark.parametrize("size", [10, 5000])
def test_what_is_too_large_for_a_slot_comes_too(size: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """And what is left in a slot is taken out before another process may write there."""
    if ran_apart(request):
        return
    monkeypatch.setattr(parallel, "SLOT", 2048)
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    made = list(parallel.map_chunks(lambda part: [bytes([number]) * size for number in part], range(100), chunk=3))
    assert [text for part in made for text in part] == [bytes([number]) * size for number in range(100)]


def test_an_error_in_a_process_is_raised_here(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if ran_apart(request):
        return
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        list(parallel.map_chunks(lambda part: [1 // (number - 50) for number in part], range(100), chunk=3))
