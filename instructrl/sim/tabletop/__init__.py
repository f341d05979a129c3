"""The embedded simulator: a Panda arm at a table, on MuJoCo."""

import instructrl.sim.mujoco  # noqa: F401  (imports mujoco whatever MUJOCO_GL says)
