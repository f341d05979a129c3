"""Selection of parameters by path patterns, such as `encoder/block_0/mix/kernel`.

In a pattern `*` matches any characters including slashes, `?` one character and `[ab]` one of several. A pattern
matches the parameters at and below a path: `policy/block_0` is the entire block, `*/bias` every bias.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import jax
from jax.tree_util import KeyPath

from instructrl.config.fields import format_value
from instructrl.errors import InputError
from instructrl.training.types import Params

MAX_EXAMPLES = 6  # paths listed in an error message


def path_of(keys: KeyPath) -> str:
    """The slash-separated path of a leaf."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def paths(tree: Params) -> list[str]:
    """The path of every leaf, in the order of the leaves."""
    return [path_of(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(tree)]


def matches(path: str, pattern: str) -> bool:
    """Return True if a pattern matches a leaf's path or the path of a subtree that contains it."""
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}/*")


def pattern_mask(tree: Params, patterns: Sequence[str], *, key: str) -> Params:
    """A tree like `tree` (of parameters or shapes) with True where a pattern matches the leaf, else False.

    Raises:
        InputError: a pattern matches no leaf; `key` is the setting with the patterns.
    """
    known = paths(tree)
    for pattern in patterns:
        if not any(matches(path, pattern) for path in known):
            raise InputError(
                f"{key}: found {format_value(pattern)}, which no parameter matches; there are {example_paths(known)}"
            )
    return jax.tree_util.tree_map_with_path(
        lambda keys, _: any(matches(path_of(keys), pattern) for pattern in patterns), tree
    )


def example_paths(known: Sequence[str]) -> str:
    """A few evenly spaced paths, for an error message."""
    step = max(1, -(-len(known) // MAX_EXAMPLES))
    listed = known[::step]
    return ", ".join(listed) + (f" and {len(known) - len(listed)} more" if len(listed) < len(known) else "")
