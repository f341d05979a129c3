"""What counted episodes say about the success rate behind them."""

import math
from collections.abc import Sequence

_Z = 1.959963984540054  # two-sided 95 %


def wilson_interval(successes: int, episodes: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a success rate; (0, 1) where nothing was tried.

    Raises:
        ValueError: counts that cannot be.
    """
    if not 0 <= successes <= episodes:
        raise ValueError(f"found {successes} successes in {episodes} episodes, expected 0 <= successes <= episodes")
    if episodes == 0:
        return 0.0, 1.0
    rate, z2 = successes / episodes, _Z * _Z
    centre = (rate + z2 / (2 * episodes)) / (1 + z2 / episodes)
    half = _Z * math.sqrt(rate * (1 - rate) / episodes + z2 / (4 * episodes**2)) / (1 + z2 / episodes)
    # rounding must not push an end past the rate itself, which it touches at 0 and at 1
    return min(rate, max(0.0, centre - half)), max(rate, min(1.0, centre + half))


def mean_interval(counts: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """The 95 % interval of the mean of several success rates, from (successes, episodes) of each.

    The Wilson intervals combined by the squares of their halves (MOVER: Zou, Huang and Zhang 2009, "A note on
    confidence interval estimation for a linear function of binomial proportions"). It is Wilson's own for one rate, and
    unlike the normal approximation it keeps a width where all rates are 0 or 1.

    Raises:
        ValueError: no rates, or counts that cannot be.
    """
    if not counts:
        raise ValueError("found no rates, expected at least one")
    below = above = total = 0.0
    for successes, episodes in counts:
        low, high = wilson_interval(successes, episodes)
        rate = successes / episodes if episodes else 0.5
        total, below, above = total + rate, below + (rate - low) ** 2, above + (high - rate) ** 2
    number = len(counts)
    return max(0.0, (total - math.sqrt(below)) / number), min(1.0, (total + math.sqrt(above)) / number)
