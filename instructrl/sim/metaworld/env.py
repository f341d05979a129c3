"""Meta-World as an environment of `instructrl.sim.env`.

Success is Meta-World's own. Its hand never turns, so the quaternion of an action has to be one but has no effect.
"""

import zlib
from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np

from instructrl.actions import check_action
from instructrl.config.simulators import METAWORLD_CAMERAS, METAWORLD_GRIPPER, METAWORLD_OBJECTS, MetaWorldConfig
from instructrl.errors import InputError
from instructrl.sim.camera_names import camera_names
from instructrl.sim.env import EpisodeLimits, EpisodeStart, Outcome, Step, StepCounter, replay
from instructrl.sim.intermediate import observed_between
from instructrl.sim.metaworld.expert import NO_ACTIONS, candidates, expert_path
from instructrl.sim.metaworld.library import STEP_SECONDS, TASKS, Scene, versions
from instructrl.sim.metaworld.motion import Motion
from instructrl.sim.metaworld.sentences import held_out_sentences, sentences
from instructrl.sim.metaworld.views import Views
from instructrl.sim.rendering import working_backend
from instructrl.types import DENSE, Demonstration, Observation

MAX_KEYFRAMES = 25
FILM_CAMERA, FILM_STEPS = "corner2", round(0.1 / STEP_SECONDS)  # steps between two images of a film


class MetaWorld:
    """One task of Meta-World, of one variation: seeds place objects and goals."""

    variations, max_steps = 1, MAX_KEYFRAMES

    def __init__(
        self,
        task: str,
        *,
        cameras: str | Sequence[str],
        image_size: int,
        renderer: str,
        state: Sequence[str] = METAWORLD_GRIPPER,
        intermediate_frames: int | None = None,
    ):
        """Build a task's scene. `renderer` is "egl" or "osmesa"; `state` names the numbers of its observations' state.

        A demonstration records frames on the way to a keyframe every `intermediate_frames` tenths of a second.

        Raises:
            InputError: an unknown task or camera.
        """
        self.check_tasks([task])
        self._name, self._renderer, self._state = task, renderer, tuple(state)
        self._scene = Scene(task)
        self._motion = Motion(self._scene)
        self._interval = intermediate_frames and intermediate_frames * FILM_STEPS
        self._views = Views(self._scene.model, camera_names(cameras, METAWORLD_CAMERAS), image_size)
        self.limits, self._instruction = EpisodeLimits(), ""
        self._counter = StepCounter(self.limits, max_steps=self.max_steps)
        self._outcome: Outcome | None = Outcome.TIME_LIMIT  # no episode has begun

    @classmethod
    def from_config(cls, config: MetaWorldConfig, task: str) -> "MetaWorld":
        """Build a task's scene, with a renderer that works on this machine."""
        from instructrl.sim.metaworld.dense import DenseMetaWorld  # a subclass

        renderer = cls.available_renderer(config.renderer)
        kind = DenseMetaWorld if config.actions == DENSE else cls
        return kind(
            task,
            cameras=config.cameras,
            image_size=config.image_size,
            renderer=renderer,
            state=config.state,
            intermediate_frames=config.intermediate_frames,
        )

    @classmethod
    def available_renderer(cls, requested: str) -> str:
        """The renderer to use on this machine: "egl", or else "osmesa"."""
        return working_backend(requested)

    @classmethod
    def check_tasks(cls, names: Sequence[str]) -> None:
        """Raise InputError if Meta-World lacks one of these tasks."""
        for name in names:
            if name not in TASKS:
                similar = ", ".join(get_close_matches(name, TASKS, n=3, cutoff=0.4) or TASKS[:3])
                raise InputError(f"task.name: found {name}; not one of Meta-World's {len(TASKS)}; similar: {similar}")

    def instructions(self, variation: int, *, held_out: bool = False) -> tuple[str, ...]:
        """The instructions: those for training, or the held-out ones."""
        self._check_start(EpisodeStart(variation, 0))
        return held_out_sentences(self._name) if held_out else sentences(self._name)

    def reset(self, start: EpisodeStart) -> Observation:
        """Begin an episode; its instruction is one of the training instructions, chosen by the seed."""
        self._begin(start)
        return self.observe()

    def alternative_goals(self) -> tuple[int, ...]:
        """Always empty: a scene has one goal."""
        return ()

    def step(self, action: np.ndarray) -> Step:
        """Execute one action (8 numbers); an invalid action is an outcome, not an exception."""
        outcome = self.execute(action)
        return Step(self.observe(), outcome)

    def execute(self, action: np.ndarray) -> Outcome | None:
        """Execute one action, without an observation."""
        if self._outcome is not None:
            raise RuntimeError("the episode is over: reset before the next step")
        try:
            checked = check_action(action)
        except InputError:
            outcome: Outcome | None = Outcome.INVALID_ACTION
        else:
            outcome = self._move(checked[:3], opened=bool(checked[7]))
        self._outcome = self._counter.count(outcome)
        return self._outcome

    def observe(self) -> Observation:
        """The observation of the current state."""
        intrinsics, extrinsics = self._views.matrices(self._scene.data)
        time = min(-1.0 + 2.0 * self._counter.steps / self.max_steps, 1.0)  # a protocol may allow more keyframes
        numbers = (*self._scene.tip(), self._scene.opening(), time, *self._scene.objects())
        state = dict(zip(METAWORLD_GRIPPER + METAWORLD_OBJECTS, numbers, strict=True))
        return Observation(
            images=self._views.images(self._scene.data),
            state=np.array([state[name] for name in self._state], np.float32),
            intrinsics=intrinsics,
            extrinsics=extrinsics,
            instruction=self._instruction,
        )

    def demonstrate(self, start: EpisodeStart) -> tuple[Demonstration, Outcome]:
        """Let the expert play, and replay its actions in the same scene; frames and outcome are those of the replay.

        If the expert fails, returns the first frame, no actions, and the outcome `EXPERT_FAILURE`; if none of its
        keyframes succeeds, the last ones that were tried and their outcome.
        """
        actions = self._expert(start)
        first = self.reset(start)
        with observed_between(self._motion, self._interval, self.observe) as between:
            demonstration, outcome = replay(
                first,
                self.step,
                actions,
                instructions=self.instructions(start.variation),
                variation=start.variation,
                seed=start.seed,
                between=between,
            )
        return demonstration, outcome or (Outcome.TIME_LIMIT if len(actions) else Outcome.EXPERT_FAILURE)

    def film(self, start: EpisodeStart, actions: np.ndarray, *, size: int) -> np.ndarray:
        """Replay actions from a new initial state; returns a video, uint8 [F, size, size, 3], 10 frames per second."""
        self._begin(start)
        views = Views(self._scene.model, (FILM_CAMERA,), size)
        frames, steps = [views.images(self._scene.data)[0]], 0

        def record() -> None:
            nonlocal steps
            steps += 1
            if steps % FILM_STEPS == 0:
                frames.append(views.images(self._scene.data)[0])

        try:
            self._motion.on_step = record
            for action in actions:
                if self.execute(action) is not None:
                    break
            frames.append(views.images(self._scene.data)[0])
        finally:
            self._motion.on_step = None
            views.close()
        return np.stack(frames)

    def provenance(self) -> dict[str, str]:
        """Simulator, versions, renderer and expert, to be recorded with generated data."""
        expert = "closed loop, replayed as keyframes"
        return {"simulator": "metaworld", **versions(), "renderer": self._renderer, "expert": expert}

    def close(self) -> None:
        """Release the renderer."""
        self._views.close()

    def _check_start(self, start: EpisodeStart) -> None:
        for key in ("variation", "goal"):
            if getattr(start, key) not in (0, None):
                raise InputError(f"{key}: found {getattr(start, key)}, expected 0: {self._name} has one variation")
        if start.seed < 0:
            raise InputError(f"seed: found {start.seed}, expected 0 or more")

    def _begin(self, start: EpisodeStart) -> None:
        self._check_start(start)
        source = (zlib.crc32(self._name.encode()), start.variation, start.seed)
        self._scene.begin(np.random.default_rng(source))
        self._motion.begin()
        texts = self.instructions(start.variation)
        self._instruction = texts[int(np.random.default_rng((*source, 1)).integers(len(texts)))]
        self._counter, self._outcome = StepCounter(self.limits, max_steps=self.max_steps), None

    def _expert(self, start: EpisodeStart) -> np.ndarray:
        """The fewest of the expert's keyframes that succeed, else the most, float32 [T 8]; none if it fails itself."""
        self._begin(start)
        path, actions = expert_path(self._scene), NO_ACTIONS
        for actions in candidates(path) if path is not None else ():
            self._begin(start)
            outcomes = (self.execute(action) for action in actions)
            if next((outcome for outcome in outcomes if outcome is not None), None) is Outcome.SUCCESS:
                break
        return actions

    def _move(self, position: np.ndarray, *, opened: bool) -> Outcome | None:
        return self._motion.execute(position, opened=opened)
