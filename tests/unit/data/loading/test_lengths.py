"""Lengths of batches: few, enough for every batch, and fewer steps are computed than with the longest alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrl.data.loading.lengths import MANY_BATCHES, MOST, WORTH, batch_lengths, padded_length


def test_one_long_episode_does_not_lengthen_all_batches() -> None:
    longest = np.full(200, 5)
    longest[17] = 23
    assert batch_lengths(longest, 23) == (5, 23)


def test_lengths_of_many_tasks_are_few() -> None:
    longest = np.repeat([2, 3, 5, 6, 9, 14, 22], 30)
    assert batch_lengths(longest, 25) == (3, 9, 14, 25)


def test_where_little_is_saved_one_program_is_compiled() -> None:
    assert batch_lengths(np.repeat([7, 8], 100), 8) == (8,)
    assert batch_lengths(np.repeat([1, 23], MANY_BATCHES // 2 - 1), 23) == (23,), "an epoch of few batches"
    assert batch_lengths(np.ones(300, np.int64), 1) == (1,)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=120), st.integers(0, 10))
def test_every_batch_fits_and_each_length_saves_its_share(longest: list[int], more: int) -> None:
    of_batches, steps = np.array(longest), max(longest) + more
    lengths = batch_lengths(of_batches, steps)
    assert lengths == tuple(sorted(set(lengths))) and lengths[-1] == steps and len(lengths) <= MOST
    padded = padded_length(of_batches, lengths)
    assert (padded >= of_batches).all() and set(padded.tolist()) <= set(lengths)
    assert padded.sum() <= (1 - WORTH) ** (len(lengths) - 1) * steps * len(longest) * (1 + 1e-9)


@pytest.mark.parametrize("longest", [3, 4, 5, 8])
def test_the_shortest_that_fits(longest: int) -> None:
    assert padded_length(np.array([longest]), (3, 5, 8)).tolist() == [{3: 3, 4: 5, 5: 5, 8: 8}[longest]]
