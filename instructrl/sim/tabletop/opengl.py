"""Offscreen rendering with OpenGL, without shadows or antialiasing (software drivers are common)."""

import importlib
import weakref
from typing import Any

import mujoco
import numpy as np

from instructrl.errors import RunError
from instructrl.sim.rendering import opengl_backend
from instructrl.sim.tabletop.scene import GLASS_GROUP, HIDDEN_GROUP

_OFF = ("mjRND_SHADOW", "mjRND_REFLECTION", "mjRND_HAZE", "mjRND_FOG")


class OpenGL:
    """Renders square images of one model; holds a context that must be closed."""

    name = "opengl"

    def __init__(self, model: mujoco.MjModel, size: int):
        backend = opengl_backend()
        if backend is None:
            raise RunError("OpenGL does not work on this machine; use sim.renderer=raycast")
        self._model, self._size = model, size
        self._window = importlib.import_module(f"mujoco.{backend}").GLContext(64, 64)
        self._window.make_current()
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 20)
        for flag in _OFF:
            self._scene.flags[getattr(mujoco.mjtRndFlag, flag).value] = False
        self._option, self._camera = mujoco.MjvOption(), mujoco.MjvCamera()
        self._option.geomgroup[HIDDEN_GROUP] = self._option.sitegroup[HIDDEN_GROUP] = 0
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._rectangle = mujoco.MjrRect(0, 0, size, size)
        self.close = weakref.finalize(
            self, _free, self._window, self._context
        )  # also at exit, while the driver is still loaded

    def draw(self, data: mujoco.MjData, camera: int) -> np.ndarray:
        """Render an image, uint8 [H, W, 3]."""
        image = np.empty((self._size, self._size, 3), np.uint8)
        self._render(data, camera)
        mujoco.mjr_readPixels(image, None, self._rectangle, self._context)
        return image[::-1]

    def depth(self, data: mujoco.MjData, camera: int) -> np.ndarray:
        """Render depths in metres along the optical axis, float32 [H, W], ignoring translucent geoms."""
        depth = np.empty((self._size, self._size), np.float32)
        self._show(sky=False, glass=False)  # both would count as surfaces
        self._render(data, camera)
        self._show(sky=True, glass=True)
        mujoco.mjr_readPixels(None, depth, self._rectangle, self._context)
        near, far = (getattr(self._model.vis.map, key) * self._model.stat.extent for key in ("znear", "zfar"))
        metres = near * far / (near + depth.astype(np.float64) * (far - near))  # reversed depth: 1 near, 0 far
        return metres[::-1].astype(np.float32)

    def _show(self, *, sky: bool, glass: bool) -> None:
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX.value] = sky
        self._option.geomgroup[GLASS_GROUP] = glass

    def _render(self, data: mujoco.MjData, camera: int) -> None:
        self._camera.fixedcamid = camera
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, everything, self._scene)
        self._window.make_current()
        mujoco.mjr_render(self._rectangle, self._scene, self._context)


def _free(window: Any, context: mujoco.MjrContext) -> None:
    window.make_current()
    context.free()
    window.free()
