"""Rendering without OpenGL: MuJoCo casts the rays, numpy shades the hits.

Only moving geoms are cast again: while a camera stands still, table and floor are rendered once and cached, and rays
go only through pixels near a moving geom. Lighting is that of `scene.py`, so that images look like those of OpenGL.
"""

import copy

import mujoco
import numpy as np

from instructrl.sim.tabletop.scene import AMBIENT, FIXED_GROUP, GLASS_GROUP, LAMPS, MOVING_GROUP, SKY

_FAR = 12.0  # metres
_NEAR = 0.01  # metres
_SIGNS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
_EDGES = np.array([(i, j) for i in range(8) for j in range(i) if np.abs(_SIGNS[i] - _SIGNS[j]).sum() == 2])
_LIGHTS = tuple((tuple(-np.array(way) / np.linalg.norm(way)), strength) for way, strength in LAMPS)


class Raycaster:
    """Renders square images of one model."""

    name = "raycast"

    def __init__(self, model: mujoco.MjModel, size: int):
        self._model, self._shape = model, _with_bounding_spheres(model)
        self._size = size
        grid = (np.arange(size) + 0.5) / size * 2 - 1
        self._x, self._y = np.tile(grid, size), np.repeat(-grid, size)  # of pixel centres, y up
        self._corners = model.geom_aabb[:, None, :3] + _SIGNS * model.geom_aabb[:, None, 3:]  # in each geom's frame
        self._moving = np.flatnonzero(model.geom_group == MOVING_GROUP)
        self._glass = np.flatnonzero(model.geom_group == GLASS_GROUP)
        self._groups = {group: _group_mask(group) for group in (FIXED_GROUP, MOVING_GROUP, GLASS_GROUP)}
        # of each camera: its pose, and from there the image and the depth of the fixed geoms
        self._backgrounds: dict[int, tuple[bytes, np.ndarray, np.ndarray]] = {}

    def draw(self, data: mujoco.MjData, camera: int) -> np.ndarray:
        """Render an image, uint8 [H, W, 3]."""
        image, _ = self._trace(data, camera)
        return (image * np.float32(255.0) + np.float32(0.5)).astype(np.uint8).reshape(self._size, self._size, 3)

    def depth(self, data: mujoco.MjData, camera: int) -> np.ndarray:
        """Render depths in metres along the optical axis, float32 [H, W], ignoring translucent geoms."""
        return self._trace(data, camera)[1].reshape(self._size, self._size)

    def close(self) -> None:
        """Do nothing; no resources are held."""

    def _trace(self, data: mujoco.MjData, camera: int) -> tuple[np.ndarray, np.ndarray]:
        """Colours float32 [P 3] in 0..1 and depths float32 [P] of all pixels."""
        rotation = data.cam_xmat[camera].reshape(3, 3)
        slope = np.tan(np.radians(self._model.cam_fovy[camera]) / 2)
        image, depth = self._background(data, camera, rotation, slope)
        for geoms, group in ((self._moving, MOVING_GROUP), (self._glass, GLASS_GROUP)):
            pixels = self._pixels_near(data, camera, rotation, slope, geoms)
            if pixels.size:
                color, alpha, distance = self._cast(data, camera, self._rays(rotation, slope, pixels), group)
                seen = distance < depth[pixels]
                pixels, alpha = pixels[seen], alpha[seen, None]
                image[pixels] = (
                    color[seen] if group == MOVING_GROUP else color[seen] * alpha + image[pixels] * (1 - alpha)
                )
                if group == MOVING_GROUP:
                    depth[pixels] = distance[seen]
        return image, depth

    def _background(
        self, data: mujoco.MjData, camera: int, rotation: np.ndarray, slope: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Colours float32 [P 3] and depths float32 [P] of the fixed geoms."""
        pose = data.cam_xpos[camera].tobytes() + data.cam_xmat[camera].tobytes()
        before = self._backgrounds.get(camera)
        if before is not None and before[0] == pose:
            return before[1].copy(), before[2].copy()
        color, _, depth = self._cast(data, camera, self._rays(rotation, slope, slice(None)), FIXED_GROUP)
        self._backgrounds[camera] = pose, color.copy(), depth.copy()
        return color, depth

    def _rays(self, rotation: np.ndarray, slope: float, pixels: np.ndarray | slice) -> np.ndarray:
        """Ray directions [P 3] in the world, of length one along the optical axis."""
        x, y = self._x[pixels] * slope, self._y[pixels] * slope
        rays = np.empty((x.size, 3))
        for axis in range(3):
            rays[:, axis] = x * rotation[axis, 0] + y * rotation[axis, 1] - rotation[axis, 2]
        return rays

    def _pixels_near(
        self, data: mujoco.MjData, camera: int, rotation: np.ndarray, slope: float, geoms: np.ndarray
    ) -> np.ndarray:
        """Pixels [P] whose rays may hit one of the geoms: rectangles around their projected bounding boxes."""
        if not geoms.size:
            return np.zeros(0, np.int64)
        corners = self._corners[geoms] @ data.geom_xmat[geoms].reshape(-1, 3, 3).transpose(0, 2, 1)
        corners_in_view = (corners + (data.geom_xpos[geoms] - data.cam_xpos[camera])[:, None]) @ rotation
        first, second = corners_in_view[:, _EDGES[:, 0]], corners_in_view[:, _EDGES[:, 1]]
        rise = first[..., 2] - second[..., 2]
        # intersections of the edges with the near plane; for other edges a fraction outside [0, 1]
        share = (first[..., 2] + _NEAR) / np.where(np.abs(rise) < 1e-12, 1e-12, rise)
        cut = first + np.clip(share, 0.0, 1.0)[..., None] * (second - first)
        points = np.concatenate([corners_in_view, cut], axis=1)
        before = np.concatenate([corners_in_view[..., 2] <= -_NEAR, (share >= 0) & (share <= 1)], axis=1)
        across = points[..., :2] * (1.0, -1.0) / np.maximum(-points[..., 2:], _NEAR) / slope
        low = np.where(before[..., None], across, np.inf).min(axis=1)
        high = np.where(before[..., None], across, -np.inf).max(axis=1)
        bounds = np.clip(np.stack([low, high]), -1.0, 1.0) * (self._size / 2) + self._size / 2
        mask = np.zeros((self._size, self._size), bool)
        for left, top, right, bottom in (
            np.concatenate([np.floor(bounds[0]), np.ceil(bounds[1])], axis=1).astype(int).tolist()
        ):
            mask[top:bottom, left:right] = True
        return np.flatnonzero(mask)

    def _cast(
        self, data: mujoco.MjData, camera: int, rays: np.ndarray, group: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Colour float32 [P 3], alpha float32 [P] and depth float32 [P] where the rays first hit the group."""
        count = len(rays)
        geom = np.empty(count, np.int32)
        depth, normal = np.empty(count), np.empty((count, 3))
        mujoco.mj_multiRay(
            self._shape,
            data,
            data.cam_xpos[camera],
            rays.reshape(-1),
            self._groups[group],
            True,
            -1,
            geom,
            depth,
            normal.reshape(-1),
            count,
            _FAR,
        )
        paint = np.concatenate([self._model.geom_rgba, [(*SKY, 1.0)]]).astype(np.float32)  # geom -1 is the sky
        light = np.full(count, AMBIENT, np.float32)
        normal = normal.astype(np.float32)
        for (x, y, z), strength in _LIGHTS:
            facing = normal[:, 0] * np.float32(x) + normal[:, 1] * np.float32(y) + normal[:, 2] * np.float32(z)
            light += np.float32(strength) * np.maximum(facing, 0)
        missed = geom < 0
        light[missed] = 1.0
        color = paint[geom]
        shown = np.minimum(color[:, :3] * light[:, None], np.float32(1.0))
        return shown, color[:, 3], np.where(missed, _FAR, depth).astype(np.float32)


def _with_bounding_spheres(model: mujoco.MjModel) -> mujoco.MjModel:
    """A copy for ray casting in which each body's bounding sphere contains all of its geoms.

    MuJoCo's own excludes geoms that do not collide, and is displaced if the body's inertia frame is rotated, so that
    rays would miss geoms outside of it.
    """
    shape = copy.copy(model)
    owner = model.geom_bodyid
    away = np.linalg.norm(model.geom_pos - model.body_ipos[owner], axis=1) + model.geom_rbound
    for body in np.flatnonzero(model.body_bvhadr >= 0):
        shape.bvh_aabb[model.body_bvhadr[body]] = (0.0, 0.0, 0.0, away[owner == body].max(), 0.0, 0.0)
    return shape


def _group_mask(group: int) -> np.ndarray:
    groups = np.zeros(6, np.uint8)
    groups[group] = 1
    return groups
