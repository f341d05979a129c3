"""From a simulator's settings to an environment."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from instructrl.registry import load_implementation
from instructrl.sim.env import ChecksTasks, Env, Simulator

if TYPE_CHECKING:
    from instructrl.config.environment import SimConfig


def make_env(cfg: "SimConfig", task: str) -> Env:
    """Create the environment of one task; simulators are imported lazily, RLBench only once per process.

    Raises:
        InputError: an unknown simulator, task or camera, settings of another world, or a renderer that does not work on
            this machine.
    """
    cfg.check_playable()
    return simulator_class(cfg).from_config(cfg, task)


def simulator_class(cfg: "SimConfig") -> type[Simulator]:
    """Import the class of a simulator.

    Raises:
        InputError: an unknown simulator, or one of another package that cannot be imported.
    """
    from instructrl.config.environment import SIMULATORS  # an environment of gymnasium needs no configuration

    return cast(type[Simulator], load_implementation(f"sim.kind={cfg.kind}", SIMULATORS[cfg.kind]))


def check_tasks(cfg: "SimConfig", names: Sequence[str]) -> None:
    """Raise InputError if the installed simulator lacks one of these tasks, before hours are spent on the others."""
    simulator = simulator_class(cfg)
    if isinstance(simulator, ChecksTasks):
        simulator.check_tasks(names)
