"""The embedded simulator as an environment of `instructrl.sim.env`."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from instructrl.actions import check_action, turn_about_approach
from instructrl.errors import InputError
from instructrl.sim.camera_names import camera_names
from instructrl.sim.env import EpisodeLimits, EpisodeStart, Outcome, Step, StepCounter, replay
from instructrl.sim.intermediate import observed_between
from instructrl.sim.mujoco.cameras import extrinsics, intrinsics
from instructrl.sim.rendering import available_renderer, opengl_backend
from instructrl.sim.tabletop.motion import Motion, MotionResult
from instructrl.sim.tabletop.render import Renderer, View, make_renderer
from instructrl.sim.tabletop.scene import CAMERAS, FILM_CAMERA, TIMESTEP
from instructrl.sim.tabletop.task import load_task
from instructrl.sim.tabletop.things import GripperState, SceneObject, find_scene_objects
from instructrl.sim.tabletop.world import World
from instructrl.types import DENSE, Demonstration, Observation
from instructrl.workspace import RLBENCH_WORKSPACE

if TYPE_CHECKING:
    from instructrl.config.environment import SimConfig

_DRAWS = 2000  # placement attempts before the task counts as impossible
_FRAME_SECONDS = 0.1


class Tabletop:
    """One tabletop task; everything follows from (task, variation, seed), independently of earlier episodes."""

    workspace = RLBENCH_WORKSPACE

    def __init__(
        self,
        task: str,
        *,
        cameras: str | Sequence[str],
        image_size: int,
        renderer: str,
        intermediate_frames: int | None = None,
    ):
        """Compile the task's world. `renderer` is "opengl" or "raycast".

        A demonstration records frames on the way to a keyframe every `intermediate_frames` tenths of a second.

        Raises:
            InputError: an unknown task or camera.
        """
        self._name, self._task = task, load_task(task)
        self.cameras = camera_names(cameras, CAMERAS)
        self.variations, self.max_steps = self._task.variations, self._task.max_steps
        self._world = World(
            self._task.bodies(), graspable=self._task.graspable, joint_thresholds=self._task.joint_thresholds
        )
        self._motion = Motion(self._world)
        self._interval = intermediate_frames and intermediate_frames * round(_FRAME_SECONDS / TIMESTEP)
        model = self._world.model
        self._cameras = [model.camera(name).id for name in self.cameras]
        self._intrinsics = np.stack([intrinsics(model, camera, image_size) for camera in self._cameras])
        self._renderer_name = renderer
        self._renderer: Renderer = make_renderer(renderer, model, image_size)
        self._scene_renderer: tuple[int, Renderer] | None = None  # image size, renderer
        self._shown = mujoco.MjData(model)  # the pose that is drawn: the world's own may be between two time steps
        self.view: View | None = None  # of the scene's images; None: that of the video camera
        self._goal_objects: Mapping[int, str] = {}
        self.limits = EpisodeLimits()
        self._counter = StepCounter(self.limits, max_steps=self.max_steps)
        self._goal, self._instruction = 0, ""
        self._keyframe = 0  # of the expert's keyframes, the one that comes next
        self._outcome: Outcome | None = Outcome.TIME_LIMIT  # no episode has begun

    @classmethod
    def from_config(cls, config: "SimConfig", task: str) -> "Tabletop":
        """Create the environment of a task, with a renderer that works on this machine."""
        from instructrl.sim.tabletop.dense import DenseTabletop  # a subclass

        renderer = cls.available_renderer(config.renderer)
        kind = DenseTabletop if config.actions == DENSE else cls
        return kind(
            task,
            cameras=config.cameras,
            image_size=config.image_size,
            renderer=renderer,
            intermediate_frames=config.intermediate_frames,
        )

    @classmethod
    def available_renderer(cls, requested: str) -> str:
        """The renderer to use on this machine."""
        return available_renderer(requested)

    def instructions(self, variation: int, *, held_out: bool = False) -> tuple[str, ...]:
        """The instructions of a variation: those for training, or the held-out ones."""
        self._check_variation(variation)
        return self._task.instructions(variation, held_out=held_out)

    def reset(self, start: EpisodeStart) -> Observation:
        """Begin an episode; its instruction is one of the training instructions, chosen by the seed."""
        self._begin(start)
        return self.observe()

    def alternative_goals(self) -> tuple[int, ...]:
        """Other variations whose goal exists in the current scene."""
        return tuple(variation for variation in self._goal_objects if variation != self._goal)

    def step(self, action: np.ndarray) -> Step:
        """Execute one action (8 numbers); an invalid action is an outcome, not an exception."""
        outcome = self.execute(action)
        return Step(self.observe(), outcome)

    def execute(self, action: np.ndarray) -> Outcome | None:
        """Execute one action, without an observation."""
        if self._outcome is not None:
            raise RuntimeError("the episode is over: reset before the next step")
        self._outcome = self._counter.count(self._try(action))
        return self._outcome

    def observe(self) -> Observation:
        """The observation of the current state."""
        return self._observe(self._world.data)

    def _observe_on_the_way(self) -> Observation:
        """The observation between two time steps, in which the world's own poses are those before the last one."""
        self._world.copy_pose(self._shown)
        return self._observe(self._shown)

    def _observe(self, data: mujoco.MjData) -> Observation:
        """The observation of the current state, whose poses `data` has."""
        world = self._world
        time = min(-1.0 + 2.0 * self._counter.steps / self.max_steps, 1.0)  # a protocol may allow more keyframes
        return Observation(
            images=np.stack([self._renderer.draw(data, camera) for camera in self._cameras]),
            state=np.array([world.opened(), *data.qpos[world.fingers], time], np.float32),
            intrinsics=self._intrinsics,
            extrinsics=np.stack([extrinsics(data, camera) for camera in self._cameras]),
            instruction=self._instruction,
        )

    def demonstrate(self, start: EpisodeStart) -> tuple[Demonstration, Outcome]:
        """Run the expert from a new initial state; records one frame at the start and one after every action.

        And with `intermediate_frames` those on the way.
        """
        first, goal = self.reset(start), self._goal
        with observed_between(self._motion, self._interval, self._observe_on_the_way) as between:
            demonstration, outcome = replay(
                first,
                self.step,
                self._expert(),
                instructions=self.instructions(goal),
                variation=goal,
                seed=start.seed,
                between=between,
            )
        return demonstration, outcome or Outcome.TIME_LIMIT

    def expert_steps(self, start: EpisodeStart) -> Iterator[None]:
        """Run the expert from a new initial state, yielding at the start and after every keyframe."""
        self._begin(start)
        yield
        for action in self._expert():
            outcome = self.execute(action)
            yield
            if outcome is not None:
                return

    def expert_actions(self) -> list[np.ndarray]:
        """The expert's next action in the current state, for the goal and for the other objects: see `OffersExpert`."""
        goal = self._goal_objects[self._goal]
        others = [name for name in (*self._goal_objects.values(), *self._task.distractors) if name != goal]
        plans = [self._task.waypoints(self._world, name) for name in (goal, *others)]
        if self._keyframe >= len(plans[0]):
            return []
        own, *rest = [check_action(plan[self._keyframe]) for plan in plans if self._keyframe < len(plan)]
        turns = 2 * np.pi * np.arange(self._task.symmetry) / self._task.symmetry
        return [np.stack([turn_about_approach(own, turn) for turn in turns]), *(action[None] for action in rest)]

    def camera_image(self, camera: str) -> np.ndarray:
        """The current image of a camera, uint8 [H, W, 3]."""
        return self._renderer.draw(self._world.data, self._world.model.camera(camera).id)

    def scene_objects(self, camera: str) -> list[SceneObject]:
        """The objects in the current scene, and their positions in a camera's image."""
        return find_scene_objects(self._world, self._name, self._world.model.camera(camera).id)

    def goal_object(self) -> str:
        """The object (or objects) that the instruction refers to, in the task's naming: mostly a body's name."""
        return self._goal_objects[self._goal]

    def gripper(self) -> GripperState:
        """The current state of the gripper."""
        return GripperState(self._world.tip(), self._world.opened(), self._world.held())

    def film(self, start: EpisodeStart, actions: np.ndarray, *, size: int) -> np.ndarray:
        """Replay actions from a new initial state; returns a video, uint8 [F, size, size, 3], 10 frames per second."""
        self._begin(start)
        frames: list[np.ndarray] = []
        with self.filming(frames.append, size=size):
            for action in actions:
                if self.execute(action) is not None:
                    break
        return np.stack(frames)

    @contextmanager
    def filming(self, receive: Callable[[np.ndarray], None], *, size: int) -> Iterator[None]:
        """Give the scene's image now, of every 0.1 s of its time in this context, and at the end to `receive`.

        The images, uint8 [size, size, 3], are those of `scene_image`.
        """
        data, began = self._world.data, self._world.data.time
        count = 0

        def record() -> None:
            nonlocal count
            if data.time - began >= count * _FRAME_SECONDS - 1e-9:
                receive(self.scene_image(size=size))
                count += 1

        record()
        self._motion.on_step = record
        try:
            yield
        finally:
            self._motion.on_step = None
        receive(self.scene_image(size=size))

    def provenance(self) -> dict[str, str]:
        """Simulator, version, renderer and expert, to be recorded with generated data."""
        return {
            "simulator": "tabletop",
            "version": mujoco.__version__,
            "renderer": self._renderer_name,
            "opengl": (opengl_backend() or "") if self._renderer_name == "opengl" else "",
            "expert": "waypoints",
        }

    def depths(self) -> np.ndarray:
        """Current depth images: metres along the optical axis, float32 [K, H, W]."""
        return np.stack([self._renderer.depth(self._world.data, camera) for camera in self._cameras])

    def scene_image(self, *, size: int) -> np.ndarray:
        """The current scene from the video camera, or from `view` if it is set, uint8 [size, size, 3]."""
        if self._scene_renderer is None or self._scene_renderer[0] != size:
            self._close_scene_renderer()
            self._scene_renderer = size, make_renderer(self._renderer_name, self._world.model, size)
        camera = self._world.model.camera(FILM_CAMERA).id
        self._world.copy_pose(self._shown)
        if self.view is not None:
            self._shown.cam_xpos[camera], self._shown.cam_xmat[camera] = self.view.pose()
        return self._scene_renderer[1].draw(self._shown, camera)

    def close(self) -> None:
        """Release the renderers."""
        self._renderer.close()
        self._close_scene_renderer()

    def _close_scene_renderer(self) -> None:
        if self._scene_renderer is not None:
            self._scene_renderer[1].close()
        self._scene_renderer = None

    def _check_variation(self, variation: int) -> None:
        if not 0 <= variation < self.variations:
            raise InputError(f"variation: found {variation}, expected 0..{self.variations - 1} for task={self._name}")

    def _begin(self, start: EpisodeStart) -> None:
        """Place the scene: sample until the expert can reach all goals, the alternative ones included."""
        self._check_variation(start.variation)
        if start.seed < 0:
            raise InputError(f"seed: found {start.seed}, expected 0 or more")
        source = (zlib.crc32(self._name.encode()), start.variation, start.seed)
        rng = np.random.default_rng(source)
        for _ in range(_DRAWS):
            self._world.reset()
            goal_objects = self._task.place(self._world, start.variation, rng)
            if goal_objects is None:
                continue
            self._world.refresh()
            if all(self._motion.reachable(self._task.waypoints(self._world, name)) for name in goal_objects.values()):
                break
        else:
            raise RuntimeError(f"task {self._name}: no placement found in {_DRAWS} draws (variation and seed {start})")
        self._goal_objects, self._goal = goal_objects, start.variation if start.goal is None else start.goal
        if self._goal not in goal_objects:
            raise InputError(f"goal: found {self._goal}, expected one of {sorted(goal_objects)} in this scene")
        texts = self.instructions(self._goal)
        self._instruction = texts[int(np.random.default_rng((*source, 1)).integers(len(texts)))]
        self._counter, self._outcome = StepCounter(self.limits, max_steps=self.max_steps), None
        self._keyframe = 0

    def _expert(self) -> list[np.ndarray]:
        """The expert's actions as float32, as in data sets, so that a replay is bit-identical."""
        return [check_action(action).astype(np.float32) for action in self._plan()]

    def _plan(self) -> list[np.ndarray]:
        """The expert's actions in a newly placed scene."""
        return self._task.waypoints(self._world, self._goal_objects[self._goal])

    def _move(self, action: np.ndarray) -> MotionResult:
        """Execute a validated action."""
        return self._motion.execute(action)

    def _try(self, action: np.ndarray) -> Outcome | None:
        try:
            action = check_action(action)
        except InputError:
            return Outcome.INVALID_ACTION
        result = self._move(action)
        if result is MotionResult.UNREACHABLE:
            return Outcome.UNREACHABLE
        self._keyframe += 1
        goal_object = self._goal_objects[self._goal]
        distractors = tuple(name for name in self._goal_objects.values() if name != goal_object)
        outcome = self._task.outcome(self._world, goal_object, distractors)
        return Outcome.UNREACHABLE if outcome is None and result is MotionResult.BLOCKED else outcome
