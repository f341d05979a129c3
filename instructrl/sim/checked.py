"""An environment whose answers are checked: simulators are often of others, and one NaN spoils all that follows."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from instructrl.errors import (
    InputError,
    SimulatorError,
    UserError,
    form,
    format_value,
    is_of_package,
    summarize,
)
from instructrl.plausibility import ACTION_RULE, RULES, check_observation, implausible, implausible_actions
from instructrl.sim.env import (
    Env,
    EpisodeLimits,
    EpisodeStart,
    FollowsProtocol,
    ObservesApart,
    OffersExpert,
    Outcome,
    RestoresScenes,
    Step,
)
from instructrl.sim.factory import make_env
from instructrl.types import Demonstration, Observation, action_size

if TYPE_CHECKING:
    from instructrl.config.environment import SimConfig
    from instructrl.config.evaluation import RLBenchProtocol

ADVICE = "correct the simulator"
PIXEL_NOISE = 2.0  # mean difference of two images of one scene: renderers may round differently, or sample light


def make_checked_env(cfg: "SimConfig", task: str) -> Env:
    """Create the environment of one task, which raises SimulatorError for an answer of a wrong form or value.

    Raises:
        InputError: as `make_env`.
    """
    name, views = f"sim={cfg.kind}, task {task}", len(cfg.cameras)
    with simulator_exceptions(lambda what: SimulatorError(f"{name}: {what}; {ADVICE}"), fragile=cfg.fragile):
        env = make_env(cfg, task)
    kind = CheckedEnvWithExpert if isinstance(env, OffersExpert) else CheckedEnv
    sizes: dict[str, int] = {
        "views": views,
        "size": cfg.image_size,
        "state": len(cfg.state),
        "actions": action_size(cfg.actions),
    }
    return cast(Env, kind(env, name, fragile=cfg.fragile, **sizes))


@contextmanager
def simulator_exceptions(fault: Callable[[str], SimulatorError], *, fragile: bool) -> Iterator[None]:
    """Turn an exception in the code of another package into the error that `fault` makes of its summary and place."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if fragile or not is_of_package(error):
            raise
        raise fault(summarize(error)) from error


class CheckedEnv:
    """An `Env` that checks what another one returns: observations, outcomes and demonstrations.

    An exception in the code of another package ends the command in one line, unless its simulator is `fragile`, of
    which a crash is one of an episode.
    """

    def __init__(
        self, env: Env, name: str, *, views: int, size: int, state: int, actions: int, fragile: bool = False
    ) -> None:
        self._env, self._name, self._views, self._size, self._state = env, name, views, size, state
        self._action_size, self._fragile = actions, fragile
        self._observe: Callable[[], Any] = lambda: None  # before the first action
        self._start, self._steps, self._was_repeated = "", 0, fragile
        self._asked: int | None = None  # the variation of the current episode, or its goal
        for key in ("variations", "max_steps"):
            found: Any = getattr(env, key, None)
            if not _is_integer(found) or found < 1:
                raise SimulatorError(f"{name}: {key}: found {found!r}; allowed: an integer, 1 or more; {ADVICE}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    @property
    def limits(self) -> EpisodeLimits:
        """Those of subsequent episodes."""
        return self._env.limits

    @limits.setter
    def limits(self, limits: EpisodeLimits) -> None:
        self._env.limits = limits

    @property
    def scene(self) -> EpisodeStart | None:
        """The start that restores the scene of the current episode: see `RestoresScenes`."""
        return self._env.scene if isinstance(self._env, RestoresScenes) else None

    def follow(self, choices: "RLBenchProtocol") -> None:
        """Execute actions by these choices, if the environment can: see `FollowsProtocol`."""
        if isinstance(self._env, FollowsProtocol):
            with self._calls():
                self._env.follow(choices)

    def instructions(self, variation: int, *, held_out: bool = False) -> tuple[str, ...]:
        """The instructions of a variation."""
        with self._calls(in_episode=False):
            found = self._env.instructions(variation, held_out=held_out)
        if not _is_texts(found):
            what = f"instructions of variation {variation}: found {format_value(found)}; allowed: a tuple of texts"
            raise SimulatorError(f"{self._name}: {what}; {ADVICE}")
        return found

    def provenance(self) -> dict[str, str]:
        """Simulator, version, renderer and expert."""
        with self._calls(in_episode=False):
            found = self._env.provenance()
        if not isinstance(found, dict) or not _is_texts((*found, *found.values())) or "renderer" not in found:
            what = f"provenance: found {format_value(found)}; allowed: texts by name, with renderer"
            raise SimulatorError(f"{self._name}: {what}; {ADVICE}")
        return found

    def reset(self, start: EpisodeStart) -> Observation:
        """Begin an episode."""
        self._begin(start)
        with self._calls():
            found = self._env.reset(start)
        return self._checked(found)

    def alternative_goals(self) -> tuple[int, ...]:
        """Other variations whose goal exists in the current scene."""
        with self._calls():
            found = self._env.alternative_goals()
        if not isinstance(found, tuple | list) or not all(
            _is_integer(one) and 0 <= one < self.variations and one != self._asked for one in found
        ):
            allowed = f"a tuple of other variations from 0 to {self.variations - 1}"
            raise self._fault(f"alternative_goals: found {found!r}; allowed: {allowed}")
        return tuple(found)

    def step(self, action: np.ndarray) -> Step:
        """Execute one keyframe action."""
        outcome = self.execute(action)
        return Step(self.observe(), outcome)

    def execute(self, action: np.ndarray) -> Outcome | None:
        """Execute one keyframe action: see `ObservesApart`."""
        self._steps += 1
        if isinstance(self._env, ObservesApart):
            with self._calls():
                outcome, self._observe = self._env.execute(action), self._env.observe
        else:
            with self._calls():
                found = self._env.step(action)
            if not (isinstance(found, tuple) and len(found) == 2):
                raise self._fault(f"found {form(found)}; allowed: Step(observation, outcome)")
            observation, outcome = found
            self._observe = lambda: observation
        self._check_outcome(outcome, may_go_on=True)
        limit = self.limits.max_keyframes or self._env.max_steps
        if outcome is None and self._steps >= limit:
            raise self._fault(
                f"outcome: found none after {limit} actions; allowed: Outcome.TIME_LIMIT, as of StepCounter"
            )
        return outcome

    def observe(self) -> Observation:
        """The observation after the last action."""
        with self._calls():
            found = self._observe()
        return self._checked(found)

    def demonstrate(self, start: EpisodeStart) -> tuple[Demonstration, Outcome]:
        """Run the expert from a new initial state."""
        self._begin(start)
        with self._calls():
            found = self._env.demonstrate(start)
        if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], Demonstration)):
            raise self._fault(f"demonstration: found {form(found)}; allowed: (Demonstration, outcome)")
        demonstration, outcome = found
        self._check_outcome(outcome)
        if outcome is Outcome.SUCCESS:
            self._check_form(demonstration, start)
            self._check_frames(demonstration)
            self._check_repeats(demonstration, start)
        return demonstration, outcome

    def film(self, start: EpisodeStart, actions: np.ndarray, *, size: int) -> np.ndarray:
        """Replay actions as a video."""
        self._begin(start)
        with self._calls():
            found = self._env.film(start, actions, size=size)
        if form(found).partition("(")[0] != "uint8" or found.shape[1:] != (size, size, 3) or not len(found):
            raise self._fault(f"video: found {form(found)}; allowed: uint8(frames, {size}, {size}, 3)")
        return found

    def _begin(self, start: EpisodeStart) -> None:
        self._start, self._steps = f"variation {start.variation}, seed {start.seed}", 0
        self._asked = start.variation if start.goal is None else start.goal

    def _checked(self, observation: Any) -> Observation:
        if not isinstance(observation, Observation):
            raise self._fault(f"observation: found {form(observation)}; allowed: instructrl.types.Observation")
        if not isinstance(observation.instruction, str):
            raise self._fault(f"observation.instruction: found {form(observation.instruction)}; allowed: a text")
        try:
            return check_observation(observation, views=self._views, size=self._size, state=self._state)
        except InputError as error:
            raise self._fault(str(error)) from None

    def _check_outcome(self, outcome: Any, *, may_go_on: bool = False) -> None:
        """Raise SimulatorError for anything but a member of Outcome: a text or a flag would not count as one."""
        if not (isinstance(outcome, Outcome) or (outcome is None and may_go_on)):
            allowed = f"{'None or ' * may_go_on}a member of instructrl.sim.Outcome, such as Outcome.SUCCESS"
            raise self._fault(f"outcome: found {format_value(outcome)} ({type(outcome).__name__}); allowed: {allowed}")

    def _check_form(self, demonstration: Demonstration, start: EpisodeStart) -> None:
        """Check the types and shapes of a demonstration's parts, and that it is of this start."""
        frames = np.shape(demonstration.images)[:1]
        views = (*frames, self._views)
        expected = {
            "images": (np.dtype(np.uint8), (*views, self._size, self._size, 3)),
            "state": (np.dtype(np.float32), (*frames, self._state)),
            "intrinsics": (np.dtype(np.float32), (*views, 3, 3)),
            "extrinsics": (np.dtype(np.float32), (*views, 4, 4)),
            "actions": (np.dtype(np.float32), (*np.shape(demonstration.keyframes)[:1], self._action_size)),
        }
        for name, (dtype, shape) in expected.items():
            found = getattr(demonstration, name)
            if not isinstance(found, np.ndarray) or (found.dtype, found.shape) != (dtype, shape):
                raise self._fault(f"demonstration.{name}: found {form(found)}; allowed: {dtype}{shape}")
        keyframes: Any = demonstration.keyframes
        integers = isinstance(keyframes, np.ndarray) and keyframes.dtype.kind in "iu" and keyframes.ndim == 1
        if not integers or not len(keyframes) or (np.diff(keyframes, prepend=0, append=frames[0]) < 1).any():
            what = f"demonstration.keyframes: found {format_value(np.asarray(keyframes).tolist())}"
            raise self._fault(f"{what}; allowed: an array of increasing integers, 1 to {frames[0] - 1}")
        if not _is_texts(demonstration.instructions) or not demonstration.instructions:
            found = format_value(demonstration.instructions)
            raise self._fault(f"demonstration.instructions: found {found}; allowed: a tuple of texts, at least one")
        for name, allowed in (("variation", (start.variation, start.goal)), ("seed", (start.seed,))):
            found = getattr(demonstration, name)
            if not _is_integer(found) or found not in allowed:
                raise self._fault(f"demonstration.{name}: found {found!r}; allowed: {allowed[0]}, as asked for")
        rejected: Any = demonstration.rejected_placements
        if rejected is not None and not (_is_integer(rejected) and rejected >= 0):
            raise self._fault(f"demonstration.rejected_placements: found {rejected!r}; allowed: 0 or more, or None")

    def _check_frames(self, demonstration: Demonstration) -> None:
        """Check each frame of a demonstration as an observation, and that its actions are finite."""
        rules = {name: (rule, implausible(name, getattr(demonstration, name))) for name, rule in RULES.items()}
        rules["actions"] = ACTION_RULE, implausible_actions(demonstration.actions)
        for name, (rule, wrong) in rules.items():
            if wrong.any():
                self._steps = int(np.argmax(wrong))
                found = format_value(getattr(demonstration, name)[self._steps].tolist())
                raise self._fault(f"demonstration.{name}: found {found}, expected {rule}")

    def _check_repeats(self, demonstration: Demonstration, start: EpisodeStart) -> None:
        """Begin the episode of the first demonstration again: equal starts give the same numbers and pixels."""
        if self._was_repeated:
            return
        again, self._was_repeated = self.reset(start), True
        for name, allowed in (("images", PIXEL_NOISE), ("state", 0), ("intrinsics", 0), ("extrinsics", 0)):
            first, second = (
                np.asarray(one, np.float64) for one in (getattr(demonstration, name)[0], getattr(again, name))
            )
            if np.abs(first - second).mean() > allowed:
                what = f"{name}: found others when the episode of the demonstration was begun again"
                raise self._fault(f"{what}; allowed: the same, drawn from the variation and the seed alone")

    def _calls(self, *, in_episode: bool = True) -> AbstractContextManager[None]:
        return simulator_exceptions(partial(self._fault, in_episode=in_episode), fragile=self._fragile)

    def _fault(self, what: str, *, in_episode: bool = True) -> SimulatorError:
        where = f", {self._start}, step {self._steps}" if self._start and in_episode else ""
        return SimulatorError(f"{self._name}{where}: {what}; {ADVICE}")


class CheckedEnvWithExpert(CheckedEnv):
    """The same for an environment that offers its expert's actions."""

    def expert_actions(self) -> list[np.ndarray]:
        """The expert's next actions: see `OffersExpert`."""
        with self._calls():
            found = cast(OffersExpert, self._env).expert_actions()
        for actions in found if isinstance(found, list | tuple) else [None]:
            floats = isinstance(actions, np.ndarray) and actions.dtype.kind == "f"
            if not floats or actions.ndim != 2 or actions.shape[1] not in (8, self._action_size) or not len(actions):
                what = form(found if actions is None else actions)
                raise self._fault(f"expert_actions: found {what}; allowed: a list of floats(N, 8), N 1 or more")
            if not np.isfinite(actions).all():
                raise self._fault(f"expert_actions: found {format_value(actions.tolist())}, expected finite")
        return list(found)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_texts(values: Any) -> bool:
    return isinstance(values, tuple) and all(isinstance(text, str) for text in values)
