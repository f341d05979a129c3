"""Rollout episodes per minute with the policy in the loop, against the same episodes without inference.

Both replay the expert's actions, so that simulator and renderer do the same work; one of them also runs the quickstart
agent on every observation, as an evaluation does. The ratio is the cost of inference, by wall time.

Before them, for the ten tasks of task=multi_10, the milliseconds of processor time of an episode and the shares of it
that place the scene, move the arm and draw: medians over episodes, and the smallest and largest.
"""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from instructrl.cli.entry import compose
from instructrl.config.training import TrainConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.evaluation.evaluator import EVALUATION_SEEDS, fixed_starts
from instructrl.evaluation.rollout import EpisodeSpec, Policy, run_rollouts
from instructrl.evaluation.worker_env import TaskInfo
from instructrl.evaluation.workers import start_eval_workers, task_info
from instructrl.inference.batched_agent import BatchedAgent
from instructrl.sim import EpisodeStart, ObservesApart, make_env, rendering
from instructrl.sim.vector.pool import Workers
from instructrl.training.model_factory import dummy_batch, make_agent, random_params
from instructrl.types import Observation
from tests.fixtures.rounds import alternate, ratio, wall

EPISODES = 40
TASKS = ("reach_target", "push_button", "pick_and_lift")


class Replay:
    """Replays recorded actions; runs the given policy on each observation first, if any."""

    def __init__(self, actions: Mapping[int, np.ndarray], slots: int, inner_policy: Policy | None):
        self._waiting = [[actions[i] for i in sorted(actions) if i % slots == slot] for slot in range(slots)]
        self._left: dict[int, list[np.ndarray]] = {}
        self._inner_policy = inner_policy

    def start_episode(self, slot: int, instruction: str) -> None:
        self._left[slot] = list(self._waiting[slot].pop(0))
        if self._inner_policy is not None:
            self._inner_policy.start_episode(slot, instruction)

    def act(self, observations: dict[int, Observation]) -> dict[int, np.ndarray]:
        if self._inner_policy is not None:
            self._inner_policy.act(observations)
        return {slot: self._left[slot].pop(0) for slot in observations}


def untrained_agent(config: TrainConfig, info: TaskInfo, *, slots: int) -> BatchedAgent:
    """An agent with random parameters, whose inference takes as long as that of a trained one."""
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    params = random_params(agent, dummy_batch(config, tokenizer), seed=0)
    return BatchedAgent(agent, params, tokenizer, slots=slots, steps=info.max_steps)


def seconds(
    workers: Workers, starts: Mapping[int, EpisodeStart], actions: Mapping[int, np.ndarray], inner_policy: Policy
) -> tuple[np.ndarray, np.ndarray]:
    """Wall time of all episodes [rounds], without and with the policy."""
    specs = {index: EpisodeSpec(start) for index, start in starts.items()}

    def roll_out(policy: Policy | None) -> Callable[[], object]:
        return lambda: run_rollouts(workers, Replay(actions, len(workers), policy), specs=specs)

    found = alternate({"without": roll_out(None), "with": roll_out(inner_policy)})
    return wall(found["without"]), wall(found["with"])


def episode_parts(task: str, renderer: str) -> np.ndarray:
    """Seconds of processor time of placing, moving and drawing, in episodes of the expert [episodes 3]."""
    config = compose("train", TrainConfig, ["experiment=quickstart", f"task={task}", f"sim.renderer={renderer}"])
    env = make_env(config.sim, task)
    assert isinstance(env, ObservesApart)
    found = []
    for seed in range(EPISODES + 1):  # the first one starts the renderer
        start = EpisodeStart(seed % env.variations, seed)
        actions = env.demonstrate(start)[0].actions
        times = [time.process_time()]
        env.reset(start)
        times.append(time.process_time())
        env.observe()
        times.append(time.process_time())
        placing, moving, drawing = 2 * times[1] - times[0] - times[2], 0.0, times[2] - times[1]
        for number, action in enumerate(actions, start=1):
            began = time.process_time()
            env.execute(action)
            moved = time.process_time()
            moving += moved - began
            if number < len(actions):
                env.observe()
                drawing += time.process_time() - moved
        found.append((placing, moving, drawing))
    env.close()
    return np.array(found[1:])


def print_parts(renderers: list[str]) -> None:
    """Print the parts of an episode for each task of task=multi_10."""
    print(f"{'task':<38}{'renderer':<10}{'ms':>7}{'placing':>27}{'moving':>27}{'drawing':>27}")
    for renderer in renderers:
        for task in compose("train", TrainConfig, ["experiment=quickstart", "task=multi_10"]).task.tasks or ():
            parts = episode_parts(task, renderer)
            whole = parts.sum(axis=1)
            shares = "".join(f"{ratio(part, whole):>27}" for part in parts.T)
            print(f"{task:<38}{renderer:<10}{1e3 * np.median(whole):>7.1f}{shares}", flush=True)


def main() -> None:
    """Print both tables."""
    renderers = ["raycast"] + ["opengl"] * (rendering.opengl_backend() is not None)
    print_parts(renderers)
    print(f"{'task':<14}{'renderer':<10}{'workers':>8}{'steps':>7}{'alone/min':>13}{'policy/min':>13}{'ratio':>27}")
    for task in TASKS:
        config = compose("train", TrainConfig, ["experiment=quickstart", f"task={task}"])
        for renderer in renderers:
            with start_eval_workers(config.sim, task, renderer=renderer, count=None) as workers:
                info = task_info(workers, task, None)
                starts = fixed_starts(EPISODES, info.variations, first_seed=EVALUATION_SEEDS, seed=0)
                shown = workers.map("expert", [(start,) for start in starts.values()])
                actions = {index: found[0] for index, found in shown}
                inner_policy = untrained_agent(config, info, slots=len(workers))
                alone, with_policy = seconds(workers, starts, actions, inner_policy)
            steps = sum(map(len, actions.values())) / len(actions)
            rates = "".join(f"{60 * EPISODES / np.median(took):>13.0f}" for took in (alone, with_policy))
            row = f"{task:<14}{renderer:<10}{inner_policy.slots:>8}{steps:>7.2f}"
            print(f"{row}{rates}{ratio(alone, with_policy):>27}", flush=True)


if __name__ == "__main__":
    main()
