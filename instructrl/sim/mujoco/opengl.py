"""Offscreen rendering with OpenGL, without shadows or antialiasing (software drivers are common).

The driver starts at the first image, in the process that draws it: its threads do not survive a fork, after which it
would wait for them forever. So an environment can be created and then forked, but not rendered and then forked.
"""

import atexit
import contextlib
import importlib
import os
import sys
import weakref
from collections.abc import Sequence

import mujoco
import numpy as np

from instructrl.errors import RunError
from instructrl.sim.rendering import opengl_backend

_OFF = ("mjRND_SHADOW", "mjRND_REFLECTION", "mjRND_HAZE", "mjRND_FOG")
_open: set["Context"] = set()
_inherited: list["Context"] = []  # of the parent process; never freed, which would wait for the driver's lost threads


class OpenGL:
    """Renders square images of one model; holds a context from the first image on, until it is closed."""

    name = "opengl"

    def __init__(self, model: mujoco.MjModel, size: int, *, hidden: Sequence[int] = (), glass: Sequence[int] = ()):
        """Begin without a context.

        Args:
            model: the model.
            size: side of the images in pixels.
            hidden: groups of geoms and sites that are never drawn.
            glass: groups of translucent geoms, which have no depth.
        """
        self._model, self._size, self._glass = model, size, tuple(glass)
        self._context: Context | None = None
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 20)
        for flag in _OFF:
            self._scene.flags[getattr(mujoco.mjtRndFlag, flag).value] = False
        self._option, self._camera = mujoco.MjvOption(), mujoco.MjvCamera()
        for group in hidden:
            self._option.geomgroup[group] = self._option.sitegroup[group] = 0
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._rectangle = mujoco.MjrRect(0, 0, size, size)

    def draw(self, data: mujoco.MjData, camera: int) -> np.ndarray:
        """Render an image, uint8 [H, W, 3]."""
        image = np.empty((self._size, self._size, 3), np.uint8)
        mujoco.mjr_readPixels(image, None, self._rectangle, self._render(data, camera))
        return image[::-1]

    def depth(self, data: mujoco.MjData, camera: int) -> np.ndarray:
        """Render depths in metres along the optical axis, float32 [H, W], ignoring translucent geoms."""
        depth = np.empty((self._size, self._size), np.float32)
        self._show(sky=False, glass=False)  # both would count as surfaces
        context = self._render(data, camera)
        self._show(sky=True, glass=True)
        mujoco.mjr_readPixels(None, depth, self._rectangle, context)
        near, far = (getattr(self._model.vis.map, key) * self._model.stat.extent for key in ("znear", "zfar"))
        metres = near * far / (near + depth.astype(np.float64) * (far - near))  # reversed depth: 1 near, 0 far
        return metres[::-1].astype(np.float32)

    def _show(self, *, sky: bool, glass: bool) -> None:
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX.value] = sky
        for group in self._glass:
            self._option.geomgroup[group] = glass

    def close(self) -> None:
        """Free the context; another image would begin a new one."""
        if self._context is not None:
            self._context.free()
        self._context = None

    def _render(self, data: mujoco.MjData, camera: int) -> mujoco.MjrContext:
        """Render into the buffer of the context, which is returned and current."""
        if self._context is None:
            self._context = Context(self._model, self._size)
            weakref.finalize(self, self._context.free).atexit = False  # there, in the order of `_free_all`
        self._camera.fixedcamid = camera
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, everything, self._scene)
        target = self._context.make_current()
        mujoco.mjr_render(self._rectangle, self._scene, target)
        return target


class Context:
    """An OpenGL context with textures and buffers for square images of one model; freed at the latest at exit."""

    def __init__(self, model: mujoco.MjModel, size: int):
        if _Driver.inherited:
            raise inherited_error()
        backend = opengl_backend()
        if backend is None:
            raise RunError("OpenGL does not work on this machine; use sim.renderer=raycast")
        _Driver.started = True
        self._window = importlib.import_module(f"mujoco.{backend}").GLContext(64, 64)
        self._window.make_current()
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        self._target = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._target)
        self._target.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        _open.add(self)
        atexit.unregister(_free_all)
        atexit.register(_free_all)  # after the driver has registered its own end, so that this comes first

    def make_current(self) -> mujoco.MjrContext:
        """Make it the one that is drawn to."""
        if self not in _open:
            raise inherited_error()
        self._window.make_current()
        return self._target

    def free(self) -> None:
        """Free it, once; one that was inherited from another process is left alone."""
        if self in _open:
            _open.remove(self)
            self._window.make_current()
            self._target.free()
            self._window.free()


def inherited_error() -> RunError:
    """Build the error for a process in which OpenGL would hang."""
    return RunError(
        "OpenGL was used in a process that was then forked into this one, where it would hang; make the environments "
        'before the first image, start the processes afresh (in gymnasium: vector_kwargs={"context": "spawn"}), or '
        "draw with renderer=raycast"
    )


class _Driver:
    """State of the OpenGL driver in this process."""

    started = False
    inherited = False  # it was started in a process that was then forked into this one


def _free_all() -> None:
    for context in tuple(_open):
        with contextlib.suppress(Exception):  # one that is in use by another thread
            context.free()


def _after_fork() -> None:
    """Note, in a process that was forked, whether a driver had been started, by us or by others through mujoco."""
    egl = sys.modules.get("mujoco.egl")
    _Driver.inherited = _Driver.inherited or _Driver.started or getattr(egl, "EGL_DISPLAY", None) is not None
    if egl is not None:
        atexit.unregister(egl.EGL.eglTerminate)  # mujoco's end at exit, which would wait for those threads too
    _inherited.extend(_open)
    _open.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, where there is no fork
    os.register_at_fork(after_in_child=_after_fork)
