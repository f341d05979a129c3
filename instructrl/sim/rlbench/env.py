"""RLBench as an environment of `instructrl.sim.env`.

CoppeliaSim runs inside the process that creates an `RLBench`, once per process, and may hang, crash or change global
state: use it through `instructrl.sim.vector.pool`. An episode's instruction follows from (task, variation, seed), since
RLBench draws from numpy's global state, seeded for each episode; its scene follows from these and the number of
placements that the planner rejected before (see placements.py), which `scene` gives. The planner's random numbers are
CoppeliaSim's own and cannot be seeded, so motions, and the scene of a start without that number, may differ.
"""

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from PIL import Image

from instructrl.config.evaluation import RLBenchProtocol
from instructrl.config.simulators import RLBENCH_CAMERAS, RLBenchConfig
from instructrl.errors import InputError
from instructrl.sim.camera_names import camera_names
from instructrl.sim.env import EpisodeLimits, EpisodeStart, Outcome, Step, StepCounter, StoredScenes, replay
from instructrl.sim.keyframes import find_keyframes, keyframe_actions
from instructrl.sim.rendering import rlbench_renderer
from instructrl.sim.rlbench.library import Library
from instructrl.sim.rlbench.motions import Motions
from instructrl.sim.rlbench.outcomes import is_expert_failure, is_placement_failure
from instructrl.sim.rlbench.stored_episodes import scene_state, stored_scenes
from instructrl.sim.rlbench.tasks import check_tasks
from instructrl.sim.rlbench.views import MAX_STEPS, depths, images, matrices, observed, state
from instructrl.types import ACTION_SIZE, COLLISIONS, KEYFRAME, Demonstration, Observation

_PLACEMENTS = 5  # attempts to draw a scene, each with RLBench's own 40 attempts
_MAX_REJECTED = 40 * _PLACEMENTS
_EXPERT_ATTEMPTS = 3  # in the same scene, since the planner is random
_HOLD_FRAMES = 5  # of a video: half a second per keyframe
_NO_ACTIONS = np.zeros((0, ACTION_SIZE), np.float32)
_FORK = "its actions have no number for it, those of PerAct's fork do: RLBENCH_VARIANT=peract make rlbench"

T = TypeVar("T")


class RLBench:
    """One task of RLBench."""

    def __init__(
        self,
        task: str,
        *,
        cameras: str | Sequence[str],
        image_size: int,
        renderer: str,
        planner_attempts: int,
        collisions: bool = False,
    ):
        """Start CoppeliaSim.

        Args:
            task: its name.
            cameras: names of the cameras.
            image_size: side of the images in pixels.
            renderer: CoppeliaSim's.
            planner_attempts: maximum number of planner calls per keyframe.
            collisions: demonstrate actions of nine numbers, with the expert's choice to ignore collisions.

        Raises:
            InputError: a part is not installed, the task, camera or renderer does not exist, or the installed variant
                has no number for collisions.
        """
        self.check_tasks([task])
        self._library, self._collisions = Library(), collisions
        if collisions and not self._library.takes_collisions:
            allowed = f"allowed with the installed RLBench: {KEYFRAME}"
            raise InputError(f"sim.actions: found {COLLISIONS}; {allowed}; {_FORK}")
        self._name = task
        self._cameras = camera_names(cameras, RLBENCH_CAMERAS)
        self._config = self._library.observation_config(self._cameras, image_size=image_size, renderer=renderer)
        self._renderer = renderer
        self._environment, self._task = self._library.launch(task, self._config)
        takes_collisions = self._library.takes_collisions
        self._motions = Motions(self._task.step, takes_collisions=takes_collisions, attempts=planner_attempts)
        self.variations, self.max_steps = int(self._task.variation_count()), MAX_STEPS
        self._instructions: dict[int, tuple[str, ...]] = {}
        self.limits, self._instruction = EpisodeLimits(), ""
        self._counter = StepCounter(self.limits, max_steps=self.max_steps)
        self._outcome: Outcome | None = Outcome.TIME_LIMIT  # no episode has begun
        self.scene = EpisodeStart(0, 0)

    @classmethod
    def from_config(cls, config: RLBenchConfig, task: str) -> Self:
        """Start CoppeliaSim with a task, at most once per process."""
        return cls(
            task,
            cameras=config.cameras,
            image_size=config.image_size,
            renderer=cls.available_renderer(config.renderer),
            planner_attempts=config.planner_attempts,
            collisions=config.actions == COLLISIONS,
        )

    @classmethod
    def available_renderer(cls, requested: str) -> str:
        """The renderer to use on this machine."""
        return rlbench_renderer(requested)

    @classmethod
    def check_tasks(cls, names: Sequence[str]) -> None:
        """Raise InputError if RLBench is not installed, or lacks one of these tasks."""
        check_tasks(names)

    @classmethod
    def stored_scenes(cls, folder: Path, task: str) -> StoredScenes:
        """The scenes of a task's demonstrations that RLBench's dataset generator stored in this folder."""
        return stored_scenes(folder, task)

    def follow(self, choices: RLBenchProtocol) -> None:
        """Execute the actions of later episodes by these choices.

        Raises:
            InputError: collisions are to be checked, which the installed variant takes no number for.
        """
        if not (choices.ignore_collisions or self._library.takes_collisions):
            raise InputError(
                f"protocol.rlbench.ignore_collisions: found false; allowed with the installed RLBench: true; {_FORK}"
            )
        self._motions.choices = choices
        self._library.clips_targets = choices.clip_to_workspace

    def instructions(self, variation: int, *, held_out: bool = False) -> tuple[str, ...]:
        """RLBench's instructions of a variation, none of them held out. The first call ends the current episode."""
        self._check_start(EpisodeStart(variation, 0))
        if held_out:
            return ()
        if variation not in self._instructions:
            self._begin(EpisodeStart(variation, 0))
            self._outcome = Outcome.TIME_LIMIT
        return self._instructions[variation]

    def reset(self, start: EpisodeStart) -> Observation:
        """Begin an episode; its instruction is one of RLBench's, chosen by the seed."""
        return self._begin(start)

    def alternative_goals(self) -> tuple[int, ...]:
        """Always empty: RLBench does not provide the alternative goals of a scene."""
        return ()

    def step(self, action: np.ndarray) -> Step:
        """Execute one keyframe action of 8 numbers, or 9 with PerAct's fork; an invalid one is an outcome."""
        if self._outcome is not None:
            raise RuntimeError("the episode is over: reset before the next step")
        self._outcome = self._counter.count(self._motions.execute(action))
        return Step(self._observe(), self._outcome)

    def demonstrate(self, start: EpisodeStart) -> tuple[Demonstration, Outcome]:
        """Run RLBench's expert and replay its keyframes in the same scene; frames and outcome are those of the replay.

        If the expert fails, returns the first frame, no actions, and the outcome `EXPERT_FAILURE`.
        """
        actions, scene = self._expert(start)
        first, variation = self._begin(scene), start.variation
        instructions = self._instructions[variation]
        demonstration, outcome = replay(
            first, self.step, actions, instructions=instructions, variation=variation, seed=start.seed
        )
        demonstration = demonstration._replace(rejected_placements=self.scene.rejected_placements)
        return demonstration, outcome or (Outcome.TIME_LIMIT if len(actions) else Outcome.EXPERT_FAILURE)

    def film(self, start: EpisodeStart, actions: np.ndarray, *, size: int) -> np.ndarray:
        """Replay actions; the video shows the front camera (else the first) at the start and at each keyframe."""
        camera = self._cameras.index("front") if "front" in self._cameras else 0
        frames = [self._begin(start).images[camera]]
        for action in actions:
            if self._outcome is None:
                frames.append(self.step(action).observation.images[camera])
        video = np.stack([np.asarray(Image.fromarray(shot).resize((size, size))) for shot in frames])
        return np.repeat(video, _HOLD_FRAMES, axis=0)

    def depths(self) -> np.ndarray:
        """Current depth images: metres along the optical axis, float32 [K, H, W]."""
        with self._recording(rgb=False, depth=True):
            return depths(self._task.get_observation(), self._cameras)

    def provenance(self) -> dict[str, str]:
        """Simulator, version, renderer and expert, to be recorded with generated data."""
        return {
            "simulator": "rlbench",
            **self._library.versions(),
            "renderer": self._renderer,
            "opengl": self._library.opengl(),
            "expert": "waypoints, replayed as keyframes",
            "scenes": "the first placement of a seed in which a planner without a seed finds a way",
        }

    def close(self) -> None:
        """Shut CoppeliaSim down; it may hang, so callers should use a timeout of a few seconds."""
        self._environment.shutdown()

    def _check_start(self, start: EpisodeStart) -> None:
        if not 0 <= start.variation < self.variations:
            allowed = f"expected 0..{self.variations - 1} for task={self._name}"
            raise InputError(f"variation: found {start.variation}, {allowed}")
        if start.seed < 0:
            raise InputError(f"seed: found {start.seed}, expected 0 or more")
        if start.rejected_placements is not None and not 0 <= start.rejected_placements <= _MAX_REJECTED:
            raise InputError(
                f"rejected_placements: found {start.rejected_placements}, expected 0..{_MAX_REJECTED}, or null"
            )
        if start.goal is not None:
            raise InputError(f"goal: found {start.goal}, expected null: RLBench only checks the scene's own variation")

    def _seed(self, start: EpisodeStart, *, expert: bool = False) -> np.random.Generator:
        """Seed RLBench's random number generators; returns a generator for own draws."""
        self._check_start(start)
        stored = scene_state(Path(start.stored)) if start.stored else None
        accepted = stored.placements if stored else None
        self._library.placements.begin(start.rejected_placements, accepted=accepted, expert=expert)
        source = np.random.SeedSequence((zlib.crc32(self._name.encode()), start.variation, start.seed))
        numpy_seed, python_seed, own_seed = source.spawn(3)
        np.random.seed(numpy_seed.generate_state(8))
        if stored:
            np.random.set_state(stored.random_state)
        random.seed(int(python_seed.generate_state(1)[0]))
        self._task.set_variation(start.variation)
        return np.random.default_rng(own_seed)

    def _begin(self, start: EpisodeStart) -> Observation:
        rng = self._seed(start)
        descriptions, observation = self._draw_scene(self._task.reset)
        self._motions.begin(observation)
        self.scene = replace(start, rejected_placements=self._library.placements.rejected)
        instructions = tuple(str(text) for text in descriptions)
        if not instructions:
            raise RuntimeError(f"task {self._name} has no instruction for variation {start.variation}")
        self._instructions[start.variation] = instructions
        self._instruction = instructions[int(rng.integers(len(instructions)))]
        self._counter, self._outcome = StepCounter(self.limits, max_steps=self.max_steps), None
        return self._observe()

    def _draw_scene(self, draw: Callable[[], T]) -> T:
        """Draw a scene; if RLBench cannot place it, draw again with the same seed's next random numbers."""
        for remaining in reversed(range(_PLACEMENTS)):
            try:
                return draw()
            except Exception as error:
                if not (is_placement_failure(error) and remaining):
                    raise
        raise AssertionError

    def _expert(self, start: EpisodeStart) -> tuple[np.ndarray, EpisodeStart]:
        """The keyframe actions [T A] of RLBench's expert, empty if it fails, and the start that restores its scene."""
        scene = start
        for _ in range(_EXPERT_ATTEMPTS):
            self._seed(scene, expert=True)
            try:
                with self._recording(rgb=False, depth=False):
                    demo = self._draw_scene(self._live_demo)
                if demo is None:
                    return _NO_ACTIONS, start
                scene = replace(start, rejected_placements=self._library.placements.rejected)
                return self._actions([demo[frame] for frame in range(len(demo))]), scene
            except InputError:
                return _NO_ACTIONS, scene
            except Exception as error:
                if not is_expert_failure(error):
                    raise
                scene = replace(start, rejected_placements=self._library.placements.rejected)
        return _NO_ACTIONS, scene

    def _live_demo(self) -> Any:
        """The expert's episode in the next scene; None if RLBench moved on to another scene after a failure."""
        _, keys, place, *_ = np.random.get_state()
        [demo] = self._library.live_demos(self._task)
        _, drawn, at, *_ = getattr(demo, "random_seed", None) or (None, keys, place)
        return demo if at == place and np.array_equal(drawn, keys) else None

    def _actions(self, frames: Sequence[Any]) -> np.ndarray:
        opened = np.array([observed(frame, "gripper_open") for frame in frames])
        speeds = np.array([observed(frame, "joint_velocities") for frame in frames])
        poses = np.array([observed(frame, "gripper_pose") for frame in frames])
        ignored = [observed(frame, "ignore_collisions") for frame in frames] if self._collisions else None
        chosen = find_keyframes(opened, speeds)
        return keyframe_actions(poses, opened, chosen, ignore_collisions=None if ignored is None else np.array(ignored))

    @contextmanager
    def _recording(self, *, rgb: bool, depth: bool) -> Iterator[None]:
        """Temporarily change what the cameras record; RLBench reads these settings at each observation."""
        used = [getattr(self._config, f"{name}_camera") for name in self._cameras]
        for camera in used:
            camera.rgb, camera.depth = rgb, depth
        try:
            yield
        finally:
            for camera in used:
                camera.rgb, camera.depth = True, False

    def _observe(self) -> Observation:
        intrinsics, extrinsics = matrices(self._motions.observation, self._cameras)
        return Observation(
            images=images(self._motions.observation, self._cameras),
            state=state(self._motions.observation, -1.0 + 2.0 * self._counter.steps / self.max_steps),
            intrinsics=intrinsics,
            extrinsics=extrinsics,
            instruction=self._instruction,
        )
