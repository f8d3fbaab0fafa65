"""Python text may be read by several threads at once: shelf files while tensors are merged side by side, answers while a server has many."""

import ast
import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from planish import python_source, shelf
from planish.data.said_calls import said_calls


@pytest.fixture
def crowded() -> Iterator[None]:
    """Every collection gives the next thread its turn, in the middle of a tree that is being built: there CPython 3.11 fails within a tenth of a second."""

    def give_way(*_: Any) -> None:
        time.sleep(0)

    before = gc.get_threshold()
    gc.callbacks.append(give_way)
    gc.set_threshold(50)
    yield
    gc.callbacks.remove(give_way)
    gc.set_threshold(*before)


def _together(work: Any) -> list[Any]:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda _: [work() for _ in range(10)], range(4)))


def test_four_threads_parse_the_same_file(crowded: None) -> None:
    text = Path(str(python_source.__file__)).read_text(encoding="utf-8") * 20
    once = ast.dump(python_source.parsed(text))
    assert {ast.dump(tree) for trees in _together(lambda: python_source.parsed(text)) for tree in trees} == {once}


def test_four_threads_read_a_shelf_for_the_first_time(crowded: None) -> None:
    shelf.shelf.cache_clear()
    found = _together(lambda: sorted(shelf.shelf("transforms")))
    assert "ties" in found[0][0]
    assert all(names == found[0][0] for each in found for names in each)


def test_four_threads_read_the_calls_of_an_answer(crowded: None) -> None:
    answer = "[" + ", ".join(f'weather(city="city {index}", days={index})' for index in range(40)) + "]"
    assert {len(said.calls) for each in _together(lambda: said_calls(answer)) for said in each} == {40}
