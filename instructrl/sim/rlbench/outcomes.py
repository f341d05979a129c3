"""Maps RLBench's exceptions to outcomes.

They are identified by class name, which is the same in the original and in PerAct's fork, unlike the module. Unknown
exceptions are re-raised: after one ("call failed on the V-REP side", for instance) the simulator's state is undefined,
so its process is replaced.
"""

from typing import NamedTuple

from instructrl.sim.env import Outcome

_NO_POSE = {"IKError", "ConfigurationError"}
_NO_PATH = {"ConfigurationPathError"}
_NO_DEMONSTRATION = {"DemoError", "NoWaypointsError", "WaypointError", "BoundaryError"} | _NO_POSE | _NO_PATH


class ActionFailure(NamedTuple):
    """Outcome of an action that was not executed; `retry` if a repetition may succeed, since the planner is random."""

    outcome: Outcome
    retry: bool


def action_failure(error: Exception) -> ActionFailure:
    """Interpret an exception of `step`.

    Raises:
        Exception: the same one, if it is not about the action.
    """
    names, text = class_names(error), str(error).lower()
    if names & _NO_POSE:
        return ActionFailure(Outcome.UNREACHABLE, retry=True)
    if names & _NO_PATH:
        return ActionFailure(Outcome.PLANNER_FAILURE, retry=True)
    if "InvalidActionError" not in names:
        raise error
    if "workspace" in text:
        return ActionFailure(Outcome.UNREACHABLE, retry=False)
    if "path" in text:
        return ActionFailure(Outcome.PLANNER_FAILURE, retry=True)
    return ActionFailure(Outcome.INVALID_ACTION, retry=False)


def is_placement_failure(error: Exception) -> bool:
    """Return True if the scene could not be placed."""
    return "TaskEnvironmentError" in class_names(error)


def is_expert_failure(error: Exception) -> bool:
    """Return True if an exception of `get_demos` is a failure of the expert, not of the simulator."""
    return bool(class_names(error) & _NO_DEMONSTRATION) or "could not collect demos" in str(error).lower()


def class_names(error: BaseException | None) -> set[str]:
    """Class names of an exception, its base classes and its causes."""
    names: set[str] = set()
    while error is not None:
        names |= {kind.__name__ for kind in type(error).__mro__}
        error = error.__cause__
    return names
