"""A fake simulator of four numbered objects at known positions, for tests of the layers above simulators."""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from instructrl.evaluation.worker_env import EvalEnv
from instructrl.sim import EpisodeLimits, EpisodeStart, Outcome, Step, StepCounter
from instructrl.sim.vector.pool import Request, WorkerFailure, Workers
from instructrl.types import Demonstration, Observation

VARIATIONS = 4
MAX_STEPS = 3
TRAINING = ("touch {}", "go to {}")
HELD_OUT = ("approach {}",)


class FakeEnv:
    """Success: a second action at the goal's position. Row v of the camera matrix is the position of object v.

    `deadly` seeds end the process at the first step, on every attempt.
    """

    variations, max_steps = VARIATIONS, MAX_STEPS

    def __init__(
        self,
        *,
        alternative_goals: bool = True,
        held_out: bool = True,
        deadly: tuple[int, ...] = (),
        exits: bool = False,
    ):
        self._has_rivals, self._held_out, self._deadly, self._exits = alternative_goals, held_out, deadly, exits
        self.limits = EpisodeLimits()

    def instructions(self, variation: int, *, held_out: bool = False) -> tuple[str, ...]:
        if held_out and not self._held_out:
            return ()
        return tuple(text.format(variation) for text in (HELD_OUT if held_out else TRAINING))

    def reset(self, start: EpisodeStart) -> Observation:
        rng = np.random.default_rng((start.variation, start.seed))
        self._places = rng.uniform(0.0, 1.0, (VARIATIONS, 3))
        self._goal = start.variation if start.goal is None else start.goal
        self._sentence = self.instructions(self._goal)[int(rng.integers(2))]
        self._start, self._counter = start, StepCounter(self.limits, max_steps=self.max_steps)
        return self._observe()

    def alternative_goals(self) -> tuple[int, ...]:
        self._die_if_deadly()
        return tuple(v for v in range(VARIATIONS) if v != self._start.variation) if self._has_rivals else ()

    def step(self, action: np.ndarray) -> Step:
        self._die_if_deadly()
        assert np.isfinite(action).all(), "an invalid action was sent to the simulator"
        at_goal = np.abs(action[:3] - self._places[self._goal]).max() < 1e-3
        outcome = Outcome.UNREACHABLE if action[2] > 10 else None
        if self._counter.steps >= 1 and at_goal:
            outcome = Outcome.SUCCESS
        return Step(self._observe(), self._counter.count(outcome))

    def demonstrate(self, start: EpisodeStart) -> tuple[Demonstration, Outcome]:
        first = self.reset(start)
        actions = np.stack([towards(self._places[self._goal])] * 2).astype(np.float32)
        for action in actions:
            outcome = self.step(action).outcome
        many = [first] * 3
        return Demonstration(
            images=np.stack([o.images for o in many]),
            state=np.stack([o.state for o in many]),
            intrinsics=np.stack([o.intrinsics for o in many]),
            extrinsics=np.stack([o.extrinsics for o in many]),
            keyframes=np.array([1, 2]),
            actions=actions,
            instructions=self.instructions(self._goal),
            variation=self._goal,
            seed=start.seed,
        ), outcome

    def film(self, start: EpisodeStart, actions: np.ndarray, *, size: int) -> np.ndarray:
        self.reset(start)
        video = np.zeros((3 + len(actions), size, size, 3), np.uint8)
        for frame, frame_image in enumerate(video):
            frame_image[:, : (frame + 1) * size // len(video)] = (200, 40 * self._goal, 60)
        return video

    def provenance(self) -> dict[str, str]:
        return {"simulator": "fake", "version": "1", "renderer": "raycast", "expert": "direct"}

    def close(self) -> None:
        pass

    def _observe(self) -> Observation:
        matrix = np.zeros((1, 4, 4), np.float32)
        matrix[0, :, :3] = self._places
        images = np.full((1, 8, 8, 3), self._start.seed % 251, np.uint8)
        return Observation(images, np.zeros(4, np.float32), np.zeros((1, 3, 3), np.float32), matrix, self._sentence)

    def _die_if_deadly(self) -> None:
        if self._start.seed in self._deadly:
            if self._exits:
                os._exit(3)
            raise ConnectionError


class FakeEnvWithExpert(FakeEnv):
    """The same, with an expert that says what it would do in any state."""

    def expert_actions(self) -> list[np.ndarray]:
        if self._counter.steps >= 2:
            return []
        order = [self._goal, *(v for v in range(VARIATIONS) if v != self._goal)]
        return [towards(self._places[v])[None] for v in order]


class InlineWorkers:
    """`Workers` without processes; results of `map` arrive in reverse order, which is allowed."""

    def __init__(
        self,
        count: int = 3,
        *,
        limits: EpisodeLimits = EpisodeLimits(),  # noqa: B008
        expert: bool = True,
        **settings: Any,
    ):
        kind = FakeEnvWithExpert if expert else FakeEnv
        self._envs = [EvalEnv(kind(**settings), limits) for _ in range(count)]
        self.calls: list[tuple[int, Request]] = []

    def __len__(self) -> int:
        return len(self._envs)

    def __enter__(self) -> "InlineWorkers":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    ask = Workers.ask

    def call(self, requests: Mapping[int, Request]) -> dict[int, Any]:
        return {slot: self._one(slot, request) for slot, request in reversed(requests.items())}

    def map(self, method: str, arguments: Iterable[tuple]) -> Iterator[tuple[int, Any]]:
        for index, given in reversed(list(enumerate(arguments))):
            yield index, self._one(index % len(self), (method, given))

    def _one(self, slot: int, request: Request) -> Any:
        self.calls.append((slot, request))
        try:
            return getattr(self._envs[slot], request[0])(*request[1])
        except ConnectionError:
            return WorkerFailure("it died twice")


def make_fake_env(**settings: Any) -> EvalEnv:
    """Environment factory for real workers."""
    return EvalEnv(FakeEnv(exits=True, **settings))


def towards(place: np.ndarray) -> np.ndarray:
    """The action that moves to a position."""
    return np.array([*place, 0.0, 0.0, 0.0, 1.0, 1.0])


def without_clock(results: Any) -> Any:
    """The results of an evaluation without times and dates."""
    if isinstance(results, dict):
        return {
            k: without_clock(v) for k, v in results.items() if k not in ("wall_seconds", "episodes_per_minute", "date")
        }
    return results


class FakePolicy:
    """Moves to the object whose number is the last word of the instruction; to object 0 without an instruction.

    It understands an instruction only if its first word is in `knows`; otherwise it moves to object 0.
    """

    def __init__(self, knows: tuple[str, ...] = ("touch", "go", "approach")):
        self._knows = knows
        self.params: dict[str, Any] = {}
        self.instructions: dict[int, str] = {}
        self.started: list[tuple[int, str]] = []

    def start_episode(self, slot: int, instruction: str) -> None:
        self.instructions[slot] = instruction
        self.started.append((slot, instruction))

    def act(self, observations: dict[int, Observation]) -> dict[int, np.ndarray]:
        return {slot: self.answer(slot, seen) for slot, seen in observations.items()}

    def answer(self, slot: int, seen: Observation) -> np.ndarray:
        assert seen.instruction == self.instructions[slot], (
            "the observation has another instruction than `start_episode`"
        )
        words = self.instructions[slot].split()
        target = int(words[-1]) if words and words[0] in self._knows and words[-1].isdigit() else 0
        return towards(seen.extrinsics[0, target, :3])
