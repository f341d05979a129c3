"""The embedded simulator behind the door of `instructrl.sim.env`."""

import zlib
from collections.abc import Iterator, Mapping, Sequence

import mujoco
import numpy as np

from instructrl.actions import check_action
from instructrl.batch import Demonstration, Observation
from instructrl.errors import InputError
from instructrl.sim.env import Outcome, Rules, Start, Step, Tally, replay
from instructrl.sim.graphics import opengl_backend
from instructrl.sim.tabletop.cameras import extrinsics, intrinsics
from instructrl.sim.tabletop.motion import Arrival, Motion
from instructrl.sim.tabletop.render import Renderer, make_renderer
from instructrl.sim.tabletop.scene import CAMERAS, FILM_CAMERA
from instructrl.sim.tabletop.task import load_task
from instructrl.sim.tabletop.things import Gripper, Thing, things_in
from instructrl.sim.tabletop.world import World

_DRAWS = 2000  # placements tried before a task is called impossible
_FRAME_SECONDS = 0.1


class Tabletop:
    """One task at the table. Everything follows from (task, variation, seed), whatever was done before."""

    def __init__(self, task: str, *, cameras: Sequence[str], image_size: int, renderer: str):
        """Compile the task's world. `renderer` is "opengl" or "raycast".

        Raises:
            InputError: an unknown task or camera.
        """
        self._name, self._task = task, load_task(task)
        unknown = [name for name in cameras if name not in CAMERAS]
        if unknown or not cameras:
            raise InputError(f"sim.cameras: found {list(cameras)}, expected some of {', '.join(CAMERAS)}")
        self.variations, self.max_steps = self._task.variations, self._task.max_steps
        self._world = World(self._task.bodies(), graspable=self._task.graspable, watched=self._task.watched)
        self._motion = Motion(self._world)
        model = self._world.model
        self._cameras = [model.camera(name).id for name in cameras]
        self._intrinsics = np.stack([intrinsics(model, camera, image_size) for camera in self._cameras])
        self._renderer_name = renderer
        self._renderer: Renderer = make_renderer(renderer, model, image_size)
        self._onlooker: tuple[int, Renderer] | None = None  # draws pictures of this size
        self._meaning: Mapping[int, str] = {}
        self.rules = Rules()
        self._tally = Tally(self.rules, max_steps=self.max_steps)
        self._goal, self._instruction = 0, ""
        self._outcome: Outcome | None = Outcome.TIME_LIMIT  # no episode has begun

    def sentences(self, variation: int, *, held_out: bool = False) -> tuple[str, ...]:
        """The ways to ask for a variation: those for training, or those kept for testing."""
        self._check_variation(variation)
        return self._task.sentences(variation, held_out=held_out)

    def reset(self, start: Start) -> Observation:
        """Begin an episode; its instruction is one of the training sentences, chosen by the seed."""
        self._begin(start)
        return self._observe()

    def rivals(self) -> tuple[int, ...]:
        """Other variations that could be asked for in the present scene."""
        return tuple(variation for variation in self._meaning if variation != self._goal)

    def step(self, action: np.ndarray) -> Step:
        """Execute one keyframe action (8 numbers); a bad action is an outcome, not an exception."""
        outcome = self._act(action)
        return Step(self._observe(), outcome)

    def demonstrate(self, start: Start) -> tuple[Demonstration, Outcome]:
        """Run the expert from a fresh start: one frame at the start and one after every keyframe."""
        first, goal = self.reset(start), self._goal
        demonstration, outcome = replay(
            first, self.step, self._expert(), instructions=self.sentences(goal), variation=goal, seed=start.seed
        )
        return demonstration, outcome or Outcome.TIME_LIMIT

    def played(self, start: Start) -> Iterator[None]:
        """Run the expert from a fresh start, and stop to be looked at: at the start and after every keyframe."""
        self._begin(start)
        yield
        for action in self._expert():
            outcome = self._act(action)
            yield
            if outcome is not None:
                return

    def view(self, camera: str) -> np.ndarray:
        """What a camera sees now, uint8 [H, W, 3]."""
        return self._renderer.draw(self._world.data, self._world.model.camera(camera).id)

    def things(self, camera: str) -> list[Thing]:
        """What there is in the present scene, and where a camera sees it."""
        return things_in(self._world, self._name, self._world.model.camera(camera).id)

    def asked_for(self) -> str:
        """The thing that the instruction means, as the task calls it: mostly a body's name."""
        return self._meaning[self._goal]

    def gripper(self) -> Gripper:
        """Where the gripper is now and what it does."""
        return Gripper(self._world.tip(), self._world.opened(), self._world.held())

    def film(self, start: Start, actions: np.ndarray, *, size: int) -> np.ndarray:
        """Replay actions from a fresh start and return a video, uint8 [F, size, size, 3], 10 frames a second."""
        self._begin(start)
        world = self._world
        camera, shown = world.model.camera(FILM_CAMERA).id, mujoco.MjData(world.model)
        renderer = make_renderer(self._renderer_name, world.model, size)
        frames: list[np.ndarray] = []

        def shoot() -> None:
            if world.data.time >= len(frames) * _FRAME_SECONDS - 1e-9:
                world.copy_pose(shown)
                frames.append(renderer.draw(shown, camera))

        try:
            shoot()
            self._motion.watcher = shoot
            for action in actions:
                if self._act(action) is not None:
                    break
            world.copy_pose(shown)
            frames.append(renderer.draw(shown, camera))
        finally:
            self._motion.watcher = None
            renderer.close()
        return np.stack(frames)

    def provenance(self) -> dict[str, str]:
        """What must be recorded beside data made here."""
        return {
            "simulator": "tabletop",
            "version": mujoco.__version__,
            "renderer": self._renderer_name,
            "opengl": (opengl_backend() or "") if self._renderer_name == "opengl" else "",
            "expert": "waypoints",
        }

    def depths(self) -> np.ndarray:
        """What the cameras measure now: metres along the optical axis, float32 [K, H, W]."""
        return np.stack([self._renderer.depth(self._world.data, camera) for camera in self._cameras])

    def picture(self, *, size: int) -> np.ndarray:
        """The scene as it is now, seen as in a film, uint8 [size, size, 3]."""
        if self._onlooker is None or self._onlooker[0] != size:
            self._close_onlooker()
            self._onlooker = size, make_renderer(self._renderer_name, self._world.model, size)
        return self._onlooker[1].draw(self._world.data, self._world.model.camera(FILM_CAMERA).id)

    def close(self) -> None:
        """Free the renderers."""
        self._renderer.close()
        self._close_onlooker()

    def _close_onlooker(self) -> None:
        if self._onlooker is not None:
            self._onlooker[1].close()
        self._onlooker = None

    def _check_variation(self, variation: int) -> None:
        if not 0 <= variation < self.variations:
            raise InputError(f"variation: found {variation}, expected 0..{self.variations - 1} for task={self._name}")

    def _begin(self, start: Start) -> None:
        """Place the scene: draw until the expert could do all that may be asked for."""
        self._check_variation(start.variation)
        if start.seed < 0:
            raise InputError(f"seed: found {start.seed}, expected 0 or more")
        source = (zlib.crc32(self._name.encode()), start.variation, start.seed)
        rng = np.random.default_rng(source)
        for _ in range(_DRAWS):
            self._world.reset()
            meaning = self._task.place(self._world, start.variation, rng)
            if meaning is None:
                continue
            self._world.refresh()
            if all(self._motion.reachable(self._task.waypoints(self._world, name)) for name in meaning.values()):
                break
        else:
            raise RuntimeError(f"task {self._name}: no placement found in {_DRAWS} draws (variation and seed {start})")
        self._meaning, self._goal = meaning, start.variation if start.goal is None else start.goal
        if self._goal not in meaning:
            raise InputError(f"goal: found {self._goal}, expected one of {sorted(meaning)} in this scene")
        texts = self.sentences(self._goal)
        self._instruction = texts[int(np.random.default_rng((*source, 1)).integers(len(texts)))]
        self._tally, self._outcome = Tally(self.rules, max_steps=self.max_steps), None

    def _expert(self) -> list[np.ndarray]:
        """The expert's actions as data sets keep them, float32, so that a replay is the same bit for bit."""
        waypoints = self._task.waypoints(self._world, self._meaning[self._goal])
        return [check_action(action).astype(np.float32) for action in waypoints]

    def _act(self, action: np.ndarray) -> Outcome | None:
        if self._outcome is not None:
            raise RuntimeError("the episode is over: reset before the next step")
        self._outcome = self._tally.count(self._try(action))
        return self._outcome

    def _try(self, action: np.ndarray) -> Outcome | None:
        try:
            action = check_action(action)
        except InputError:
            return Outcome.INVALID_ACTION
        arrival = self._motion.execute(action)
        if arrival is Arrival.UNREACHABLE:
            return Outcome.UNREACHABLE
        thing = self._meaning[self._goal]
        others = tuple(name for name in self._meaning.values() if name != thing)
        judged = self._task.judge(self._world, thing, others)
        return Outcome.UNREACHABLE if judged is None and arrival is Arrival.BLOCKED else judged

    def _observe(self) -> Observation:
        world = self._world
        time = min(-1.0 + 2.0 * self._tally.steps / self.max_steps, 1.0)  # a protocol may allow more keyframes
        return Observation(
            images=np.stack([self._renderer.draw(world.data, camera) for camera in self._cameras]),
            state=np.array([world.opened(), *world.data.qpos[world.fingers], time], np.float32),
            intrinsics=self._intrinsics,
            extrinsics=np.stack([extrinsics(world.data, camera) for camera in self._cameras]),
            instruction=self._instruction,
        )
