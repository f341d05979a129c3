"""RLBench behind the door of `instructrl.sim.env`.

CoppeliaSim lives in the process that makes an `RLBench`, one in each, and may hang there, crash or change what it
likes: use it through `instructrl.sim.workers`. An episode's scene and sentence follow from (task, variation, seed),
because RLBench draws them from numpy's global state, which is seeded for each episode; the planner's random numbers
are CoppeliaSim's own and cannot be seeded, so a motion may differ in its details from one time to the next.
"""

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from instructrl.actions import check_action
from instructrl.batch import ACTION_SIZE, Demonstration, Observation
from instructrl.errors import InputError
from instructrl.sim.env import Outcome, Rules, Start, Step, Tally, replay
from instructrl.sim.keyframes import find_keyframes, keyframe_actions
from instructrl.sim.rlbench.check import check_installation
from instructrl.sim.rlbench.library import Library
from instructrl.sim.rlbench.outcomes import gave_up, not_placed, refusal
from instructrl.sim.rlbench.views import depths, images, matrices, present, state

MAX_STEPS = 25  # keyframes, as PerAct allows
_PLACEMENTS = 5  # times that a scene is drawn, each time of RLBench's own 40 draws
_EXPERT_TRIES = 3  # in the same scene: its planner is random
_HOLD_FRAMES = 5  # of a film, half a second at each keyframe
_NO_ACTIONS = np.zeros((0, ACTION_SIZE), np.float32)

T = TypeVar("T")


class RLBench:
    """One task of RLBench."""

    def __init__(self, task: str, *, cameras: Sequence[str], image_size: int, renderer: str, tries: int):
        """Start CoppeliaSim. `tries`: how often the planner may look for a way to one keyframe.

        Raises:
            InputError: something is not installed, or there is no such task, camera or renderer.
        """
        check_installation()
        self._library = Library()
        self._name, self._cameras, self._tries = task, tuple(cameras), tries
        self._config = self._library.observation_config(self._cameras, image_size=image_size, renderer=renderer)
        self._renderer = renderer
        self._environment, self._task = self._library.launch(task, self._config)
        self.variations, self.max_steps = int(self._task.variation_count()), MAX_STEPS
        self._sentences: dict[int, tuple[str, ...]] = {}
        self.rules, self._instruction = Rules(), ""
        self._tally = Tally(self.rules, max_steps=self.max_steps)
        self._outcome: Outcome | None = Outcome.TIME_LIMIT  # no episode has begun

    def sentences(self, variation: int, *, held_out: bool = False) -> tuple[str, ...]:
        """RLBench's sentences for a variation; it keeps none for testing. The first time ends an episode under way."""
        self._check(Start(variation, 0))
        if held_out:
            return ()
        if variation not in self._sentences:
            self._begin(Start(variation, 0))
            self._outcome = Outcome.TIME_LIMIT
        return self._sentences[variation]

    def reset(self, start: Start) -> Observation:
        """Begin an episode; its instruction is one of RLBench's sentences, chosen by the seed."""
        return self._begin(start)

    def rivals(self) -> tuple[int, ...]:
        """None: RLBench does not say what else could be asked for in a scene."""
        return ()

    def step(self, action: np.ndarray) -> Step:
        """Execute one keyframe action (8 numbers); a bad action is an outcome, not an exception."""
        if self._outcome is not None:
            raise RuntimeError("the episode is over: reset before the next step")
        self._outcome = self._tally.count(self._try(action))
        return Step(self._observe(), self._outcome)

    def demonstrate(self, start: Start) -> tuple[Demonstration, Outcome]:
        """Let RLBench's expert play, and replay its keyframes in the same scene: frames and outcome are the replay's.

        Without a demonstration by the expert there is the first frame, no action, and the outcome `EXPERT_FAILURE`.
        """
        actions = self._expert(start)
        first, variation = self._begin(start), start.variation
        sentences = self._sentences[variation]
        demonstration, outcome = replay(
            first, self.step, actions, instructions=sentences, variation=variation, seed=start.seed
        )
        return demonstration, outcome or (Outcome.TIME_LIMIT if len(actions) else Outcome.EXPERT_FAILURE)

    def film(self, start: Start, actions: np.ndarray, *, size: int) -> np.ndarray:
        """Replay actions from a fresh start: the front camera (else the first) at the start and at each keyframe."""
        camera = self._cameras.index("front") if "front" in self._cameras else 0
        shots = [self._begin(start).images[camera]]
        for action in actions:
            if self._outcome is None:
                shots.append(self.step(action).observation.images[camera])
        video = np.stack([np.asarray(Image.fromarray(shot).resize((size, size))) for shot in shots])
        return np.repeat(video, _HOLD_FRAMES, axis=0)

    def depths(self) -> np.ndarray:
        """What the cameras measure now: metres along the optical axis, float32 [K, H, W]."""
        with self._recording(rgb=False, depth=True):
            return depths(self._task.get_observation(), self._cameras)

    def provenance(self) -> dict[str, str]:
        """What must be recorded beside data made here."""
        return {
            "simulator": "rlbench",
            **self._library.versions(),
            "renderer": self._renderer,
            "opengl": self._library.opengl(),
            "expert": "waypoints, replayed as keyframes",
        }

    def close(self) -> None:
        """End CoppeliaSim. It may hang: whoever asks for it gives it a few seconds."""
        self._environment.shutdown()

    def _check(self, start: Start) -> None:
        if not 0 <= start.variation < self.variations:
            allowed = f"expected 0..{self.variations - 1} for task={self._name}"
            raise InputError(f"variation: found {start.variation}, {allowed}")
        if start.seed < 0:
            raise InputError(f"seed: found {start.seed}, expected 0 or more")
        if start.goal is not None:
            raise InputError(f"goal: found {start.goal}, expected null: on RLBench only the scene's own can be judged")

    def _prepare(self, start: Start) -> np.random.Generator:
        """Seed all that RLBench draws from; the generator answered is for what we draw ourselves."""
        self._check(start)
        source = np.random.SeedSequence((zlib.crc32(self._name.encode()), start.variation, start.seed))
        theirs, plain, ours = source.spawn(3)
        np.random.seed(theirs.generate_state(8))
        random.seed(int(plain.generate_state(1)[0]))
        self._task.set_variation(start.variation)
        return np.random.default_rng(ours)

    def _begin(self, start: Start) -> Observation:
        rng = self._prepare(start)
        descriptions, self._seen = self._placed(self._task.reset)
        sentences = tuple(str(text) for text in descriptions)
        if not sentences:
            raise RuntimeError(f"task {self._name} has no sentence for variation {start.variation}")
        self._sentences[start.variation] = sentences
        self._instruction = sentences[int(rng.integers(len(sentences)))]
        self._tally, self._outcome = Tally(self.rules, max_steps=self.max_steps), None
        return self._observe()

    def _placed(self, draw: Callable[[], T]) -> T:
        """What comes of drawing a scene; where RLBench cannot place it, the next draw of the same seed."""
        for left in reversed(range(_PLACEMENTS)):
            try:
                return draw()
            except Exception as error:
                if not (not_placed(error) and left):
                    raise
        raise AssertionError

    def _try(self, action: np.ndarray) -> Outcome | None:
        try:
            checked = check_action(action)
        except InputError:
            return Outcome.INVALID_ACTION
        numbers = np.append(checked, 1.0) if self._library.takes_collisions else checked
        for left in reversed(range(self._tries)):
            try:
                self._seen, reward, terminated = self._task.step(numbers)
            except Exception as error:
                outcome, again = refusal(error)
                if not (again and left):
                    return outcome
            else:
                return Outcome.SUCCESS if reward >= 1 else Outcome.FAILURE if terminated else None
        raise AssertionError

    def _expert(self, start: Start) -> np.ndarray:
        """The keyframe actions [T 8] of RLBench's expert in this scene; none if it fails."""
        for _ in range(_EXPERT_TRIES):
            self._prepare(start)
            try:
                with self._recording(rgb=False, depth=False):
                    demo = self._placed(self._live_demo)
                return _NO_ACTIONS if demo is None else self._actions([demo[frame] for frame in range(len(demo))])
            except InputError:
                return _NO_ACTIONS
            except Exception as error:
                if not gave_up(error):
                    raise
        return _NO_ACTIONS

    def _live_demo(self) -> Any:
        """The expert's episode in the next scene; None if it was in another one, drawn after a failure in this one."""
        _, keys, place, *_ = np.random.get_state()
        [demo] = self._library.live_demos(self._task)
        _, drawn, at, *_ = getattr(demo, "random_seed", None) or (None, keys, place)
        return demo if at == place and np.array_equal(drawn, keys) else None

    def _actions(self, frames: Sequence[Any]) -> np.ndarray:
        opened = np.array([present(frame, "gripper_open") for frame in frames])
        speeds = np.array([present(frame, "joint_velocities") for frame in frames])
        poses = np.array([present(frame, "gripper_pose") for frame in frames])
        return keyframe_actions(poses, opened, find_keyframes(opened, speeds))

    @contextmanager
    def _recording(self, *, rgb: bool, depth: bool) -> Iterator[None]:
        """Let the cameras record something else for a while: RLBench reads our settings at each observation."""
        used = [getattr(self._config, f"{name}_camera") for name in self._cameras]
        for camera in used:
            camera.rgb, camera.depth = rgb, depth
        try:
            yield
        finally:
            for camera in used:
                camera.rgb, camera.depth = True, False

    def _observe(self) -> Observation:
        intrinsics, extrinsics = matrices(self._seen, self._cameras)
        return Observation(
            images=images(self._seen, self._cameras),
            state=state(self._seen, -1.0 + 2.0 * self._tally.steps / self.max_steps),
            intrinsics=intrinsics,
            extrinsics=extrinsics,
            instruction=self._instruction,
        )
