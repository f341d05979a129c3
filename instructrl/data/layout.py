"""Which rows of a feature cache belong to which episode, sentence and step, and what is computed for them.

An item is one moment (the images of all cameras) with one sentence: what the encoder is given for one row of views,
one row of text, or one of each. Items are computed in batches that begin at multiples of the batch size, whatever
is missing, so that a repaired cache is equal, bit for bit, to one that was never disturbed.
"""

import numpy as np

from instructrl.data.episodes import Episodes
from instructrl.data.sentences import Sentences


class Layout:
    """Rows of views by (episode, sentence, step), or (episode, step) unless `joint`; rows of text by distinct sentence.

    Attributes:
        views: rows of views.
        texts: rows of text, 0 where sentences have no features of their own.
        first_text: the item that gives the first row of text; item n gives the view n, as long as there are any.
        items: what must be computed.
        digest: of the episodes.
    """

    def __init__(self, episodes: Episodes, sentences: Sentences, *, joint: bool, texts: bool) -> None:
        self.sentences, self.joint = sentences, joint
        self.lengths, self.cameras = episodes.lengths.copy(), len(episodes.cameras)
        self.digest = episodes.digest()
        per_episode = self.lengths * sentences.counts if joint else self.lengths
        self._first = np.cumsum(per_episode) - per_episode
        self.views = int(per_episode.sum())
        self.texts = len(sentences.distinct) if texts else 0
        self.first_text = self.views if joint else 0
        self.items = max(self.views, self.first_text + self.texts)

    def fits(self, episodes: Episodes, sentences: Sentences) -> bool:
        """Whether these episodes, asked with these sentences, have their rows here."""
        if self.digest != episodes.digest() or not np.array_equal(self.lengths, episodes.lengths):
            return False
        ours, theirs = self.sentences, sentences
        same = all(np.array_equal(getattr(ours, key), getattr(theirs, key)) for key in ("counts", "rows", "tokens"))
        return same or not (self.joint or self.texts)

    def rows(self, episode: int, choice: int) -> slice:
        """The views of all steps of an episode, asked with its sentence number `choice`."""
        first, length = int(self._first[episode]), int(self.lengths[episode])
        first += choice * length if self.joint else 0
        return slice(first, first + length)

    def view(self, row: int) -> tuple[int, int, int]:
        """Episode, number of its sentence and step of a row of views; the inverse of `rows`."""
        episode = int(np.searchsorted(self._first, row, side="right")) - 1
        choice, step = divmod(row - int(self._first[episode]), int(self.lengths[episode]))
        return episode, choice, step

    def sentence(self, item: int) -> int:
        """Which of the distinct sentences an item is asked with; 0 where it does not matter."""
        if 0 <= item - self.first_text < self.texts:
            return item - self.first_text
        if not self.joint:
            return 0
        episode, choice, _ = self.view(item)
        return self.sentences.row(episode, choice)

    def parts(self, begin: int, end: int) -> tuple[slice, slice]:
        """The rows of views and of text that items `begin` to `end` give."""
        texts = (min(max(item - self.first_text, 0), self.texts) for item in (begin, end))
        return slice(min(begin, self.views), min(end, self.views)), slice(*texts)
