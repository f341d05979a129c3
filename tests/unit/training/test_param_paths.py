"""Parameters are chosen by patterns of their paths; a pattern that chooses none is an error showing what there is."""

import jax
import numpy as np
import pytest

from instructrl.errors import InputError
from instructrl.training.param_paths import matches, paths, pattern_mask

TREE = {
    "encoder": {"block_0": {"mix": {"kernel": np.ones((2, 2)), "bias": np.ones(2)}}, "norm": {"scale": np.ones(2)}},
    "policy": {
        "block_1": {"out": {"kernel": np.ones((2, 2))}},
        "block_10": {"out": {"kernel": np.ones((2, 2)), "bias": np.ones(2)}},
    },
}


def picked(*patterns: str) -> list[str]:
    tree = pattern_mask(TREE, patterns, key="training.freeze")
    assert list(tree) == list(TREE)
    flags = dict(zip(paths(TREE), jax.tree.leaves(tree), strict=True))
    return [path for path, flag in flags.items() if flag]


def test_every_leaf_has_a_path() -> None:
    assert paths(TREE) == [
        "encoder/block_0/mix/bias",
        "encoder/block_0/mix/kernel",
        "encoder/norm/scale",
        "policy/block_1/out/kernel",
        "policy/block_10/out/bias",
        "policy/block_10/out/kernel",
    ]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ([], []),
        (["encoder/norm/scale"], ["encoder/norm/scale"]),
        (["policy/block_1"], ["policy/block_1/out/kernel"]),  # and not block_10
        (["*/bias"], ["encoder/block_0/mix/bias", "policy/block_10/out/bias"]),
        (
            ["*norm*", "policy/block_10"],
            ["encoder/norm/scale", "policy/block_10/out/bias", "policy/block_10/out/kernel"],
        ),
        (["*"], paths(TREE)),
        (["e?coder/block_[0-3]/*/kernel"], ["encoder/block_0/mix/kernel"]),
    ],
)
def test_a_pattern_means_a_path_and_what_lies_below(patterns: list[str], found: list[str]) -> None:
    assert picked(*patterns) == found


def test_upper_and_lower_case_differ() -> None:
    assert matches("encoder/Block_0/x", "encoder/Block_0") and not matches("encoder/Block_0/x", "encoder/block_0")


def test_a_pattern_that_means_nothing_is_one_line_with_examples() -> None:
    with pytest.raises(InputError) as error:
        picked("encoder", "polcy/*")
    assert str(error.value) == (
        "training.freeze: found polcy/*, which no parameter matches; there are encoder/block_0/mix/bias, "
        "encoder/block_0/mix/kernel, encoder/norm/scale, policy/block_1/out/kernel, policy/block_10/out/bias, "
        "policy/block_10/out/kernel"
    )
    with pytest.raises(InputError, match=r"there are blocks/0, blocks/17, .* and 94 more$"):
        pattern_mask({"blocks": list(range(100))}, ["x"], key="optimizer.decay")
