"""Tokens of the policy: the kinds of each step, in their order, and which of them attend to which."""

from enum import IntEnum

import numpy as np


class TokenKind(IntEnum):
    """Kind of a token."""

    OBSERVATION = 0  # a camera or a state value
    PREDICTION = 1
    ACTION = 2


def step_kinds(observations: int) -> np.ndarray:
    """Kinds of one step's tokens: `observations` times OBSERVATION, then PREDICTION, then ACTION."""
    return np.array([TokenKind.OBSERVATION] * observations + [TokenKind.PREDICTION, TokenKind.ACTION])


def attends(
    step: np.ndarray, kind: np.ndarray, key_step: np.ndarray, key_kind: np.ndarray, *, window: int | None
) -> np.ndarray:
    """True where a token of `step` and `kind` attends to another of `key_step` and `key_kind`; arrays broadcast.

    Every token attends to the observations of its own step and to the observations and actions of all earlier steps.
    No token attends to the prediction of another, nor to the action of its own step, so that a prediction never sees
    its target. With a `window`, only predictions attend to earlier steps (`window - 1` of them): otherwise older
    steps would leak through the layers. That prediction and action tokens also attend to themselves is left out here.
    """
    age = step - key_step
    past = (age > 0) & (key_kind != TokenKind.PREDICTION)
    if window is not None:
        past &= (age < window) & (kind == TokenKind.PREDICTION)
    return past | ((age == 0) & (key_kind == TokenKind.OBSERVATION))


def attention_mask(steps: int, observations: int, *, window: int | None = None) -> np.ndarray:
    """Block-causal mask of whole sequences, bool [S, S]: True if the row's token attends to the column's."""
    kind = np.tile(step_kinds(observations), steps)
    step = np.repeat(np.arange(steps), observations + 2)
    mask = attends(step[:, None], kind[:, None], step[None, :], kind[None, :], window=window)
    return mask | np.eye(len(kind), dtype=bool)
