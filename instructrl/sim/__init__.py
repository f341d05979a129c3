"""Simulators behind one interface, run in worker processes."""

from instructrl.sim.checked import make_checked_env
from instructrl.sim.env import (
    Env,
    EpisodeLimits,
    EpisodeStart,
    FollowsProtocol,
    ObservesApart,
    OffersExpert,
    Outcome,
    RestoresScenes,
    Simulator,
    Step,
    StepCounter,
    StoredScenes,
    replay,
)
from instructrl.sim.factory import (
    check_tasks,
    follows_protocol,
    make_env,
    simulator_class,
    stored_scenes,
    working_renderer,
)
from instructrl.sim.rendering import available_renderer

__all__ = [
    "Env",
    "EpisodeLimits",
    "EpisodeStart",
    "FollowsProtocol",
    "ObservesApart",
    "OffersExpert",
    "Outcome",
    "RestoresScenes",
    "Simulator",
    "Step",
    "StepCounter",
    "StoredScenes",
    "available_renderer",
    "check_tasks",
    "follows_protocol",
    "make_checked_env",
    "make_env",
    "replay",
    "simulator_class",
    "stored_scenes",
    "working_renderer",
]
