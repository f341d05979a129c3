"""Token order of a policy sequence, and its attention mask.

The tokens of a step are: cameras, state values, the prediction token, the action.
Shapes: S tokens of the entire sequence, T steps.
"""

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


def attention_mask(steps: int, observations: int, *, window: int | None = None) -> np.ndarray:
    """Block-causal mask, bool [S, S]: True if the row's token attends to the column's.

    Every token attends to the observations of its own step and to the observations and actions of all earlier steps.
    Prediction and action tokens also attend to themselves. No other token attends to a prediction, nor to the action
    of its own step, so that a prediction never sees its target. With a `window`, only predictions attend to earlier
    steps (`window - 1` of them): otherwise older steps would leak through the layers.
    """
    kind = np.tile(step_kinds(observations), steps)
    step = np.repeat(np.arange(steps), observations + 2)
    age = step[:, None] - step[None, :]
    past = (age > 0) & (kind != TokenKind.PREDICTION)[None, :]
    if window is not None:
        past &= (age < window) & (kind == TokenKind.PREDICTION)[:, None]
    present = (age == 0) & (kind == TokenKind.OBSERVATION)[None, :]
    return past | present | np.eye(len(kind), dtype=bool)


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
