"""Simulators behind one interface, run in worker processes."""

from instructrl.sim.env import Env, EpisodeLimits, EpisodeStart, Outcome, Step, StepCounter
from instructrl.sim.graphics import available_renderer
from instructrl.sim.make import make_env

__all__ = ["Env", "EpisodeLimits", "EpisodeStart", "Outcome", "Step", "StepCounter", "available_renderer", "make_env"]
