"""The world: simulators behind one door, in processes of their own."""

from instructrl.sim.env import Env, Outcome, Rules, Start, Step, Tally
from instructrl.sim.graphics import available_renderer
from instructrl.sim.make import make_env

__all__ = ["Env", "Outcome", "Rules", "Start", "Step", "Tally", "available_renderer", "make_env"]
