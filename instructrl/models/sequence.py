"""The order of tokens in a policy sequence, and who may look at whom.

A step is a block of tokens: the cameras, the state values, the token that predicts, the action taken.
Letters: S tokens of the whole sequence, T steps.
"""

from enum import IntEnum

import numpy as np


class Kind(IntEnum):
    """What a token carries."""

    OBSERVATION = 0  # a camera or a state value
    PREDICTION = 1
    ACTION = 2


def step_kinds(observations: int) -> np.ndarray:
    """Kinds of one step's tokens: `observations` times OBSERVATION, then PREDICTION, then ACTION."""
    return np.array([Kind.OBSERVATION] * observations + [Kind.PREDICTION, Kind.ACTION])


def attention_mask(steps: int, observations: int, *, window: int | None = None) -> np.ndarray:
    """Block-causal mask, bool [S, S]: row may look at column.

    Every token sees the observations of its own step and the observations and actions of all steps before.
    Prediction and action tokens also see themselves; nobody else sees a prediction, and nobody sees the
    action of its own step, so that a prediction never sees its target. With a `window`, predictions alone
    look back, `window - 1` steps: else the past would hand on its own past from layer to layer.
    """
    kind = np.tile(step_kinds(observations), steps)
    step = np.repeat(np.arange(steps), observations + 2)
    age = step[:, None] - step[None, :]
    past = (age > 0) & (kind != Kind.PREDICTION)[None, :]
    if window is not None:
        past &= (age < window) & (kind == Kind.PREDICTION)[:, None]
    present = (age == 0) & (kind == Kind.OBSERVATION)[None, :]
    return past | present | np.eye(len(kind), dtype=bool)


def drawn(mask: np.ndarray, observations: int) -> str:
    """The mask as text, one row a token: o observation, p prediction, a action, # may look, . may not."""
    kinds = np.tile(step_kinds(observations), len(mask) // (observations + 2))
    letters = [{Kind.OBSERVATION: "o", Kind.PREDICTION: "p", Kind.ACTION: "a"}[Kind(kind)] for kind in kinds]
    rows = [
        letter + " " + "".join("#" if seen else "." for seen in row) for letter, row in zip(letters, mask, strict=True)
    ]
    return "\n".join(["  " + "".join(letters), *rows])
