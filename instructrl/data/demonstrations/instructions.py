"""Tokenized instructions, one of which is sampled per episode."""

import numpy as np

from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.text.tokenizer import Tokenizer


class InstructionTable:
    """The instructions of every episode; each distinct one is tokenized once. Picklable.

    Attributes:
        counts: number of instructions of each episode, int64.
        distinct: the P distinct instructions, sorted.
        tokens: P L, int32.
        padding: P L, float32, 1 where a token is padding.
    """

    def __init__(self, episodes: DemonstrationDataset, tokenizer: Tokenizer, *, limit: int | None = None) -> None:
        """Tokenize the instructions; `limit` (>= 1) selects the first ones of each episode only.

        Raises:
            InputError: an instruction has too many tokens.
        """
        selected = [episodes.instructions(episode)[:limit] for episode in range(len(episodes))]
        self.counts = np.array([len(texts) for texts in selected], np.int64)
        self.distinct = sorted({text for texts in selected for text in texts})
        row_of = {text: row for row, text in enumerate(self.distinct)}
        self.rows = [np.array([row_of[text] for text in texts], np.int64) for texts in selected]
        self.tokens, self.padding = tokenizer(self.distinct)

    def row(self, episode: int, choice: int) -> int:
        """Return the index into `distinct` of an episode's instruction number `choice` in [0, counts)."""
        return int(self.rows[episode][choice])
