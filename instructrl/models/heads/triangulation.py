"""The 3-D point that the heatmaps of all cameras together find most likely.

Every camera offers its best local maxima; the rays through two of them, of two cameras, meet in a candidate; the
candidate that is most likely in all cameras is refined from the maxima near its projections. So one camera that is
wrong cannot move the point, however sure it is: it only makes its own candidates likely in one camera.

Shapes: leading dimensions are arbitrary; K cameras, P patches, M maxima of a camera, R = K (K - 1) / 2 * M * M pairs.
"""

from itertools import combinations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from instructrl.models.geometry import closest_point_to_rays, project, rays, robust_closest_point_to_rays
from instructrl.models.heads.base import CameraParams
from instructrl.models.patch_reader import patch_centres
from instructrl.workspace import Workspace

MAXIMA = 3  # of each camera
REACH = 0.25  # standard deviation of a maximum's location, in patches, when a candidate is compared with it
SCALE = 0.01  # metres from the chosen candidate beyond which a ray loses its influence on the result
FLOOR = 1e-2  # likelihood of a candidate in a camera whose heatmap excludes it: a camera can be wrong


class Maxima(NamedTuple):
    """The best local maxima of each camera's heatmap."""

    points: Any  # ... K M 2, column and row in patches
    masses: Any  # ... K M, share of a maximum's 3 x 3 patches; 0 if the heatmap has fewer maxima
    absent: Any  # ... K, share of being out of view


def local_maxima(scores: Float[Array, "... K Q"], offsets: Float[Array, "... K P 2"], side: int) -> Maxima:
    """The local maxima with the largest mass; each is at its patch's centre and own offset."""
    shares = jax.nn.softmax(scores, axis=-1)
    grid = shares[..., :-1].reshape(*shares.shape[:-1], side, side)
    window = (1,) * (grid.ndim - 2) + (3, 3)
    strides = (1,) * grid.ndim
    highest = jax.lax.reduce_window(grid, -jnp.inf, jax.lax.max, window, strides, "SAME")
    mass = jax.lax.reduce_window(grid, 0.0, jax.lax.add, window, strides, "SAME")
    mass = jnp.where(grid >= highest, mass, 0).reshape(*shares.shape[:-1], -1)
    masses, indices = jax.lax.top_k(mass, min(MAXIMA, mass.shape[-1]))
    own = jnp.take_along_axis(offsets, indices[..., None], axis=-2)
    return Maxima(patch_centres(side)[indices] + own, masses, shares[..., -1])


def triangulate(
    scores: Float[Array, "... K Q"], offsets: Float[Array, "... K P 2"], cameras: CameraParams, workspace: Workspace
) -> Float[Array, "... 3"]:
    """The most likely point (m) given each camera's heatmap (logits, the last for out of view) and offsets.

    A candidate outside the workspace is less likely than one inside.
    """
    maxima = local_maxima(scores, offsets, cameras.side)
    views = maxima.masses.shape[-2]
    origins, directions = maxima_rays(maxima, cameras)
    if views == 1:
        return closest_point_to_rays(origins[..., 0, :, :], directions[..., 0, :, :], maxima.masses[..., 0])
    candidates = meeting_points(origins, directions)
    likelihood, nearest, weight = compare(candidates, maxima, cameras)
    score = jnp.where(workspace.contains(candidates), 0, views * np.log(FLOOR)) + jnp.sum(jnp.log(likelihood), axis=-1)
    best = jnp.argmax(score, axis=-1)[..., None, None]
    start = jnp.take_along_axis(candidates, best, axis=-2)[..., 0, :]
    nearest = jnp.take_along_axis(nearest, best, axis=-2)[..., 0, :]  # ... K
    weight = jnp.take_along_axis(weight, best, axis=-2)[..., 0, :]
    chosen = nearest[..., None, :, None]
    origins, directions = (jnp.take_along_axis(each, chosen, axis=-3)[..., 0, :, :] for each in (origins, directions))
    return robust_closest_point_to_rays(origins, directions, weight + 1e-9, start=start, scale=SCALE)


def nearest_candidate(
    scores: Float[Array, "... K Q"],
    offsets: Float[Array, "... K P 2"],
    cameras: CameraParams,
    position: Float[Array, "... 3"],
) -> Float[Array, "..."]:
    """The distance (m) from a position to the nearest candidate of several cameras: the best that a choice can do.

    Maxima with a share below `FLOOR` offer none; infinite if no two cameras have others.
    """
    maxima = local_maxima(scores, offsets, cameras.side)
    candidates = meeting_points(*maxima_rays(maxima, cameras))
    view, number = np.moveaxis(ray_pairs(*maxima.masses.shape[-2:]), -1, 0)
    offered = jnp.all(maxima.masses[..., view, number] >= FLOOR, axis=-1)
    apart = jnp.linalg.norm(candidates - position[..., None, :], axis=-1)
    return jnp.min(jnp.where(offered, apart, jnp.inf), axis=-1)


def maxima_rays(maxima: Maxima, cameras: CameraParams) -> tuple[Float[Array, "... M K 3"], Float[Array, "... M K 3"]]:
    """Origins (m) and unit directions of the rays through each camera's maxima."""
    pixels = jnp.swapaxes(maxima.points, -2, -3) * (cameras.image_size / cameras.side)  # ... M K 2
    origins, directions = rays(pixels, cameras.intrinsics[..., None, :, :, :], cameras.extrinsics[..., None, :, :, :])
    return jnp.broadcast_to(origins, directions.shape), directions


def meeting_points(
    origins: Float[Array, "... M K 3"], directions: Float[Array, "... M K 3"]
) -> Float[Array, "... R 3"]:
    """The candidates: points (m) that are nearest to two rays, of two cameras each."""
    view, number = np.moveaxis(ray_pairs(origins.shape[-2], origins.shape[-3]), -1, 0)  # R 2 each
    ends = origins[..., number, view, :], directions[..., number, view, :]  # ... R 2 3
    return closest_point_to_rays(*ends, jnp.ones(ends[0].shape[:-1]))


def compare(
    candidates: Float[Array, "... R 3"], maxima: Maxima, cameras: CameraParams
) -> tuple[Float[Array, "... R K"], Array, Float[Array, "... R K"]]:
    """The likelihood of candidates in every camera, the maximum nearest to their projection, and its weight."""
    pixels, depth = project(candidates, cameras.intrinsics[..., None, :, :, :], cameras.extrinsics[..., None, :, :, :])
    point = pixels * (cameras.side / cameras.image_size)  # ... R K 2
    visible = (depth > 0) & jnp.all((point >= 0) & (point <= cameras.side), axis=-1)
    apart = jnp.sum((point[..., None, :] - maxima.points[..., None, :, :, :]) ** 2, axis=-1)
    weights = maxima.masses[..., None, :, :] * jnp.exp(-0.5 * apart / REACH**2)  # ... R K M
    likelihood = jnp.where(visible, jnp.sum(weights, axis=-1), maxima.absent[..., None, :])
    weight = jnp.where(visible, jnp.max(weights, axis=-1), 0)
    return likelihood + FLOOR, jnp.argmax(weights, axis=-1), weight


def ray_pairs(views: int, maxima: int) -> np.ndarray:
    """All pairs of a maximum of one camera and one of another: [R, 2, (camera, maximum)]."""
    numbers = [(first, second) for first in range(maxima) for second in range(maxima)]
    return np.array(
        [((left, first), (right, second)) for left, right in combinations(range(views), 2) for first, second in numbers]
    )
