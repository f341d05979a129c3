"""Choosing parameters by their paths, such as `encoder/block_0/mix/kernel`.

A pattern is a path in which `*` stands for any characters, slashes too, `?` for one and `[ab]` for one of some. It
means the parameters of that path and all below it: `policy/block_0` is the whole block, `*/bias` every bias.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax

from instructrl.errors import InputError
from instructrl.schema import shown

EXAMPLES = 6  # paths that an error shows


def path_of(keys: Any) -> str:
    """A leaf's path, its names joined with slashes."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def paths(tree: Any) -> list[str]:
    """The path of every leaf, in the order of the leaves."""
    return [path_of(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(tree)]


def matches(path: str, pattern: str) -> bool:
    """Whether a pattern means a leaf: by its path, or as part of a branch that it lies in."""
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}/*")


def chosen(tree: Any, patterns: Sequence[str], *, key: str) -> Any:
    """A tree like `tree`, of parameters or their shapes, with True where a pattern means the leaf and False elsewhere.

    Raises:
        InputError: a pattern means no leaf; `key` is the setting that it stands in.
    """
    known = paths(tree)
    for pattern in patterns:
        if not any(matches(path, pattern) for path in known):
            raise InputError(f"{key}: found {shown(pattern)}, which no parameter matches; there are {examples(known)}")
    return jax.tree_util.tree_map_with_path(
        lambda keys, _: any(matches(path_of(keys), pattern) for pattern in patterns), tree
    )


def examples(known: Sequence[str]) -> str:
    """Some of the paths, spread over all of them."""
    step = max(1, -(-len(known) // EXAMPLES))
    few = known[::step]
    return ", ".join(few) + (f" and {len(known) - len(few)} more" if len(few) < len(known) else "")
