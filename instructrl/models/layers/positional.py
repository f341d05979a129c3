"""Fixed position embeddings."""

import numpy as np


def sinusoid(positions: np.ndarray, width: int, *, longest: float = 10_000.0) -> np.ndarray:
    """Sines then cosines of each position at geometrically spaced wavelengths, float32 [..., width].

    Source: Vaswani et al. 2017, section 3.5 (halves instead of interleaved). `width` must be even.
    """
    frequencies = longest ** -(np.arange(width // 2) / (width // 2))
    angles = np.asarray(positions, np.float64)[..., None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)


def sinusoid_2d(side: int, width: int) -> np.ndarray:
    """`sinusoid` of the column, then of the row, of each cell of a square grid, row-major: float32 [side^2, width].

    Each takes half of the width, which must be a multiple of 4. Source: He et al. 2022 (MAE), as in M3AE.
    """
    rows, columns = np.divmod(np.arange(side * side), side)
    return np.concatenate([sinusoid(columns, width // 2), sinusoid(rows, width // 2)], axis=-1)
