"""Allowance of memory and time for reading a file: whatever copies, hashes or converts its content is charged to it."""

import math
from collections import Counter
from typing import Any

import numpy as np

MAX_KEY_SIZE = 1000  # elements of a dict's key: bounds the recursion depth of hashing
MAX_DIMENSIONS = 32
MAX_EMPTY = 1 << 31  # product of an empty array's other sizes: beyond an index, numpy raises any error
FREE_LENGTH = 64  # characters, bytes or bits that take no time worth charging
LARGEST_INT = 1 << 60  # of larger integers, any number may have the same hash
PLAIN = (str, bytes, bool, float, type(None))  # of these keys, nobody can choose many with the same hash
FREE_COLLISIONS = 16


class RefusedError(Exception):
    """The content is valid, but of a kind that is refused."""


class Budget:
    """Allowance for a file of a given size.

    A unit is a byte to allocate, or an element to hash or compare. A valid file needs at most two per byte (text,
    bytes, array); one that uses the same content again and again needs more.
    """

    def __init__(self, size: int) -> None:
        self.size, self.left = size, 2 * size
        self.hashes: Counter[int] = Counter()  # of the keys that may collide

    def spend(self, units: int) -> None:
        """Raise RefusedError if the rest of the allowance does not suffice."""
        self.left -= units
        if self.left < 0:
            raise RefusedError(
                f"found content that is used so often that reading it takes far more than its {self.size} bytes; "
                "it is not read"
            )

    def check_key(self, key: Any) -> Any:
        """Return a dict's key or a set's member if hashing it is safe, and charge what that takes.

        Raises:
            RefusedError: it has too many elements, or the allowance is used up. TypeError: it is mutable.
        """
        pending, count, units = [key], 1, 0
        while pending:
            part = pending.pop()
            if type(part) in (tuple, frozenset):
                count += len(part)
                if count > MAX_KEY_SIZE:
                    raise RefusedError("found a key with too many elements; it is not read")
                pending.extend(part)
            elif type(part) in (str, bytes):
                units += len(part) // FREE_LENGTH
            elif type(part) is int:
                units += part.bit_length() // FREE_LENGTH
            elif isinstance(part, list | dict | set | bytearray | np.ndarray):
                raise TypeError("a mutable key")
        self.spend(count - 1 + units)
        if type(key) not in PLAIN and not (type(key) is int and abs(key) < LARGEST_INT):
            # Each is compared with the earlier ones of the same hash.
            self.hashes[hash(key)] += 1
            self.spend(self.hashes[hash(key)] // FREE_COLLISIONS)
        return key


def check_shape(shape: tuple[Any, ...]) -> int:
    """Return the number of elements of an array.

    Raises:
        ValueError: a size is not an integer >= 0.
        RefusedError: too many dimensions, or an empty array whose other sizes are beyond what numpy can handle.
    """
    if len(shape) > MAX_DIMENSIONS:
        raise RefusedError(f"found an array of {len(shape)} dimensions; allowed: at most {MAX_DIMENSIONS}")
    if any(type(size) is not int or not 0 <= size < 1 << 63 for size in shape):
        raise ValueError("not a shape")
    if 0 in shape and math.prod(size for size in shape if size) > MAX_EMPTY:
        raise RefusedError(
            f"found an empty array of shape {shape}; allowed: a product of at most {MAX_EMPTY} without the zeros; "
            "download the file again"
        )
    return math.prod(shape)
