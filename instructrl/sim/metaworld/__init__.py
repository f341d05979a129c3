"""Meta-World, fifty tasks of a Sawyer arm on MuJoCo, installed by the user (`make metaworld`), no part of InstructRL.

`library.py` is the only file that imports metaworld, in an interpreter of its own: it pins a MuJoCo that cannot be
installed beside ours.
"""

from contextlib import suppress

with suppress(ImportError):  # of mujoco: library.py says what is missing
    import instructrl.sim.mujoco  # noqa: F401  (imports mujoco whatever MUJOCO_GL says)
