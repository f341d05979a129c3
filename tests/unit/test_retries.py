"""Waits between attempts: only between two, doubled and bounded, and never the same for all processes."""

import time

import pytest

from instructrl.retries import attempts


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


def test_waits_are_doubled_up_to_a_bound(waits: list[float]) -> None:
    assert [*attempts(5, first_wait=1, longest_wait=3)] == [False, False, False, False, True]
    for wait, most in zip(waits, (1, 2, 3, 3), strict=True):
        assert most / 2 <= wait <= most


def test_success_waits_no_longer(waits: list[float]) -> None:
    for _ in attempts(5, first_wait=1):
        break
    assert [*attempts(1, first_wait=1)] == [True] and waits == []


def test_processes_that_failed_together_do_not_try_again_together(waits: list[float]) -> None:
    for _ in range(8):
        assert len([*attempts(2, first_wait=1)]) == 2
    assert len({*waits}) == 8
