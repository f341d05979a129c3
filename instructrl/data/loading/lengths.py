"""Lengths of batches: a batch is padded to one of a few, since a program is compiled for each."""

from collections.abc import Sequence

import numpy as np

MOST = 4  # lengths
WORTH = 0.1  # of the padded steps, which a further length has to save
MANY_BATCHES = 50  # of an epoch; with fewer, compiling costs more than it saves


def batch_lengths(longest: np.ndarray, steps: int) -> tuple[int, ...]:
    """Choose the lengths, in steps, to which batches are padded: those with which the fewest steps are computed.

    Args:
        longest: steps of the longest sequence of each batch of an epoch.
        steps: of the longest sequence of all.

    Returns:
        The lengths in ascending order; the last is `steps`.
    """
    chosen: tuple[int, ...] = (steps,)
    while len(chosen) < MOST and len(longest) >= MANY_BATCHES:
        candidates = [tuple(sorted({*chosen, int(length)})) for length in np.unique(longest)]
        best = min(candidates, key=lambda lengths: padded_length(longest, lengths).sum())
        if padded_length(longest, best).sum() > (1 - WORTH) * padded_length(longest, chosen).sum():
            break
        chosen = best
    return chosen


def padded_length(longest: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """The shortest of `lengths`, in ascending order, that is at least `longest` [N]."""
    return np.asarray(lengths)[np.searchsorted(lengths, longest)]
