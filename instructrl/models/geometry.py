"""Projection and triangulation for cameras with known matrices.

Shapes: K cameras; leading dimensions are arbitrary. Conventions as in `instructrl.types`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def project(
    points: Float[Array, "... 3"], intrinsics: Float[Array, "... K 3 3"], extrinsics: Float[Array, "... K 4 4"]
) -> tuple[Float[Array, "... K 2"], Float[Array, "... K"]]:
    """Project world points to pixel coordinates in every camera; also returns the depth along the optical axis (m)."""
    rotation, origin = extrinsics[..., :3, :3], extrinsics[..., :3, 3]
    local = jnp.einsum("...kji,...kj->...ki", rotation, points[..., None, :] - origin, precision="highest")
    depth = local[..., 2]
    safe = jnp.where(jnp.abs(depth) < 1e-6, 1e-6, depth)
    pixels = jnp.einsum("...kij,...kj->...ki", intrinsics, local / safe[..., None], precision="highest")
    return pixels[..., :2], depth


def rays(
    pixels: Float[Array, "... K 2"], intrinsics: Float[Array, "... K 3 3"], extrinsics: Float[Array, "... K 4 4"]
) -> tuple[Float[Array, "... K 3"], Float[Array, "... K 3"]]:
    """World-frame origin and unit direction of the ray through each camera's pixel."""
    focal = jnp.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], axis=-1)
    local = (pixels - intrinsics[..., :2, 2]) / focal
    local = jnp.concatenate([local, jnp.ones_like(local[..., :1])], axis=-1)
    direction = jnp.einsum("...kij,...kj->...ki", extrinsics[..., :3, :3], local, precision="highest")
    return extrinsics[..., :3, 3], direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)


def closest_point_to_rays(
    origins: Float[Array, "... K 3"], directions: Float[Array, "... K 3"], weights: Float[Array, "... K"]
) -> Float[Array, "... 3"]:
    """The point with the least weighted squared distance to all rays; a weak regularizer handles a single ray."""
    across = jnp.eye(3) - directions[..., :, None] * directions[..., None, :]
    total = jnp.sum(weights[..., None, None] * across, axis=-3)
    pull = jnp.sum(weights, axis=-1) * 1e-4 + 1e-8
    matrix = total + pull[..., None, None] * jnp.eye(3)
    nearest = origins + directions  # at one metre depth: the regularizer's target
    centre = jnp.mean(nearest, axis=-2)
    moment = jnp.einsum("...k,...kij,...kj->...i", weights, across, origins, precision="highest")
    return solve_symmetric(matrix, moment + pull[..., None] * centre)


def solve_symmetric(matrix: Float[Array, "... 3 3"], vector: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
    """Solve `matrix x = vector` for symmetric 3 x 3 matrices by Cramer's rule, cheaper than an LU decomposition."""
    rows = [matrix[..., i, :] for i in range(3)]
    cofactors = jnp.stack([jnp.cross(rows[1], rows[2]), jnp.cross(rows[2], rows[0]), jnp.cross(rows[0], rows[1])], -2)
    determinant = jnp.sum(rows[0] * cofactors[..., 0, :], axis=-1, keepdims=True)
    return jnp.einsum("...ij,...j->...i", cofactors, vector, precision="highest") / determinant


def robust_closest_point_to_rays(
    origins: Float[Array, "... K 3"],
    directions: Float[Array, "... K 3"],
    weights: Float[Array, "... K"],
    *,
    start: Float[Array, "... 3"] | None = None,
    scale: float = 0.02,
    rounds: int = 5,
) -> Float[Array, "... 3"]:
    """`closest_point_to_rays`, robust to outliers: rays farther than about `scale` metres are downweighted.

    `start` says near which point, by default that closest to all rays. Iteratively reweighted least squares with
    Cauchy weights (Holland and Welsch 1977).
    """

    def refine(_: int, point: Array) -> Array:
        apart = point[..., None, :] - origins
        along = jnp.sum(apart * directions, axis=-1, keepdims=True)
        distance = jnp.linalg.norm(apart - along * directions, axis=-1)
        return closest_point_to_rays(origins, directions, weights / (1 + (distance / scale) ** 2))

    if start is None:
        start = closest_point_to_rays(origins, directions, weights)
    return jax.lax.fori_loop(0, rounds, refine, start)
