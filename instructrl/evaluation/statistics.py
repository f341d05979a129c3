"""What counted episodes say about the success rate behind them."""

import math

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
