"""Waits between the attempts of a request that may succeed the next time."""

import math
import random
import time
from collections.abc import Iterator


def attempts(count: int, *, first_wait: float, longest_wait: float = math.inf) -> Iterator[bool]:
    """Yield once per attempt, True for the last one; sleeps between two attempts, each time about twice as long.

    Args:
        count: the largest number of attempts; leave the loop after one that succeeds.
        first_wait: seconds before the second attempt. All waits are shortened at random by up to a half, so that
            processes that failed together do not try again together.
        longest_wait: bound of a wait in seconds.
    """
    for number in range(count):
        if number:
            time.sleep(min(longest_wait, first_wait * 2 ** (number - 1)) * random.uniform(0.5, 1))
        yield number == count - 1
