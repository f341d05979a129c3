"""The sentences of which each episode is asked with one at a time, as tokens."""

import numpy as np

from instructrl.data.episodes import Episodes
from instructrl.data.tokenizer import Tokenizer


class Sentences:
    """The sentences in use of every episode; each distinct one is tokenised once. Can be pickled.

    Attributes:
        counts: sentences in use of each episode, int64.
        distinct: all of them in alphabetical order, P.
        rows: which of `distinct` each episode's sentences are, one episode after another, int64.
        tokens: P L, int32.
        padding: P L, float32, 1 where a token is padding.
    """

    def __init__(self, episodes: Episodes, tokenizer: Tokenizer, *, limit: int | None = None) -> None:
        """`limit` (>= 1) keeps the first sentences of each episode only.

        Raises:
            InputError: a sentence has too many tokens.
        """
        in_use = [episodes.sentences(episode)[:limit] for episode in range(len(episodes))]
        self.counts = np.array([len(sentences) for sentences in in_use], np.int64)
        self.distinct = sorted({sentence for sentences in in_use for sentence in sentences})
        row_of = {sentence: row for row, sentence in enumerate(self.distinct)}
        self.rows = np.array([row_of[sentence] for sentences in in_use for sentence in sentences], np.int64)
        self._first = np.cumsum(self.counts) - self.counts
        self.tokens, self.padding = tokenizer(self.distinct)

    def row(self, episode: int, choice: int) -> int:
        """Which of `distinct` an episode's sentence number `choice` in [0, counts) is."""
        return int(self.rows[self._first[episode] + choice])
