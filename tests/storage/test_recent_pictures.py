"""What is kept in memory of pictures that were made last: as much as fits, for as long as it is used."""

from __future__ import annotations

import pytest

from storage.recent_pictures import RecentPictures


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def kept(clock: Clock) -> RecentPictures[str]:
    return RecentPictures(100, 60, clock)


def test_the_one_that_was_not_used_for_longest_makes_room(kept: RecentPictures[str]) -> None:
    for name in "abc":
        kept.keep(name, name.upper(), 30)
    assert kept.find("a") == "A"
    kept.keep("d", "D", 40)
    assert [kept.find(name) for name in "abcd"] == ["A", None, "C", "D"]
    kept.keep("e", "E", 100)
    assert [kept.find(name) for name in "acde"] == [None, None, None, "E"]


def test_one_that_is_too_large_is_not_kept_and_costs_no_other_its_place(kept: RecentPictures[str]) -> None:
    kept.keep("a", "A", 60)
    kept.keep("b", "B", 101)
    assert [kept.find(name) for name in "ab"] == ["A", None]


def test_the_same_again_counts_once(kept: RecentPictures[str]) -> None:
    for _ in range(5):
        kept.keep("a", "A", 50)
    kept.keep("b", "B", 50)
    assert [kept.find(name) for name in "ab"] == ["A", "B"]


def test_time_ends_what_is_not_used(kept: RecentPictures[str], clock: Clock) -> None:
    kept.keep("a", "A", 10)
    clock.now = 30
    kept.keep("b", "B", 10)
    clock.now = 59
    assert kept.find("a") == "A"
    clock.now = 91
    assert kept.drop_old() is True
    assert kept.drop_old() is False
    assert [kept.find(name) for name in "ab"] == ["A", None]
    clock.now = 151
    assert kept.find("a") is None
    kept.keep("c", "C", 100)
    assert kept.find("c") == "C"
