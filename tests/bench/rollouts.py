"""Rollout episodes per minute with the policy in the loop, against the same episodes with nobody thinking.

Both play the expert's actions, so that simulator and renderer do the same work; one of them runs the quickstart
agent on every observation besides, as an evaluation does. The ratio is what thinking costs; best of a few rounds.
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from instructrl.batch import Observation
from instructrl.command import compose
from instructrl.config import TrainConfig
from instructrl.data.tokenizer import make_tokenizer
from instructrl.evaluation.actor import AgentActor
from instructrl.evaluation.protocol import EVALUATION_SEEDS, fixed_starts
from instructrl.evaluation.rollout import Actor, Plan, rollouts
from instructrl.evaluation.stage import TaskFacts, stage_workers, task_facts
from instructrl.sim import Start, graphics
from instructrl.sim.workers import Workers
from instructrl.training.state import initial_params, make_agent, one_step

ROUNDS, EPISODES = 3, 40
TASKS = ("reach_target", "push_button", "pick_and_lift")


class Replay:
    """Plays recorded actions; thinks about each observation first if there is somebody to think."""

    def __init__(self, actions: Mapping[int, np.ndarray], slots: int, thinker: Actor | None):
        self._waiting = [[actions[i] for i in sorted(actions) if i % slots == slot] for slot in range(slots)]
        self._left: dict[int, list[np.ndarray]] = {}
        self._thinker = thinker

    def begin(self, slot: int, instruction: str) -> None:
        self._left[slot] = list(self._waiting[slot].pop(0))
        if self._thinker is not None:
            self._thinker.begin(slot, instruction)

    def act(self, observations: dict[int, Observation]) -> dict[int, np.ndarray]:
        if self._thinker is not None:
            self._thinker.act(observations)
        return {slot: self._left[slot].pop(0) for slot in observations}


def untrained(config: TrainConfig, facts: TaskFacts, *, slots: int) -> AgentActor:
    """The agent with random parameters: it thinks as long as a trained one."""
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    params = initial_params(agent, one_step(config, tokenizer), seed=0)
    return AgentActor(agent, params, tokenizer, slots=slots, steps=facts.max_steps)


def episodes_per_minute(
    workers: Workers, starts: Mapping[int, Start], actions: Mapping[int, np.ndarray], thinker: Actor
) -> tuple[float, float]:
    """The best round of each kind, taken in turn: without and with the policy."""
    plans = {index: Plan(start) for index, start in starts.items()}
    rounds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * (ROUNDS + 1)):
        thinking = number % 2 == 1
        began = time.perf_counter()
        rollouts(workers, Replay(actions, len(workers), thinker if thinking else None), plans=plans)
        rounds[thinking].append(60 * len(plans) / (time.perf_counter() - began))
    return max(rounds[False][1:]), max(rounds[True][1:])  # the first round compiles


def main() -> None:
    renderers = ["raycast"] + ["opengl"] * (graphics.opengl_backend() is not None)
    print(f"{'task':<14}{'renderer':<10}{'workers':>8}{'steps':>7}{'no policy/min':>15}{'policy/min':>12}{'ratio':>7}")
    for task in TASKS:
        config = compose("train", TrainConfig, ["experiment=quickstart", f"task={task}"])
        for renderer in renderers:
            with stage_workers(config.sim, task, renderer=renderer, count=None) as workers:
                facts = task_facts(workers, task, None)
                starts = fixed_starts(EPISODES, facts.variations, first_seed=EVALUATION_SEEDS, seed=0)
                shown = workers.map("expert", [(start,) for start in starts.values()])
                actions = {index: found[0] for index, found in shown}
                thinker = untrained(config, facts, slots=len(workers))
                alone, with_policy = episodes_per_minute(workers, starts, actions, thinker)
            steps = sum(map(len, actions.values())) / len(actions)
            row = f"{task:<14}{renderer:<10}{thinker.slots:>8}{steps:>7.2f}"
            print(f"{row}{alone:>15.0f}{with_policy:>12.0f}{with_policy / alone:>7.2f}")


if __name__ == "__main__":
    main()
