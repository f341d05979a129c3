"""Simulators behind one interface, run in worker processes."""

from instructrl.sim.checked import make_checked_env
from instructrl.sim.env import (
    Env,
    EpisodeLimits,
    EpisodeStart,
    FollowsProtocol,
    OffersExpert,
    Outcome,
    RestoresScenes,
    Simulator,
    Step,
    StepCounter,
    StoredScenes,
    StoresScenes,
    replay,
)
from instructrl.sim.factory import check_tasks, make_env, simulator_class
from instructrl.sim.rendering import available_renderer

__all__ = [
    "Env",
    "EpisodeLimits",
    "EpisodeStart",
    "FollowsProtocol",
    "OffersExpert",
    "Outcome",
    "RestoresScenes",
    "Simulator",
    "Step",
    "StepCounter",
    "StoredScenes",
    "StoresScenes",
    "available_renderer",
    "check_tasks",
    "make_checked_env",
    "make_env",
    "replay",
    "simulator_class",
]
