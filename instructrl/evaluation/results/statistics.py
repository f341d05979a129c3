"""Confidence intervals of success rates and means, and tests of paired differences."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

_Z = 1.959963984540054  # two-sided 95 %


def wilson_interval(successes: int, episodes: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a success rate; (0, 1) without episodes.

    Raises:
        ValueError: unless 0 <= successes <= episodes.
    """
    if not 0 <= successes <= episodes:
        raise ValueError(f"found {successes} successes in {episodes} episodes, expected 0 <= successes <= episodes")
    if episodes == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest  # takes seconds to import: only where an interval is computed

    interval = binomtest(successes, episodes).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(counts: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """The 95 % interval of the mean of several success rates, from (successes, episodes) of each; Wilson's for one.

    The normal approximation for a mean of binomials with 2/K successes and 2/K failures added to each of the K rates
    (Price and Bonett 2004, "An improved confidence interval for a linear function of binomial proportions"). Without
    them the interval has zero width if all rates are 0 or 1, and is far too narrow nearby.

    Raises:
        ValueError: no rates, a rate of no episodes, or impossible counts.
    """
    if not counts or not all(0 <= successes <= episodes > 0 for successes, episodes in counts):
        raise ValueError(f"found {list(counts)}, expected 0 <= successes <= episodes > 0, at least once")
    if len(counts) == 1:
        return wilson_interval(*counts[0])
    number = len(counts)
    added, rate, centre, variance = 2 / number, 0.0, 0.0, 0.0
    for successes, episodes in counts:
        shrunk = (successes + added) / (episodes + 2 * added)
        rate, centre = rate + successes / episodes / number, centre + shrunk / number
        variance += shrunk * (1 - shrunk) / (episodes + 2 * added) / number**2
    half = _Z * math.sqrt(variance)
    return min(rate, max(0.0, centre - half)), max(rate, min(1.0, centre + half))


def student_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of a mean by Student's t; None for a single value.

    Raises:
        ValueError: no values.
    """
    if len(values) < 2:
        fmean(values)
        return None
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def seeds_interval(rates: Sequence[float], counts: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """The 95 % interval of the success rate over runs that differ in their seeds.

    Student's t over the runs' rates captures the variance between seeds, but is too narrow if a few runs agree by
    coincidence, for instance all at 1.0. The result is therefore never narrower than the interval that follows from the
    number of episodes.

    Args:
        rates: of each run.
        counts: (successes, episodes) of each run, or of each of its tasks.

    Raises:
        ValueError: as `mean_interval`.
    """
    low, high = mean_interval(counts)
    seeds = student_interval(rates)
    if seeds is not None:
        low, high = min(low, seeds[0]), max(high, seeds[1])
    return max(0.0, low), min(1.0, high)


def mcnemar_test(gained: int, lost: int) -> float:
    """The two-sided p-value of McNemar's exact test: that pairs differ in either direction equally often.

    Args:
        gained: pairs of which only the second succeeds.
        lost: pairs of which only the first succeeds.
    """
    if gained + lost == 0:
        return 1.0
    from scipy.stats import binomtest  # takes seconds to import: only where a test is computed

    return float(binomtest(gained, gained + lost).pvalue)


def paired_interval(gained: int, lost: int, pairs: int) -> tuple[float, float]:
    """The 95 % interval of the difference of two success rates over the same scenes, second minus first.

    The adjusted Wald interval, with a pair added to each of the two kinds that differ (Bonett and Price 2012,
    "Adjusted Wald confidence interval for a difference of binomial proportions based on paired data").

    Raises:
        ValueError: no pairs, or impossible counts.
    """
    if not (gained >= 0 and lost >= 0 and gained + lost <= pairs and pairs > 0):
        raise ValueError(f"found {gained} and {lost} of {pairs} pairs, expected at least one pair and not more of both")
    more, less = (gained + 1) / (pairs + 2), (lost + 1) / (pairs + 2)
    half = _Z * math.sqrt((more + less - (more - less) ** 2) / (pairs + 2))
    difference = (gained - lost) / pairs
    return min(difference, max(-1.0, more - less - half)), max(difference, min(1.0, more - less + half))
