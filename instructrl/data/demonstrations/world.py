"""Comparison of demonstrations with the world that the settings describe: the actions, their bounds, and the state."""

from collections.abc import Sequence

from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.demonstrations.schema import Header
from instructrl.errors import InputError, format_value
from instructrl.storage.paths import StoragePath
from instructrl.workspace import Workspace


def check_world(path: StoragePath, header: Header, *, workspace: Workspace, state: Sequence[str], actions: str) -> None:
    """Raise InputError if a file's workspace, state or kind of actions is not that of the settings."""
    for key, found, expected in (
        ("workspace", str(header.workspace), str(workspace)),
        ("state", state_override(header.state), state_override(state)),
        ("actions", header.actions, actions),
    ):
        if found != expected:
            raise InputError(
                f"{path}: found demonstrations with the {key} {found}, but sim.{key}={expected} is set; train on them "
                f"with 'sim.{key}={found}', or choose another data.dir"
            )


def state_override(names: Sequence[str]) -> str:
    """Names of a state's numbers as the value of `sim.state` on a command line."""
    return "[{}]".format(",".join(f'"{name}"' for name in names))


def check_inside(episodes: DemonstrationDataset, *, clip: bool) -> str:
    """Count the keyframes outside the workspace.

    Args:
        episodes: a file's.
        clip: accept them, although no prediction reaches them.

    Returns:
        A line on those that are accepted; empty if there are none.

    Raises:
        InputError: there are some, and they are not accepted.
    """
    outside = episodes.outside
    if not outside.any():
        return ""
    first = int(outside.argmax())
    episode = int((episodes.contents.first_keyframe <= first).sum()) - 1
    found = format_value([round(float(value), 4) for value in episodes.contents.action[first, :3]])
    line = (
        f"{episodes.path}: found {outside.sum()} of {len(outside)} keyframes outside the workspace "
        f"{episodes.workspace}, the first in episode {episode} at {found}"
    )
    if clip:
        return f"{line}; predictions are clipped to the workspace"
    raise InputError(
        f"{line}; collect or convert them with a workspace that holds them, or train on predictions that are clipped "
        "to it with data.outside_workspace=clip"
    )
