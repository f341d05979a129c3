import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from instructrl.models.policy_memory import MemoryLayout, next_step
from instructrl.models.token_order import TokenKind, attention_mask, step_kinds

WINDOWS = st.none() | st.integers(1, 4)


@given(length=st.integers(1, 9), observations=st.integers(1, 4), window=WINDOWS, more=st.integers(0, 3))
def test_a_step_sees_what_it_would_see_in_the_whole_sequence(length, observations, window, more):
    capacity = (window or length) + more
    layout = MemoryLayout(observations, capacity, window, width=8)
    whole = attention_mask(length, observations, window=window)
    kinds = step_kinds(observations)
    remembered = np.full((layout.tokens, 2), -1)  # step and index within the step of each token
    for number in range(length):
        step = next_step(np.array([number]), np.array([True]), layout)
        new = [(number - (kind == TokenKind.ACTION), index) for index, kind in enumerate(kinds)]
        keys = [*map(tuple, remembered), *new]
        for row, (row_step, row_index) in enumerate(new):
            if row_step < 0:
                continue
            columns = np.flatnonzero(whole[row_step * len(kinds) + row_index])
            expected = {tuple(map(int, divmod(column, len(kinds)))) for column in columns}
            found = [keys[column] for column in np.flatnonzero(step.mask[0, row])]
            assert len(found) == len(expected) and {tuple(map(int, key)) for key in found} == expected
        for token, place in zip(new, step.destination[0], strict=True):
            if place < layout.tokens:
                remembered[place] = token


def test_nothing_is_remembered_of_an_episode_that_does_not_act_nor_seen_of_one_before():
    layout = MemoryLayout(observations=2, capacity=3, window=None, width=8)
    step = next_step(np.array([2, 2, 0]), np.array([True, False, True]), layout)
    assert (step.destination[1] == layout.tokens).all()
    assert (step.destination[0] != layout.tokens).tolist() == [True, True, False, True]
    assert not step.remembered[2].any() and not step.mask[2, :, : layout.tokens].any()
