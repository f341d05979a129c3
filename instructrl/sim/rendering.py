"""Renderer selection: probes in child processes, once, which OpenGL backend works on this machine.

OpenGL needs a driver or a system package that may be missing or broken, and may then raise or crash. So each backend
is tried in a child process, which renders a red ball and checks its colour. The result is kept in the environment
variable INSTRUCTRL_GL, which worker processes inherit.
"""

import os
import subprocess
import sys

from instructrl.errors import InputError
from instructrl.sim.egl_devices import EGL_DEVICE, select_egl_device

RENDERERS = ("auto", "opengl", "raycast")
RLBENCH_RENDERERS = ("rlbench_opengl", "rlbench_opengl3")  # CoppeliaSim's
_ENV_VARIABLE = "INSTRUCTRL_GL"  # a backend of mujoco, or "none"
_BACKENDS = ("egl", "osmesa", "glfw", "cgl")
HEADLESS = {"egl": "libegl1", "osmesa": "libosmesa6"}  # backends that need no display, with their system packages
_PROBE_SECONDS = 30.0
_PROBE = """
import importlib, os, sys
os.environ["MUJOCO_GL"] = "disable"
import mujoco, numpy
context = importlib.import_module("mujoco." + sys.argv[1]).GLContext(64, 64)
context.make_current()
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><camera name="eye" pos="0 0 3"/>'
    '<geom size="1" rgba="1 0 0 1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
scene, camera = mujoco.MjvScene(model, 10), mujoco.MjvCamera()
camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, camera, mujoco.mjtCatBit.mjCAT_ALL.value, scene)
target = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, target)
image = numpy.zeros((64, 64, 3), numpy.uint8)
mujoco.mjr_render(mujoco.MjrRect(0, 0, 64, 64), scene, target)
mujoco.mjr_readPixels(image, None, mujoco.MjrRect(0, 0, 64, 64), target)
red, green, blue = (int(value) for value in image[32, 32])
os._exit(0 if red > max(green, blue) + 80 else 1)
"""


def available_renderer(requested: str) -> str:
    """The renderer to use: "opengl" or "raycast"; "auto" selects OpenGL where it works.

    Raises:
        InputError: the name is unknown, or OpenGL is requested but does not work.
    """
    if requested not in RENDERERS:
        raise InputError(f"sim.renderer: found {requested!r}, expected one of {', '.join(RENDERERS)}")
    if requested == "raycast":
        return "raycast"
    if opengl_backend() is not None:
        return "opengl"
    if requested == "auto":
        return "raycast"
    raise InputError(
        "sim.renderer=opengl: OpenGL does not work on this machine (tried "
        f"{', '.join(_candidates())}); install libegl1 and libgl1, or libosmesa6, or use sim.renderer=raycast"
    )


def working_backend(requested: str) -> str:
    """The OpenGL backend of a simulator that draws with nothing else: "egl" or "osmesa", which this process then uses.

    `requested` is one of them, or "auto" for the first that works.

    Raises:
        InputError: there is no such backend, or it does not work here.
    """
    names = tuple(HEADLESS) if requested == "auto" else (requested,)
    if not set(names) <= set(HEADLESS):
        raise InputError(f"sim.renderer: found {requested!r}; allowed here: auto, {', '.join(HEADLESS)}")
    found = next((name for name in names if _usable(name)), None)
    if found is None:
        packages = ", or ".join(HEADLESS[name] for name in reversed(names))
        raise InputError(
            f"sim.renderer: found {requested}, but OpenGL does not work here (tried {', '.join(names)}); "
            f"install the system package {packages}: apt-get install {HEADLESS[names[-1]]}"
        )
    os.environ[_ENV_VARIABLE] = found
    return found


def rlbench_renderer(requested: str) -> str:
    """CoppeliaSim's renderer to use; "auto" selects RLBench's default.

    Raises:
        InputError: CoppeliaSim has no such renderer.
    """
    if requested not in ("auto", *RLBENCH_RENDERERS):
        allowed = ", ".join(("auto", *RLBENCH_RENDERERS))
        raise InputError(f"sim.renderer: found {requested!r}; allowed with sim=rlbench: {allowed}")
    return "rlbench_opengl3" if requested == "auto" else requested


def opengl_backend() -> str | None:
    """The working OpenGL backend ("egl", "osmesa", ...) or None; probed once, inherited by child processes.

    With EGL, so is the device of this process's GPU.
    """
    if _ENV_VARIABLE not in os.environ:
        os.environ[_ENV_VARIABLE] = next((name for name in _candidates() if _usable(name)), "none")
    found = os.environ[_ENV_VARIABLE]
    return found if found in _BACKENDS else None


def _candidates() -> list[str]:
    """Backends to try, the user's choice first; windowed ones only with a display."""
    if sys.platform == "darwin":
        names = ["cgl", "glfw"]
    elif os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform == "win32":
        names = ["egl", "osmesa", "glfw"]
    else:
        names = ["egl", "osmesa"]
    choice = os.environ.get("MUJOCO_GL", "").lower().strip()
    if choice in ("disable", "disabled", "off", "false", "0"):
        return []
    return sorted(
        set(names) | ({choice} & set(_BACKENDS)), key=lambda name: (name != choice, (*names, choice).index(name))
    )


def _usable(backend: str) -> bool:
    """Return True if a child process can render, on the GPU of this process, else on what MuJoCo chooses."""
    if backend == "egl" and select_egl_device():
        if _works(backend):
            return True
        del os.environ[EGL_DEVICE]
    return _works(backend)


def _works(backend: str) -> bool:
    """Return True if a child process can render with this backend."""
    try:
        child = subprocess.run(
            [sys.executable, "-c", _PROBE, backend],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return child.returncode == 0
