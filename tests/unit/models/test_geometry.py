"""Projection and its inverse: rays through the pixels of a point meet in it."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrl.models.geometry import closest_point_to_rays, project, rays, robust_closest_point_to_rays
from tests.fixtures.cameras import ring_of_cameras

SEEDS = st.integers(0, 2**32 - 1)


def random_points(seed, count):
    return np.random.default_rng(seed).uniform([-0.2, -0.4, 0.75], [0.6, 0.4, 1.4], (count, 3)).astype(np.float32)


@jax.jit
def project_and_intersect(points, intrinsics, extrinsics):
    """Depths of points in each camera, and where the rays through their pixels meet."""
    pixels, depth = project(points, intrinsics[None], extrinsics[None])
    origins, directions = rays(pixels, intrinsics[None], extrinsics[None])
    origins = jnp.broadcast_to(origins, directions.shape)
    return depth, closest_point_to_rays(origins, directions, jnp.ones(directions.shape[:-1]))


project_all = jax.jit(lambda points, *matrices: project(points, *(matrix[None] for matrix in matrices))[0])


@jax.jit
def intersect(pixels, intrinsics, extrinsics):
    """Where the rays through pixels meet: by least squares, and robustly."""
    origins, directions = rays(pixels, intrinsics[None], extrinsics[None])
    origins, weights = jnp.broadcast_to(origins, directions.shape), jnp.ones(directions.shape[:-1])
    plain = closest_point_to_rays(origins, directions, weights)
    return plain, robust_closest_point_to_rays(origins, directions, weights)


@settings(max_examples=30)
@given(seed=SEEDS, cameras=st.integers(2, 5), size=st.sampled_from([64, 96, 256]))
def test_rays_through_a_points_pixels_meet_in_it(seed, cameras, size):
    intrinsics, extrinsics = ring_of_cameras(cameras, size)
    points = random_points(seed, 4)
    depth, found = project_and_intersect(points, intrinsics, extrinsics)
    assert np.all(depth > 0)
    np.testing.assert_allclose(found, points, atol=2e-3)


def test_the_optical_axis_projects_to_the_principal_point():
    intrinsics, extrinsics = ring_of_cameras(3, 96)
    ahead = extrinsics[:, :3, 3] + extrinsics[:, :3, 2]
    for camera in range(3):
        pixels, depth = project(ahead[camera], intrinsics, extrinsics)
        np.testing.assert_allclose(pixels[camera], [48, 48], atol=1e-3)
        np.testing.assert_allclose(depth[camera], 1, atol=1e-5)


@settings(max_examples=30)
@given(seed=SEEDS, wrong=st.integers(0, 3))
def test_one_wrong_camera_of_four_is_outvoted(seed, wrong):
    intrinsics, extrinsics = ring_of_cameras(4, 96)
    points = random_points(seed, 1)
    pixels = np.array(project_all(points, intrinsics, extrinsics))
    pixels[0, wrong] = (pixels[0, wrong] + 37) % 96
    plain, robust = (np.linalg.norm(found - points) for found in intersect(pixels, intrinsics, extrinsics))
    assert robust < max(0.02, plain / 4)


def test_a_lone_camera_gives_a_point_on_its_ray():
    intrinsics, extrinsics = ring_of_cameras(1, 96)
    point = random_points(0, 1)
    pixels, _ = project(point, intrinsics[None], extrinsics[None])
    origins, directions = rays(pixels, jnp.asarray(intrinsics)[None], jnp.asarray(extrinsics)[None])
    found = robust_closest_point_to_rays(jnp.broadcast_to(origins, directions.shape), directions, jnp.ones((1, 1)))
    again, depth = project(found, intrinsics[None], extrinsics[None])
    assert depth[0, 0] > 0.1
    np.testing.assert_allclose(again, pixels, atol=0.5)
