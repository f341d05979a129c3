"""Fixed position embeddings."""

import numpy as np


def sinusoid(positions: np.ndarray, width: int, *, longest: float = 10_000.0) -> np.ndarray:
    """Sines then cosines of each position at geometrically spaced wavelengths, float32 [..., width].

    Source: Vaswani et al. 2017, section 3.5 (halves instead of interleaved). `width` must be even.
    """
    frequencies = longest ** -(np.arange(width // 2) / (width // 2))
    angles = np.asarray(positions, np.float64)[..., None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)
