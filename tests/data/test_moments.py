"""Times of rows as numbers (MISSION D8, time split)."""

from __future__ import annotations

from typing import Any

import pytest

from planish.data.moments import moments
from planish.errors import InputError


@pytest.mark.parametrize(
    "given",
    [
        ["9", "10", "100"],  # as texts, "10" and "100" would come before "9"
        [9, 9.5, "10"],
        ["2023-12-01", "2024-01-02", "2024-01-02T00:00:01"],
        ["2024-01-02T01:00:00+03:00", "2024-01-01T23:30:00Z", "2024-01-02"],  # 22:00, 23:30 and 24:00 in UTC; as texts in the opposite order
        ["2023-12", "2024-01-02", "2024-02"],
    ],
)
def test_d8_times_are_in_the_order_of_time(given: list[Any]) -> None:
    found = moments(dict(zip("abc", given, strict=True)), "x")
    assert found["a"] < found["b"] < found["c"]


def test_d8_a_row_without_a_time_has_none() -> None:
    assert moments({"a": None, "b": "", "c": 1}, "x") == {"c": 1.0}


@pytest.mark.parametrize("strange", ["2/1/2024", "yesterday", True, [2024], "nan", float("inf"), 10**400])
def test_d8_a_time_that_cannot_be_compared_is_named(strange: Any) -> None:
    with pytest.raises(InputError, match=r"row b: .* is no time that can be compared") as refused:
        moments({"a": "2024-01-02", "b": strange, "c": strange}, "data.split.time_by")
    assert len(refused.value.problems) == 2


def test_d8_numbers_beside_dates_are_refused() -> None:
    with pytest.raises(InputError, match=r"holds dates \('2024-01-02' in row b\) and numbers \(7 in row a\)"):
        moments({"a": 7, "b": "2024-01-02"}, "x")
