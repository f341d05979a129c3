"""Rollout episodes per minute with the policy in the loop, against the same episodes without inference.

Both replay the expert's actions, so that simulator and renderer do the same work; one of them also runs the quickstart
agent on every observation, as an evaluation does. The ratio is the cost of inference; best of a few rounds.

Before them, the milliseconds of processor time that an episode takes to place its scene, to move the arm and to draw,
for the ten tasks of task=multi_10, medians over episodes.
"""

import sys
import time
from collections.abc import Mapping
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

ROUNDS, EPISODES = 3, 40
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


def episodes_per_minute(
    workers: Workers, starts: Mapping[int, EpisodeStart], actions: Mapping[int, np.ndarray], inner_policy: Policy
) -> tuple[float, float]:
    """The best of alternating rounds without and with the policy."""
    specs = {index: EpisodeSpec(start) for index, start in starts.items()}
    rounds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * (ROUNDS + 1)):
        use_policy = number % 2 == 1
        began = time.perf_counter()
        run_rollouts(workers, Replay(actions, len(workers), inner_policy if use_policy else None), specs=specs)
        rounds[use_policy].append(60 * len(specs) / (time.perf_counter() - began))
    return max(rounds[False][1:]), max(rounds[True][1:])  # the first round compiles


def episode_parts(task: str, renderer: str) -> np.ndarray:
    """Milliseconds of processor time of placing, moving and drawing, medians over episodes of the expert [3]."""
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
    return 1e3 * np.median(found[1:], axis=0)


def print_parts(renderers: list[str]) -> None:
    """Print the parts of an episode for each task of task=multi_10."""
    print(f"{'task':<38}{'renderer':<10}{'placing':>9}{'moving':>9}{'drawing':>9}  ms")
    for renderer in renderers:
        for task in compose("train", TrainConfig, ["experiment=quickstart", "task=multi_10"]).task.tasks or ():
            print(f"{task:<38}{renderer:<10}" + "".join(f"{part:>9.1f}" for part in episode_parts(task, renderer)))


def main() -> None:
    renderers = ["raycast"] + ["opengl"] * (rendering.opengl_backend() is not None)
    print_parts(renderers)
    print(f"{'task':<14}{'renderer':<10}{'workers':>8}{'steps':>7}{'no policy/min':>15}{'policy/min':>12}{'ratio':>7}")
    for task in TASKS:
        config = compose("train", TrainConfig, ["experiment=quickstart", f"task={task}"])
        for renderer in renderers:
            with start_eval_workers(config.sim, task, renderer=renderer, count=None) as workers:
                info = task_info(workers, task, None)
                starts = fixed_starts(EPISODES, info.variations, first_seed=EVALUATION_SEEDS, seed=0)
                shown = workers.map("expert", [(start,) for start in starts.values()])
                actions = {index: found[0] for index, found in shown}
                inner_policy = untrained_agent(config, info, slots=len(workers))
                alone, with_policy = episodes_per_minute(workers, starts, actions, inner_policy)
            steps = sum(map(len, actions.values())) / len(actions)
            row = f"{task:<14}{renderer:<10}{inner_policy.slots:>8}{steps:>7.2f}"
            print(f"{row}{alone:>15.0f}{with_policy:>12.0f}{with_policy / alone:>7.2f}")


if __name__ == "__main__":
    main()
