"""Builder of episodes, of which each worker process has one: it imports little, so that they start fast."""

from collections.abc import Callable

from data_tools.convert.skip_report import Converted, Skipped, SkippedError, SkipReason
from instructrl.errors import InputError
from instructrl.types import Demonstration

Make = Callable[[], Demonstration | Converted]
ERRORS = (  # to which invalid values of an episode lead
    *(SkippedError, InputError),
    *(ValueError, TypeError, OverflowError, LookupError, AttributeError, OSError),
)


class EpisodeBuilder:
    """Builds episodes; each worker process has one."""

    def build(self, make: Make) -> Converted | Skipped:
        """Build an episode; whatever error its values lead to makes it a skipped one."""
        try:
            made = make()
            return Converted(made) if isinstance(made, Demonstration) else made
        except ERRORS as error:
            return skipped_for(error)


def skipped_for(error: Exception) -> Skipped:
    """The reason for skipping an episode, whatever error its values led to."""
    if isinstance(error, SkippedError):
        return Skipped(error.reason, error.text)
    text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    return Skipped(SkipReason.NUMBERS, text)
