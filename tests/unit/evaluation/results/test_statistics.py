import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrl.evaluation.results.statistics import mean_interval, seeds_interval, student_interval, wilson_interval

counts = st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts)
def test_interval_holds_the_rate_and_stays_a_probability(count: tuple[int, int]) -> None:
    successes, episodes = count
    low, high = wilson_interval(successes, episodes)
    assert 0 <= low <= successes / episodes <= high <= 1
    assert low < high


@given(counts, st.integers(2, 50))
def test_more_episodes_of_the_same_rate_say_more(count: tuple[int, int], factor: int) -> None:
    low, high = wilson_interval(*count)
    closer_low, closer_high = wilson_interval(count[0] * factor, count[1] * factor)
    assert closer_high - closer_low < high - low


@given(counts)
def test_failures_mirror_successes(count: tuple[int, int]) -> None:
    low, high = wilson_interval(*count)
    mirrored = wilson_interval(count[1] - count[0], count[1])
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(
    ("successes", "episodes", "expected"),
    [  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_published_values(successes: int, episodes: int, expected: tuple[float, float]) -> None:
    assert wilson_interval(successes, episodes) == pytest.approx(expected, abs=5e-5)


@given(counts)
def test_the_interval_is_where_the_score_test_rejects(count: tuple[int, int]) -> None:
    """Its ends are the rates p with |successes / episodes - p| = z * sqrt(p (1 - p) / episodes) (Wilson 1927)."""
    successes, episodes = count
    z = 1.959963984540054
    for end in wilson_interval(successes, episodes):
        assert (successes / episodes - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / episodes, abs=1e-12)


def test_nothing_tried_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="3 successes in 2 episodes"):
        wilson_interval(3, 2)


@given(st.lists(counts, min_size=1, max_size=80))
def test_the_interval_of_a_mean_holds_it_and_stays_a_probability(some: list[tuple[int, int]]) -> None:
    low, high = mean_interval(some)
    assert 0 <= low <= high <= 1
    assert low < high
    rate = sum(successes / episodes for successes, episodes in some) / len(some)
    assert low - 1e-12 <= rate <= high + 1e-12


@given(st.lists(counts, min_size=1, max_size=20))
def test_the_mean_of_failures_mirrors_that_of_successes(some: list[tuple[int, int]]) -> None:
    low, high = mean_interval(some)
    mirrored = mean_interval([(episodes - successes, episodes) for successes, episodes in some])
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@given(counts)
def test_the_mean_of_one_rate_is_the_rate(count: tuple[int, int]) -> None:
    assert mean_interval([count]) == wilson_interval(*count)


def test_the_interval_of_a_mean_by_hand() -> None:
    """Each rate with 2/3 added to both sides: 0.5, 0.852941, 0.941176 of 11.3333 episodes."""
    assert mean_interval([(5, 10), (9, 10), (10, 10)]) == pytest.approx((0.637330, 0.892082), abs=5e-6)


@pytest.mark.parametrize("tasks", [2, 3, 10, 18])
@pytest.mark.parametrize("episodes", [25, 200])
@pytest.mark.parametrize("rates", [(0.0, 1.0), (0.9, 1.0), (0.0, 0.05), (0.5, 0.5)])
def test_the_interval_of_a_mean_covers_what_it_says(tasks: int, episodes: int, rates: tuple[float, float]) -> None:
    rng = np.random.default_rng(7)
    true = rng.uniform(*rates, (800, tasks))
    drawn = rng.binomial(episodes, true)
    intervals = [mean_interval([(int(successes), episodes) for successes in row]) for row in drawn]
    held = [low <= rate <= high for (low, high), rate in zip(intervals, true.mean(axis=1), strict=True)]
    assert sum(held) / len(held) >= 0.915, "95 % less what 800 draws and a discrete count allow"


@pytest.mark.parametrize("counts", [[], [(0, 0)], [(1, 2), (3, 2)]])
def test_a_mean_of_nothing_is_refused(counts: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="at least once"):
        mean_interval(counts)


def test_students_interval_is_that_of_the_tables() -> None:
    low, high = student_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-6)
    assert student_interval([3.0]) is None
    with pytest.raises(ValueError):
        student_interval([])


def test_the_interval_over_seeds_holds_what_seeds_and_episodes_leave_open() -> None:
    episodes = mean_interval([(20, 20), (20, 20), (20, 20)])
    assert seeds_interval([1.0, 1.0, 1.0], [(20, 20)] * 3) == episodes, "seeds that agree by coincidence"
    low, high = seeds_interval([0.4, 0.5, 0.6], [(400, 1000), (500, 1000), (600, 1000)])
    assert (low, high) == pytest.approx(
        (0.5 - 0.1 * 4.302653 / math.sqrt(3), 0.5 + 0.1 * 4.302653 / math.sqrt(3)), abs=1e-6
    )
    assert seeds_interval([0.25], [(5, 20)]) == wilson_interval(5, 20)
    assert seeds_interval([0.0, 1.0], [(0, 5), (5, 5)]) == (0.0, 1.0)
