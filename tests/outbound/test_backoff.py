"""The delay before the next try."""

from __future__ import annotations

from outbound.backoff import retry_delay


def test_retry_delay_doubles_up_to_a_ceiling() -> None:
    delays = [retry_delay(n, 60.0, lambda: 1.0) for n in range(1, 9)]
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]
    assert retry_delay(100_000, 10.0, lambda: 1.0) == 10


def test_retry_delay_is_jittered_over_its_whole_range() -> None:
    assert [retry_delay(4, 30.0, lambda part=part: part) for part in (0.0, 0.5, 1.0)] == [0.0, 4.0, 8.0]  # type: ignore[misc]
    assert len({retry_delay(4, 30.0) for _ in range(20)}) > 1
