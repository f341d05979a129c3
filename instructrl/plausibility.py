"""Numbers that no robot's scene has: a fault of the data or of a driver, of which one spoils all that follows."""

import numpy as np

LARGEST = 1e4  # of a state's numbers, and of positions in metres
LARGEST_PIXEL = 1e6  # of focal lengths and principal points
SMALLEST = 1e-6  # of focal lengths in pixels, and of the volume that a camera's axes span

RULES = {  # the rule of each array, as errors say it
    "state": f"finite, at most {LARGEST:g}",
    "intrinsics": f"finite, at most {LARGEST_PIXEL:g}, focal lengths not zero",
    "extrinsics": f"finite, at most {LARGEST:g}, three independent axes",
}


def implausible(name: str, values: np.ndarray) -> np.ndarray:
    """Return which entries [N] of an array break its rule.

    Args:
        name: a key of `RULES`.
        values: `state` [N, S], `intrinsics` [N, ..., 3, 3] or `extrinsics` [N, ..., 4, 4].
    """
    values = np.asarray(values, np.float64)
    limit = LARGEST_PIXEL if name == "intrinsics" else LARGEST
    within = np.isfinite(values) & (np.abs(values) <= limit)
    wrong = ~within.reshape(len(values), -1).all(axis=1)
    usable = np.where(within, values, 0.0)
    if name == "intrinsics":
        degenerate = np.minimum(np.abs(usable[..., 0, 0]), np.abs(usable[..., 1, 1])) < SMALLEST
    elif name == "extrinsics":
        degenerate = np.abs(np.linalg.det(usable[..., :3, :3])) < SMALLEST
    else:
        return wrong
    return wrong | degenerate.reshape(len(values), -1).any(axis=1)
