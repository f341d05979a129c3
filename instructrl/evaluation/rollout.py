"""Episodes with a policy in the loop: simulators in lock-step, one batched call of the policy per step."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from instructrl.actions import check_action
from instructrl.batch import ACTION_SIZE, Observation
from instructrl.errors import InputError
from instructrl.sim import Outcome, Start
from instructrl.sim.workers import Request, WorkerFailure, Workers


class Actor(Protocol):
    """A policy that plays several episodes at once; it keeps each slot's history between calls."""

    def begin(self, slot: int, instruction: str) -> None:
        """A new episode starts in this slot: forget what was seen there."""
        ...

    def act(self, observations: dict[int, Observation]) -> dict[int, np.ndarray]:
        """The action [8] of every slot that is given, one lock-step."""
        ...


@dataclass(frozen=True)
class Plan:
    """An episode to be played; without an instruction it is the environment's own, chosen by the seed."""

    start: Start
    instruction: str | None = None


@dataclass(frozen=True)
class Episode:
    """An episode that was played: enough to count it and, by replay, to film it."""

    start: Start
    instruction: str
    outcome: Outcome
    actions: np.ndarray  # T 8, float64, as the simulator took them

    @property
    def steps(self) -> int:
        """Keyframe actions that were executed."""
        return len(self.actions)

    @property
    def success(self) -> bool:
        """Whether the task was done."""
        return self.outcome is Outcome.SUCCESS


class _Lane:
    """One slot: the episodes still to come, and the one being played."""

    def __init__(self, waiting: list[int]):
        self.waiting = deque(waiting)
        self.index = -1
        self.instruction = ""
        self.actions: list[np.ndarray] = []


class _LockStep:
    """All slots between two calls of the policy."""

    def __init__(self, slots: int, plans: Mapping[int, Plan], on_episode: Callable[[int, Episode], None] | None):
        self._plans, self._on_episode = plans, on_episode
        self._lanes = [_Lane([i for i in sorted(plans) if i % slots == slot]) for slot in range(slots)]
        self.done: dict[int, Episode] = {}

    def receive(self, answers: Mapping[int, Any], actor: Actor) -> dict[int, Observation]:
        """Take the simulators' answers; what the policy has to answer to."""
        seen = {}
        for slot in sorted(answers):
            lane, answer = self._lanes[slot], answers[slot]
            if isinstance(answer, WorkerFailure):
                self._finish(lane, Outcome.SIMULATOR_ERROR)
            elif isinstance(answer, Observation):
                instruction = self._plans[lane.index].instruction
                lane.instruction = answer.instruction if instruction is None else instruction
                actor.begin(slot, lane.instruction)
                seen[slot] = answer
            elif answer.outcome is None:
                seen[slot] = answer.observation
            else:
                self._finish(lane, answer.outcome)
        return {slot: view._replace(instruction=self._lanes[slot].instruction) for slot, view in seen.items()}

    def requests(self, actions: Mapping[int, np.ndarray]) -> dict[int, Request]:
        """What the simulators do next: the policy's actions, and new episodes in slots that are free."""
        requests: dict[int, Request] = {}
        for slot, lane in enumerate(self._lanes):
            if slot in actions:
                try:
                    lane.actions.append(check_action(actions[slot]))
                except InputError:
                    self._finish(lane, Outcome.INVALID_ACTION)
                else:
                    requests[slot] = ("step", (lane.actions[-1],))
            if slot not in requests and lane.waiting:
                requests[slot] = ("reset", (self._next(lane).start,))
        return requests

    def _next(self, lane: _Lane) -> Plan:
        lane.index = lane.waiting.popleft()
        plan = self._plans[lane.index]
        lane.instruction, lane.actions = plan.instruction or "", []
        return plan

    def _finish(self, lane: _Lane, outcome: Outcome) -> None:
        actions = np.array(lane.actions, np.float64).reshape(-1, ACTION_SIZE)
        episode = Episode(self._plans[lane.index].start, lane.instruction, outcome, actions)
        self.done[lane.index] = episode
        if self._on_episode is not None:
            self._on_episode(lane.index, episode)


def rollouts(
    workers: Workers,
    actor: Actor,
    *,
    plans: Mapping[int, Plan],
    on_episode: Callable[[int, Episode], None] | None = None,
) -> dict[int, Episode]:
    """Play every plan and answer the episodes by the plans' numbers; each is reported as soon as it ends.

    Episode i is played in slot i % slots, after the smaller numbers of that slot: who is quicker changes nothing.
    """
    lock_step = _LockStep(len(workers), plans, on_episode)
    requests = lock_step.requests({})
    while requests:
        seen = lock_step.receive(workers.call(requests), actor)
        requests = lock_step.requests(actor.act(seen) if seen else {})
    return {index: lock_step.done[index] for index in sorted(lock_step.done)}
