"""What RLBench's exceptions mean.

They are told by the names of their classes, which are the same in the original and in PerAct's fork, wherever each
keeps them. What is not understood here is raised on: after it ("call failed on the V-REP side", for instance) nobody
knows the simulator's state, so its process is replaced.
"""

from typing import NamedTuple

from instructrl.sim.env import Outcome

_NO_POSE = {"IKError", "ConfigurationError"}
_NO_PATH = {"ConfigurationPathError"}
_NO_DEMONSTRATION = {"DemoError", "NoWaypointsError", "WaypointError", "BoundaryError"} | _NO_POSE | _NO_PATH


class Refusal(NamedTuple):
    """Why an action was not executed, and whether another try may go better: the planner is random."""

    outcome: Outcome
    again: bool


def refusal(error: Exception) -> Refusal:
    """What an exception of `step` means.

    Raises:
        Exception: the same, if it says nothing about the action.
    """
    names, text = kinds(error), str(error).lower()
    if names & _NO_POSE:
        return Refusal(Outcome.UNREACHABLE, again=True)
    if names & _NO_PATH:
        return Refusal(Outcome.PLANNER_FAILURE, again=True)
    if "InvalidActionError" not in names:
        raise error
    if "workspace" in text:
        return Refusal(Outcome.UNREACHABLE, again=False)
    if "path" in text:
        return Refusal(Outcome.PLANNER_FAILURE, again=True)
    return Refusal(Outcome.INVALID_ACTION, again=False)


def not_placed(error: Exception) -> bool:
    """Whether the scene that was drawn could not be placed."""
    return "TaskEnvironmentError" in kinds(error)


def gave_up(error: Exception) -> bool:
    """Whether an exception of `get_demos` means that the expert failed, not the simulator."""
    return bool(kinds(error) & _NO_DEMONSTRATION) or "could not collect demos" in str(error).lower()


def kinds(error: BaseException | None) -> set[str]:
    """The class names of an exception, of what it is derived from and of what caused it."""
    names: set[str] = set()
    while error is not None:
        names |= {kind.__name__ for kind in type(error).__mro__}
        error = error.__cause__
    return names
