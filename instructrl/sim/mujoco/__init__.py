"""Camera matrices and offscreen OpenGL, which simulators on MuJoCo share.

`opengl.py` creates the OpenGL contexts instead of mujoco: if MUJOCO_GL names a backend that does not work, even
`import mujoco` fails. So mujoco is imported here first, with that variable hidden.
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
