import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrl.evaluation.statistics import wilson_interval

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


def test_nothing_tried_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="3 successes in 2 episodes"):
        wilson_interval(3, 2)
