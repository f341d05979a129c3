"""Fixed position embeddings, and learnt ones for images of another size."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

SHARPNESS = -0.75  # of PyTorch's bicubic kernel; with antialiasing it is -0.5, as in PIL and jax


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


def interpolate_positions(
    table_PD: Float[Array, "P D"], shape: tuple[int, int], *, antialias: bool
) -> Float[Array, "Q D"]:
    """Learnt positions of a square of patches, row-major, resized to `shape` (rows, columns).

    The result is that of `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`, in float32.
    """
    side = round(len(table_PD) ** 0.5)
    if shape == (side, side):
        return table_PD
    grid = table_PD.astype(jnp.float32).reshape(side, side, -1)
    if antialias:
        resized = jax.image.resize(grid, (*shape, grid.shape[-1]), "cubic", antialias=True)
    else:
        rows, columns = (bicubic_weights(side, size) for size in shape)
        resized = jnp.einsum("rs,std,ct->rcd", rows, grid, columns, precision="highest")
    return resized.reshape(-1, grid.shape[-1]).astype(table_PD.dtype)


def bicubic_weights(size: int, to: int) -> np.ndarray:
    """Weights [to, size] of `size` values in each of `to` interpolated ones, float32; borders are repeated.

    Source: Keys 1981, with `SHARPNESS` as the kernel's free parameter.
    """
    place = (np.arange(to) + 0.5) * size / to - 0.5
    weights = np.zeros((to, size))
    for offset in (-1, 0, 1, 2):
        neighbour = np.floor(place).astype(int) + offset
        distance = abs(place - neighbour)
        near = ((SHARPNESS + 2) * distance - (SHARPNESS + 3)) * distance**2 + 1
        far = SHARPNESS * (((distance - 5) * distance + 8) * distance - 4)
        np.add.at(weights, (np.arange(to), neighbour.clip(0, size - 1)), np.where(distance <= 1, near, far))
    return weights.astype(np.float32)
