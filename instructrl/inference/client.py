"""Ask a policy server for actions: play episodes of a simulator's task, or replay demonstrations.

python -m instructrl.inference.client url=ws://localhost:8000 task=reach_target episodes=4
python -m instructrl.inference.client url=ws://localhost:8000 file=PATH/val.hdf5 episodes=4

A task is played to its end, with the server's actions. Of demonstrations, the server is sent the recorded observations,
and its actions are compared with the recorded ones. Both end with the seconds that answers took, as the client waited.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from instructrl.actions import check_action, rotation_angle
from instructrl.cli.help import tool_settings
from instructrl.cli.progress import stopwatch
from instructrl.config.environment import SIMULATORS, SimConfig
from instructrl.config.fields import MAX_EPISODES, format_value, number, setting
from instructrl.errors import InputError, report_user_errors, warn
from instructrl.inference.serving.access_token import VARIABLE, read_token
from instructrl.inference.serving.policy_client import ConnectionLostError, PolicyClient
from instructrl.retries import attempts
from instructrl.sim.env import EpisodeStart, Outcome
from instructrl.types import ACTION_SIZES, KEYFRAME, Observation

if TYPE_CHECKING:
    from instructrl.data.demonstrations.dataset import DemonstrationDataset, EpisodeSteps
    from instructrl.sim.vector.pool import Workers

T = TypeVar("T")
PROG = "python -m instructrl.inference.client"
FIRST_SEED = 8_000_000_000_000_000  # of scenes: above those of demonstrations, evaluations and rollouts in training
TRIES = 3  # of an episode whose connection is lost


@dataclass
class ClientConfig:
    """Settings of the command."""

    url: str = setting("ws://127.0.0.1:8000", help="address of the server")
    task: str | None = setting(None, help="task to play; null: replay file=")
    file: str | None = setting(None, help="demonstrations to replay; null: play task=")
    sim: str = setting("tabletop", help="kind of the simulator that plays the task")
    renderer: str = setting("auto", help="renderer of the simulator; auto: the best one available")
    python: str | None = setting(None, help="Python interpreter of the simulator; null: its own environment, or this")
    episodes: int = number(4, low=1, high=MAX_EPISODES, help="episodes to play, or the largest number to replay")
    seed: int = number(0, low=0, high=1_000_000_000, help="random seed of the scenes")
    token_file: str | None = setting(None, help=f"file of the server's token; null: that in {VARIABLE}, if it is set")
    wait: float = number(30.0, low=0, high=86_400, help="seconds to wait for a server that is not there")


class TimedClient:
    """A policy client whose answers are timed."""

    def __init__(self, client: PolicyClient) -> None:
        self._client, self.seconds = client, list[float]()

    def act(self, observation: Observation, instruction: str) -> np.ndarray:
        """The next action, float64 [8]."""
        began = time.perf_counter()
        action = self._client.act(observation, instruction)
        self.seconds.append(time.perf_counter() - began)
        return check_action(action, sizes=ACTION_SIZES)

    def run_episode(self, episode: Callable[[], T]) -> T:
        """Run an episode from its start, and again after a loss of the connection, of which one line warns."""
        for last in attempts(TRIES, first_wait=1.0):
            self._client.reset()
            try:
                return episode()
            except ConnectionLostError as error:
                if last:
                    raise
                warn(f"{error}; this episode begins again")
        raise AssertionError("there is a last attempt")

    def latency(self) -> str:
        """The median and the 99th percentile of the seconds that answers took."""
        p50, p99 = 1000 * np.percentile(self.seconds, [50, 99])
        return f"{len(self.seconds)} answers: p50 {p50:.1f} ms, p99 {p99:.1f} ms"


def play(client: PolicyClient, config: ClientConfig, task: str) -> None:
    """Play episodes of a task.

    Raises:
        InputError: the simulator lacks the task or a camera, or its world is not the agent's.
    """
    from instructrl.sim import make_checked_env
    from instructrl.sim.vector.pool import Workers

    timed, outcomes = TimedClient(client), Counter[str]()
    sim = simulator(config, client.metadata)
    sim.check_task("task", task)
    factory = partial(make_checked_env, sim, task)
    with Workers(factory, 1, timeout=sim.timeout, python=sim.interpreter) as workers:
        variations = workers.ask("variations")
        for index in range(config.episodes):
            start = EpisodeStart(index % variations, FIRST_SEED + config.seed + index)
            instruction, outcome = timed.run_episode(partial(play_episode, workers, timed, start))
            print(f"{instruction}: {outcome}", flush=True)
            outcomes[outcome] += 1
    print(f"success: {outcomes[Outcome.SUCCESS]} of {config.episodes} episodes\n{timed.latency()}")


def play_episode(workers: "Workers", client: TimedClient, start: EpisodeStart) -> tuple[str, str]:
    """Play one episode; returns its instruction and outcome."""
    observation, outcome = workers.ask("reset", start), None
    instruction = observation.instruction
    while outcome is None:
        observation, outcome = workers.ask("step", client.act(observation, instruction))
    return instruction, str(outcome)


def simulator(config: ClientConfig, metadata: Mapping[str, Any]) -> SimConfig:
    """The settings of the simulator, with the cameras of the server's agent.

    Raises:
        InputError: there is no such simulator, or its world is not that of the agent.
    """
    kind, actions = config.sim, metadata.get("actions", KEYFRAME)
    settings = {"cameras": list(metadata["cameras"]), "image_size": metadata["image_size"], "actions": actions}
    sim = SIMULATORS[kind](name=kind, kind=kind, **settings, renderer=config.renderer, python=config.python)
    if actions not in sim.choices("actions"):
        allowed = ", ".join(sim.choices("actions"))
        raise InputError(f"sim={config.sim}: actions: found {actions} of the server's agent; allowed: {allowed}")
    for key, ours in (("state", sim.state), ("workspace", sim.bounds.numbers)):
        if key in metadata and list(metadata[key]) != list(ours):
            raise InputError(
                f"sim={config.sim}: {key}: found {format_value(list(ours))}; the server's agent was trained in a world "
                f"with {format_value(list(metadata[key]))}; play that one"
            )
    return sim


def replay(client: PolicyClient, config: ClientConfig, file: str) -> None:
    """Send the observations of recorded episodes, and compare the actions with the recorded ones.

    Raises:
        InputError: the file cannot be read, or its cameras or images are not the agent's.
    """
    from instructrl.data.demonstrations.dataset import DemonstrationDataset

    timed, errors = TimedClient(client), list[np.ndarray]()
    with DemonstrationDataset(file) as data:
        views = camera_order(data, client)
        for index in range(min(config.episodes, len(data))):
            steps = data.episode(index)
            errors.append(timed.run_episode(partial(replay_episode, timed, steps, views)))
            print(f"episode {index}: {steps.instructions[0]}: {summary(errors[-1])}", flush=True)
    print(f"all: {summary(np.concatenate(errors))}\n{timed.latency()}")


def camera_order(data: "DemonstrationDataset", client: PolicyClient) -> list[int]:
    """The indices of the agent's cameras in a file.

    Raises:
        InputError: one is missing, or the images are of another size.
    """
    missing = [name for name in client.cameras if name not in data.cameras]
    if missing or data.image_size != client.image_size:
        raise InputError(
            f"{data.path}: found the cameras {', '.join(data.cameras)} with images of {data.image_size} pixels; the "
            f"server's agent needs {', '.join(client.cameras)} with {client.image_size}; choose other demonstrations"
        )
    return [data.cameras.index(name) for name in client.cameras]


def replay_episode(client: TimedClient, steps: "EpisodeSteps", views: list[int]) -> np.ndarray:
    """The errors [T, 3] of the actions in an episode: position (cm), rotation (degrees), gripper (1 if wrong)."""
    instruction, errors = steps.instructions[0], []
    for step, recorded in enumerate(steps.actions):
        matrices = steps.intrinsics[step, views], steps.extrinsics[step, views]
        seen = Observation(steps.images[step, views], steps.state[step], *matrices, instruction)
        action = client.act(seen, instruction)
        angle = np.degrees(rotation_angle(action[3:7], recorded[3:7]))
        errors.append([100 * np.linalg.norm(action[:3] - recorded[:3]), angle, action[7] != recorded[7]])
    return np.array(errors, np.float64)


def summary(errors: np.ndarray) -> str:
    """The means of errors [T, 3]."""
    position, rotation, gripper = errors.mean(axis=0)
    return f"{len(errors)} keyframes, {position:.1f} cm, {rotation:.0f} degrees, gripper right in {1 - gripper:.2f}"


def main() -> None:
    """Run the command."""
    with report_user_errors():
        config = tool_settings(sys.argv[1:], ClientConfig, prog=PROG, about=__doc__)
        if (config.task is None) == (config.file is None):
            found = "neither" if config.task is None else "both"
            raise InputError(f"task, file: found {found}; allowed: one of them; see {PROG} --help")
        token = read_token(config.token_file)
        with stopwatch("waiting for the server", said=False):
            connected = PolicyClient(config.url, token=token, wait=config.wait)
        with connected as client:
            about = client.metadata
            print(f"{config.url}: {about.get('server')}, cameras {', '.join(client.cameras)}", flush=True)
            if config.task is not None:
                play(client, config, config.task)
            elif config.file is not None:
                replay(client, config, config.file)


if __name__ == "__main__":
    main()
