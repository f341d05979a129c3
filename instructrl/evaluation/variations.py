"""Which of a task's variations are judged, and how that is said."""

from collections.abc import Iterable, Sequence

import numpy as np

from instructrl.config import ProtocolConfig
from instructrl.errors import InputError
from instructrl.schema import runs, shown

_LONG = 24  # characters of a list of numbers that nobody reads


def judged_variations(protocol: ProtocolConfig, task: str, *, trained: Sequence[int], count: int) -> tuple[int, ...]:
    """The variations that a protocol judges, in the order in which they come up; the task has `count`.

    Raises:
        InputError: the task has no such variation, or none that was not trained.
    """
    asked = protocol.variations
    if asked == "all":
        chosen = list(range(count))
    elif asked == "trained":
        chosen = list(trained)
    elif asked == "held_out":
        chosen = [variation for variation in range(count) if variation not in set(trained)]
        if not chosen:
            raise InputError(
                f"protocol.variations: found held_out; allowed for {task}: all, trained, or a list, "
                f"since the run was trained on all its {count} variations"
            )
    else:
        chosen = list(asked)
        if max(chosen) >= count:
            raise InputError(f"protocol.variations: found {shown(asked)}; allowed for {task}: 0 to {count - 1}")
    if protocol.order == "shuffled":
        return tuple(int(one) for one in np.random.default_rng(protocol.seed).permutation(chosen))
    return tuple(chosen)


def spelled(variations: Iterable[int]) -> str:
    """Numbers as one writes them: 0, 3, 5-9."""
    return ", ".join(f"{first}-{last}" if first < last else str(first) for first, last in runs(sorted(variations)))


def named(variations: Sequence[int]) -> str:
    """The variations by their numbers, or how many where that would be long."""
    if len(spelled(variations)) > _LONG:
        return f"{len(variations)} variations"
    return f"{'variation' if len(variations) == 1 else 'variations'} {spelled(variations)}"


def coverage(judged: Sequence[int], *, trained: Sequence[int], count: int) -> str:
    """What must be said beside a rate over some of a task's variations only; empty for one over all of them."""
    if len(set(judged)) == count:
        return ""
    unseen = "" if set(judged) & set(trained) else ", none of them trained"
    if len(spelled(judged)) > _LONG:
        return f"on {len(judged)} of {count} variations only{unseen}"
    return f"on {named(judged)} of {count} only{unseen}"
