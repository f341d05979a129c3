"""Selection of the evaluated task variations, and their description as text."""

from collections.abc import Iterable, Sequence

import numpy as np

from instructrl.config.evaluation import ProtocolConfig
from instructrl.config.fields import format_value, number_ranges
from instructrl.errors import InputError

_LONG = 24  # characters; a longer list of numbers is replaced by its length


def evaluated_variations(protocol: ProtocolConfig, task: str, *, trained: Sequence[int], count: int) -> tuple[int, ...]:
    """The variations that a protocol evaluates, in evaluation order; the task has `count` variations.

    Raises:
        InputError: the task has no such variation, or no variation outside the training data.
    """
    requested = protocol.variations
    if requested == "all":
        chosen = list(range(count))
    elif requested == "trained":
        chosen = list(trained)
    elif requested == "held_out":
        chosen = [variation for variation in range(count) if variation not in set(trained)]
        if not chosen:
            raise InputError(
                f"protocol.variations: found held_out; allowed for {task}: all, trained, or a list, "
                f"since the run was trained on all its {count} variations"
            )
    else:
        chosen = list(requested)
        if max(chosen) >= count:
            raise InputError(
                f"protocol.variations: found {format_value(requested)}; allowed for {task}: 0 to {count - 1}"
            )
    if protocol.order == "shuffled":
        return tuple(int(one) for one in np.random.default_rng(protocol.seed).permutation(chosen))
    return tuple(chosen)


def format_ranges(variations: Iterable[int]) -> str:
    """Numbers with consecutive ones as ranges: 0, 3, 5-9."""
    return ", ".join(
        f"{first}-{last}" if first < last else str(first) for first, last in number_ranges(sorted(variations))
    )


def format_variations(variations: Sequence[int]) -> str:
    """The variations as text: their numbers, or their count if that would be long."""
    if len(format_ranges(variations)) > _LONG:
        return f"{len(variations)} variations"
    return f"{'variation' if len(variations) == 1 else 'variations'} {format_ranges(variations)}"


def coverage(evaluated: Sequence[int], *, trained: Sequence[int], count: int) -> str:
    """Caveat for a success rate over a subset of a task's variations; empty if all were evaluated."""
    if len(set(evaluated)) == count:
        return ""
    unseen = "" if set(evaluated) & set(trained) else ", none of them trained"
    if len(format_ranges(evaluated)) > _LONG:
        return f"on {len(evaluated)} of {count} variations only{unseen}"
    return f"on {format_variations(evaluated)} of {count} only{unseen}"
