"""Token order and attention mask of the policy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrl.models.token_order import TokenKind, attention_mask, step_kinds


def format_mask(mask: np.ndarray, observations: int) -> str:
    """Format the mask as text, a row per token: o observation, p prediction, a action, # attends, . does not."""
    kinds = np.tile(step_kinds(observations), len(mask) // (observations + 2))
    letters = [
        {TokenKind.OBSERVATION: "o", TokenKind.PREDICTION: "p", TokenKind.ACTION: "a"}[TokenKind(kind)]
        for kind in kinds
    ]
    rows = [
        letter + " " + "".join("#" if attends else "." for attends in row)
        for letter, row in zip(letters, mask, strict=True)
    ]
    return "\n".join(["  " + "".join(letters), *rows])


def test_the_mask_of_two_steps_is_as_drawn():
    mask = attention_mask(2, 2)
    assert format_mask(mask, 2).splitlines() == [
        "  oopaoopa",
        "o ##......",
        "o ##......",
        "p ###.....",
        "a ##.#....",
        "o ##.###..",
        "o ##.###..",
        "p ##.####.",
        "a ##.###.#",
    ]


@given(steps=st.integers(1, 6), observations=st.integers(1, 5), window=st.none() | st.integers(1, 7))
def test_no_look_ahead_and_no_look_beyond_the_window(steps, observations, window):
    mask = attention_mask(steps, observations, window=window)
    kinds = np.tile(step_kinds(observations), steps)
    step = np.repeat(np.arange(steps), observations + 2)
    rows, columns = np.nonzero(mask)
    age = step[rows] - step[columns]
    assert (age >= 0).all()
    assert (age < (window or steps)).all()
    others = rows != columns
    assert not (kinds[columns] == TokenKind.PREDICTION)[others].any()
    assert not ((kinds[columns] == TokenKind.ACTION) & (age == 0))[others].any()
    assert mask.any(axis=1).all()


@pytest.mark.parametrize("window", [1, 2])
def test_a_longer_sequence_does_not_change_the_earlier_rows(window):
    short, long = (attention_mask(steps, 3, window=window) for steps in (2, 4))
    np.testing.assert_array_equal(long[: len(short), : len(short)], short)
