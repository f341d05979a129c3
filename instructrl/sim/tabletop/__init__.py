"""The embedded simulator: a Panda at a table, on MuJoCo.

OpenGL contexts are made by `opengl.py`, never by mujoco's own choice: with MUJOCO_GL naming a backend that does
not work, even `import mujoco` would fail. So it is imported here first, with that choice hidden from it.
"""

import os

_choice = os.environ.get("MUJOCO_GL")
os.environ["MUJOCO_GL"] = "disable"
try:
    import mujoco  # noqa: F401
finally:
    if _choice is None:
        del os.environ["MUJOCO_GL"]
    else:
        os.environ["MUJOCO_GL"] = _choice
