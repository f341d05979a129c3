"""Mapping between the rows of a feature cache and episodes, instructions and steps.

A view is a frame that may be observed in an episode: mostly those at which its actions are taken, its steps.
An item is one view (the images of all cameras) with one instruction: the encoder's input for one row of views, one row
of text, or one of each. Items are computed in batches that begin at multiples of the batch size, independent of which
are missing, so that a repaired cache is bit-identical to one computed in a single pass.
"""

import numpy as np

from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.demonstrations.instructions import InstructionTable


class RowLayout:
    """Rows of views by (episode, instruction, view), or (episode, view) unless `joint`; rows of text by instruction.

    Attributes:
        views: number of rows of views.
        texts: number of rows of text, 0 if instructions are not encoded separately.
        first_text: item of the first row of text; item n is that of row n of views.
        items: number of items.
    """

    def __init__(
        self, episodes: DemonstrationDataset, instructions: InstructionTable, *, joint: bool, texts: bool
    ) -> None:
        self.instructions, self.joint = instructions, joint
        self.counts, self.cameras = episodes.view_counts.copy(), len(episodes.cameras)
        per_episode = self.counts * instructions.counts if joint else self.counts
        self._first = np.cumsum(per_episode) - per_episode
        self.views = int(per_episode.sum())
        self.texts = len(instructions.distinct) if texts else 0
        self.first_text = self.views if joint else 0
        self.items = max(self.views, self.first_text + self.texts)

    def matches(self, episodes: DemonstrationDataset, instructions: InstructionTable) -> bool:
        """Return True if the layout is that of these episodes and instructions."""
        if not np.array_equal(self.counts, episodes.view_counts):
            return False
        ours, theirs = self.instructions, instructions
        same = ours.distinct == theirs.distinct and np.array_equal(ours.counts, theirs.counts)
        return same or not (self.joint or self.texts)

    def rows(self, episode: int, choice: int) -> slice:
        """Return the rows of all views of an episode with its instruction number `choice`."""
        first, count = int(self._first[episode]), int(self.counts[episode])
        first += choice * count if self.joint else 0
        return slice(first, first + count)

    def view(self, row: int) -> tuple[int, int, int]:
        """Return episode, number of its instruction and of its view of a row of views; the inverse of `rows`."""
        episode = int(np.searchsorted(self._first, row, side="right")) - 1
        choice, view = divmod(row - int(self._first[episode]), int(self.counts[episode]))
        return episode, choice, view

    def instruction(self, item: int) -> int:
        """Return the index of an item's instruction among the distinct ones; 0 if the encoder ignores it."""
        if 0 <= item - self.first_text < self.texts:
            return item - self.first_text
        if not self.joint:
            return 0
        episode, choice, _ = self.view(item)
        return self.instructions.row(episode, choice)

    def row_ranges(self, begin: int, end: int) -> tuple[slice, slice]:
        """Return the rows of views and of text of items `begin` to `end`."""
        texts = (min(max(item - self.first_text, 0), self.texts) for item in (begin, end))
        return slice(min(begin, self.views), min(end, self.views)), slice(*texts)
