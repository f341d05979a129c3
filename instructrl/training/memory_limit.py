"""Check of the limit of address space, beyond which XLA ends the process without a message of use. Needs no jax."""

import os
import resource

from instructrl.errors import InputError

BASE_BYTES = 2_600_000_000  # measured: the smallest training runs with 3 GB on two cores, and aborts with 2 GB
BYTES_PER_CORE = 200_000_000  # stacks and heaps of the threads that XLA starts


def check_memory_limit() -> None:
    """Raise InputError if the limit of address space (ulimit -v, RLIMIT_AS) is too small for any model.

    Address space is not memory: libraries reserve much more of it than they use.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    needed = BASE_BYTES + BYTES_PER_CORE * (os.cpu_count() or 1)
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise InputError(
            f"memory limit: found {limit / 1e9:.1f} GB of address space (ulimit -v, RLIMIT_AS); allowed: at least "
            f"{needed / 1e9:.1f} GB here; run ulimit -v unlimited first"
        )
