"""From a simulator's settings to an environment, and to answers of its class."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from instructrl.errors import REPAIR, InputError, RunError
from instructrl.interface import check_interface, member_names
from instructrl.registry import load_implementation
from instructrl.sim.env import (
    ChecksTasks,
    Env,
    FollowsProtocol,
    ObservesApart,
    OffersExpert,
    RestoresScenes,
    Simulator,
    StoredScenes,
    StoresScenes,
)
from instructrl.sim.vector.interpreter import missing_package

if TYPE_CHECKING:
    from instructrl.config.environment import SimConfig

ANSWER_SECONDS = 300.0


def make_env(cfg: "SimConfig", task: str) -> Env:
    """Create the environment of one task; simulators are imported lazily, RLBench only once per process.

    Raises:
        InputError: an unknown simulator, task or camera, settings of another world, or a renderer that does not work on
            this machine.
    """
    cfg.check_playable()
    return simulator_class(cfg).from_config(cfg, task)


def simulator_class(cfg: "SimConfig") -> type[Simulator]:
    """Import the class of a simulator, in the interpreter that runs it.

    Raises:
        InputError: an unknown simulator, one of another package that cannot be imported, or an interpreter of its own
            that lacks its packages; or the class lacks a method, or one takes other arguments.
    """
    from instructrl.config.environment import SIMULATORS  # an environment of gymnasium needs no configuration

    try:
        found = load_implementation(f"sim.kind={cfg.kind}", SIMULATORS[cfg.kind])
    except ImportError as error:
        if cfg.interpreter is None:
            raise
        raise missing_package(error) from None
    try:
        check_simulator_class(found)
    except InputError as error:
        raise InputError(f"sim.kind={cfg.kind}: {error}; {REPAIR}") from None
    return cast(type[Simulator], found)


def check_simulator_class(found: Any) -> None:
    """Raise InputError unless this is a class with the methods of `Simulator` and of the parts that it offers."""
    if not isinstance(found, type):
        raise InputError(f"found {found!r}; allowed: a class as instructrl.sim.env.Simulator describes it")
    check_interface(found, Simulator)
    for part in (OffersExpert, ObservesApart, RestoresScenes, FollowsProtocol, ChecksTasks, StoresScenes):
        if all(getattr(found, name, None) is not None for name in member_names(part)):
            check_interface(found, part)


def working_renderer(cfg: "SimConfig", requested: str) -> str:
    """The simulator's renderer to use on this machine: see `Simulator.available_renderer`.

    Raises:
        InputError: there is no such renderer, or it does not work here.
    """
    return cast(str, _ask(cfg, "available_renderer", requested))


def check_tasks(cfg: "SimConfig", names: Sequence[str]) -> None:
    """Raise InputError if the installed simulator lacks one of these tasks, before hours are spent on the others."""
    _ask(cfg, "check_tasks", list(names))


def follows_protocol(cfg: "SimConfig") -> bool:
    """True if the simulator draws and executes as a protocol chooses: see `FollowsProtocol`."""
    return cast(bool, _ask(cfg, "follows_protocol"))


def stored_scenes(cfg: "SimConfig", folder: Path, task: str) -> StoredScenes | None:
    """The scenes of a task that the simulator stored in a folder; None if it stores none: see `StoresScenes`.

    Raises:
        InputError: there are none, or one cannot be restored.
    """
    return cast(StoredScenes | None, _ask(cfg, "stored_scenes", folder, task))


class SimulatorQuestions:
    """Questions to a simulator's class, which need no environment."""

    def __init__(self, cfg: "SimConfig"):
        self._key, self._simulator = f"sim.kind={cfg.kind}", simulator_class(cfg)

    def available_renderer(self, requested: str) -> str:
        """The renderer to use on this machine."""
        found: object = self._simulator.available_renderer(requested)
        if not isinstance(found, str) or not found:
            raise RunError(f"{self._key}: available_renderer: found {found!r}; allowed: the name of one; {REPAIR}")
        return found

    def check_tasks(self, names: Sequence[str]) -> None:
        """Raise InputError if one of these tasks is missing."""
        if isinstance(self._simulator, ChecksTasks):
            self._simulator.check_tasks(names)

    def follows_protocol(self) -> bool:
        """True if its environments do."""
        return isinstance(self._simulator, FollowsProtocol)

    def stored_scenes(self, folder: Path, task: str) -> StoredScenes | None:
        """The scenes stored in a folder; None if it stores none."""
        return self._simulator.stored_scenes(folder, task) if isinstance(self._simulator, StoresScenes) else None


def _ask(cfg: "SimConfig", question: str, *arguments: object) -> object:
    """The answer of the simulator's class, in a process of the simulator's interpreter if that is another one."""
    if cfg.interpreter is None:
        return getattr(SimulatorQuestions(cfg), question)(*arguments)
    from instructrl.sim.vector.pool import Workers  # of the parent process alone

    with Workers(partial(SimulatorQuestions, cfg), 1, timeout=ANSWER_SECONDS, python=cfg.interpreter) as workers:
        return workers.ask(question, *arguments, failure=f"sim={cfg.kind} cannot be used: {{}}")
