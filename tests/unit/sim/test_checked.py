"""Answers of simulators of others: forms and values that are refused, with simulator, task, seed and step."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructrl.errors import SimulatorError
from instructrl.evaluation.worker_env import EvalEnv
from instructrl.registry import load
from instructrl.sim import EpisodeLimits, EpisodeStart, OffersExpert, Outcome, Step
from instructrl.sim.checked import CheckedEnv, CheckedEnvWithExpert
from instructrl.types import Observation
from tests.fakes.sim import FakeEnv, FakeEnvWithExpert
from tests.fixtures.demonstrations import demonstration
from tests.fixtures.observations import blank_observation

START = EpisodeStart(1, 7)
ACTION = np.array([0, 0, 0, 0, 0, 0, 1, 1.0])
WHERE = r"^sim=plane, task touch_dot, variation 1, seed 7, step "
GOOD = blank_observation(8, state=4, instruction="touch it")


def changed(field: str, value: Any) -> Callable[[], Observation]:
    return lambda: GOOD._replace(**{field: value})


def filled(field: str, value: float) -> Callable[[], Observation]:
    return changed(field, np.full_like(getattr(GOOD, field), value))


class Faulty(FakeEnvWithExpert):
    """Answers well but for one step."""

    def __init__(self, observe: Callable[[], Any] = lambda: GOOD, *, at: int = 1, outcome: Any = None) -> None:
        super().__init__()
        self.observe, self.at, self.outcome = observe, at, outcome

    def _observe(self) -> Any:
        return self.observe() if self._steps == self.at else GOOD

    def reset(self, start: EpisodeStart) -> Any:
        self._steps = 0
        super().reset(start)
        return self._observe()

    def step(self, action: np.ndarray) -> Any:
        self._steps += 1
        return self._observe(), self.outcome


def checked(env: Any, size: int = 8) -> Any:
    return CheckedEnvWithExpert(env, "sim=plane, task touch_dot", views=1, size=size, state=4, actions=8)


def test_what_is_right_passes_unchanged() -> None:
    stage = EvalEnv(checked(Faulty(outcome=Outcome.SUCCESS)), EpisodeLimits(2, 3))
    seen = stage.reset(START)
    assert all(np.array_equal(*pair) for pair in zip(seen, GOOD, strict=True))
    assert stage.step(ACTION).outcome is Outcome.SUCCESS and stage.step(ACTION).deviation is not None
    assert isinstance(checked(Faulty()), OffersExpert)
    assert not isinstance(CheckedEnv(FakeEnv(), "", views=1, size=8, state=4, actions=8), OffersExpert)
    assert checked(Faulty()).variations == 4 and checked(Faulty()).limits == EpisodeLimits()


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize(
    ("observe", "line"),
    [
        (filled("state", np.nan), r"observation.state: found \[nan, .*, expected finite, at most 10000"),
        (filled("state", 1e6), "observation.state: found .*, expected finite"),
        (filled("intrinsics", 0), "observation.intrinsics: found .*, expected .* focal lengths not zero"),
        (filled("extrinsics", np.inf), "observation.extrinsics: found .*, expected finite"),
        (filled("extrinsics", 1), "observation.extrinsics: found .*, expected .* three independent axes"),
        (changed("images", np.zeros((1, 8, 8, 3))), r"observation.images: found float64\(1, 8, 8, 3\), expected uint8"),
        (changed("images", np.zeros((1, 9, 9, 3), np.uint8)), r"observation.images: found uint8\(1, 9, 9, 3\)"),
        (changed("state", None), r"observation.state: found object\(\), expected float32\(4,\)"),
        (changed("state", [1, [2]]), r"observation.state: found no array, expected float32\(4,\)"),
        (changed("instruction", 3), "observation.instruction: found int; allowed: a text"),
        (lambda: {"state": 1}, "observation: found dict; allowed: instructrl.types.Observation"),
        (lambda: None, "observation: found NoneType; allowed"),
    ],
)  # fmt: skip
def test_a_wrong_observation_is_one_line(observe: Callable[[], Any], line: str, at: int) -> None:
    stage = EvalEnv(checked(Faulty(observe, at=at)))
    with pytest.raises(SimulatorError, match=f"{WHERE}{at}: {line}.*; correct the simulator$") as error:
        stage.reset(START)
        for _ in range(at):
            stage.step(ACTION)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("outcome", "found"),
    [("success", r"success \(str\)"), (True, r"true \(bool\)"), (1.0, r"1.0 \(float\)"), (False, r"false \(bool\)")],
)
def test_an_outcome_of_another_type_would_not_count(outcome: Any, found: str) -> None:
    stage = checked(Faulty(outcome=outcome))
    stage.reset(START)
    with pytest.raises(SimulatorError, match=f"{WHERE}1: outcome: found {found}; allowed: None or a member of "):
        stage.step(ACTION)


def test_a_step_is_two_things() -> None:
    env = Faulty()
    env.step = lambda action: (GOOD, 0.0, False, False, {})
    stage = checked(env)
    stage.reset(START)
    with pytest.raises(SimulatorError, match=f"{WHERE}1: found tuple; allowed: Step"):
        stage.step(ACTION)


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("state", np.nan, r"2: demonstration.state: found \[nan, .*, expected finite"),
        ("intrinsics", 0.0, "2: demonstration.intrinsics: found .*, expected .* focal lengths"),
        ("extrinsics", np.inf, "2: demonstration.extrinsics: found .*, expected finite"),
        ("actions", np.nan, r"2: demonstration.actions: found \[nan, .*, expected a position of at most 10000, a unit"),
        ("actions", 0.5, r"2: demonstration.actions: found \[0.5, .*, expected .*, gripper open 0 or 1"),
    ],
)
def test_a_demonstration_is_checked_frame_by_frame(field: str, value: float, line: str) -> None:
    made = demonstration(7, steps=3)
    getattr(made, field)[2:] = value
    env = Faulty()
    stage = checked(env, size=made.images.shape[2])
    stage._views = made.images.shape[1]
    for outcome in (Outcome.SUCCESS, Outcome.TIME_LIMIT):
        env.demonstrate = lambda start, outcome=outcome: (made, outcome)
        if outcome is not Outcome.SUCCESS:
            assert stage.demonstrate(START)[1] is outcome, "of a failed one nothing is kept"
            continue
        with pytest.raises(SimulatorError, match=f"{WHERE}{line}"):
            stage.demonstrate(START)


@pytest.mark.parametrize("field", ["images", "state", "intrinsics", "extrinsics"])
def test_the_first_episode_is_begun_again_and_is_the_same(field: str) -> None:
    made, env = demonstration(7, steps=3)._replace(variation=1), Faulty()
    first = Observation(made.images[0], made.state[0], made.intrinsics[0], made.extrinsics[0], "touch it")
    sizes = {"views": 2, "size": made.images.shape[2], "state": 4, "actions": 8}
    env.demonstrate = lambda start: (made, Outcome.SUCCESS)
    env.observe, env.at = lambda: first, 0
    assert CheckedEnv(env, "", **sizes).demonstrate(START)[0] is made
    other = getattr(first, field) + getattr(first, field).dtype.type(9)
    env.observe = lambda: first._replace(**{field: other})
    with pytest.raises(SimulatorError, match=f"{WHERE}0: {field}: found others when the .*; allowed: the same, drawn"):
        CheckedEnv(env, "sim=plane, task touch_dot", **sizes).demonstrate(START)


def test_a_demonstration_of_a_wrong_form_is_one_line() -> None:
    made = demonstration(7, steps=3)
    env = Faulty()
    stage = checked(env, size=made.images.shape[2])
    stage._views = made.images.shape[1]
    for answer, line in (
        ((made, None), "outcome: found null"),
        ((made, "success"), "outcome: found success"),
        (made, "demonstration: found Demonstration; allowed"),
        (None, "demonstration: found NoneType"),
        (
            (made._replace(actions=made.actions.astype(np.float64)), Outcome.SUCCESS),
            "demonstration.actions: found float64",
        ),
        ((made._replace(state=made.state[1:]), Outcome.SUCCESS), "demonstration.state: found float32"),
        ((made._replace(images=3), Outcome.SUCCESS), "demonstration.images: found int"),
        (
            (made._replace(keyframes=[1, 2, 3]), Outcome.SUCCESS),
            r"demonstration.keyframes: found \[1, 2, 3\]; allowed: an",
        ),
        (
            (made._replace(keyframes=made.keyframes - 1), Outcome.SUCCESS),
            r"demonstration.keyframes: found \[0, 1, 2\]; allowed: an array of increasing integers, 1 to 3",
        ),
        ((made._replace(instructions=()), Outcome.SUCCESS), "demonstration.instructions: found"),
        ((made._replace(instructions=(3,)), Outcome.SUCCESS), "demonstration.instructions: found"),
        ((made._replace(variation=2), Outcome.SUCCESS), "demonstration.variation: found 2; allowed: 1, as asked"),
        ((made._replace(seed=7.0), Outcome.SUCCESS), "demonstration.seed: found 7.0; allowed: 7, as asked"),
    ):
        env.demonstrate = lambda start, answer=answer: answer
        with pytest.raises(SimulatorError, match=f"{WHERE}0: {line}"):
            stage.demonstrate(START)


@pytest.mark.parametrize(
    ("part", "answer", "line"),
    [
        ("variations", 0, "variations: found 0; allowed: an integer, 1 or more"),
        ("max_steps", 2.5, "max_steps: found 2.5; allowed: an integer"),
        (
            "instructions",
            lambda variation, held_out: "touch it",
            "instructions of variation 0: found touch it; allowed",
        ),
        ("instructions", lambda variation, held_out: (3,), r"instructions of variation 0: found \(3,\); allowed"),
        ("provenance", lambda: None, "provenance: found null; allowed: texts by name, with renderer"),
        ("provenance", lambda: {"renderer": 3}, "provenance: found .*; allowed: texts by name"),
        ("provenance", lambda: {"simulator": "x"}, "provenance: found .*; allowed: texts by name, with renderer"),
    ],
)
def test_what_a_simulator_says_of_a_task_is_checked(part: str, answer: Any, line: str) -> None:
    env = Faulty()
    setattr(env, part, answer)
    with pytest.raises(SimulatorError, match=f"^sim=plane, task touch_dot: {line}.*; correct the simulator$"):
        EvalEnv(checked(env)).task_info("touch_dot", [1])
        checked(env).instructions(1)


CODE = """
class Raising:
    def __init__(self, env):
        self.env = env
        self.variations, self.max_steps, self.limits = env.variations, env.max_steps, env.limits

    def reset(self, start):
        return self.env.reset(start)

    def step(self, action):
        return {}["joint"]

    def instructions(self, variation, *, held_out=False):
        raise SystemExit(0)

    def provenance(self):
        return self.versions
"""


@pytest.fixture
def raising(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A class of another package, in a file of its own."""
    (tmp_path / "raising_robots.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    return load("raising_robots:Raising")(Faulty())


def test_an_exception_of_another_package_is_told_with_its_place(raising: Any) -> None:
    env = checked(raising)
    env.reset(START)
    with pytest.raises(
        SimulatorError, match=rf"{WHERE}1: KeyError: 'joint', in .*/raising_robots\.py, line 11; correct"
    ):
        env.step(ACTION)


def test_an_exit_of_another_package_is_told_with_its_place(raising: Any) -> None:
    with pytest.raises(SimulatorError, match=r"SystemExit: 0, in .*/raising_robots\.py, line 14; correct"):
        checked(raising).instructions(0)


def test_an_exception_of_a_fragile_simulator_is_a_crash(raising: Any) -> None:
    env = CheckedEnv(raising, "", views=1, size=8, state=4, actions=8, fragile=True)
    env.reset(START)
    with pytest.raises(KeyError):
        env.step(ACTION)


def test_what_the_machine_refuses_is_no_fault_of_the_simulator(raising: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    full = "raise OSError(errno.ENOSPC, 'No space left on device')"
    step = sys.modules["raising_robots"]
    exec(compile(f"import errno\ndef full(self, action): {full}", step.__file__ or "", "exec"), vars(step))
    monkeypatch.setattr(type(raising), "step", step.full)
    env = checked(raising)
    env.reset(START)
    with pytest.raises(OSError, match="No space left on device"):
        env.step(ACTION)


def test_what_is_asked_between_episodes_names_none(raising: Any) -> None:
    env = checked(raising)
    env.reset(START)
    with pytest.raises(SimulatorError, match=r"^sim=plane, task touch_dot: AttributeError: .* in .*raising_robots"):
        env.provenance()


def test_an_exception_of_our_own_code_stays_one() -> None:
    with pytest.raises(ZeroDivisionError):
        checked(Faulty(lambda: 1 / 0, at=0)).reset(START)


def test_the_whole_traceback_is_shown_to_whoever_asks_for_it(
    raising: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    env = checked(raising)
    env.reset(START)
    with pytest.raises(SimulatorError):
        env.step(ACTION)
    assert not capsys.readouterr().err
    monkeypatch.setenv("INSTRUCTRL_TRACEBACK", "1")
    with pytest.raises(SimulatorError):
        env.step(ACTION)
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last):") and shown.endswith("KeyError: 'joint'\n")
    assert 'raising_robots.py", line 11, in step' in shown


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (np.zeros((1, 8)), r"expert_actions: found float64\(1, 8\); allowed: a list of floats\(N, 8\)"),
        ([np.zeros((0, 8))], r"expert_actions: found float64\(0, 8\); allowed"),
        ([np.zeros((1, 7))], r"expert_actions: found float64\(1, 7\); allowed"),
        ([[0.0] * 8], r"expert_actions: found list; allowed"),
        (None, r"expert_actions: found NoneType; allowed"),
        ([np.full((1, 8), np.nan)], r"expert_actions: found \[\[nan, .*, expected finite"),
    ],
)
def test_what_the_expert_would_do_is_checked(answer: Any, line: str) -> None:
    env = Faulty()
    env.expert_actions = lambda: answer
    stage = checked(env)
    stage.reset(START)
    with pytest.raises(SimulatorError, match=f"{WHERE}0: {line}.*; correct the simulator"):
        stage.expert_actions()


@pytest.mark.parametrize("goals", [[7], (1, 2), "2"])
def test_goals_are_other_variations(goals: Any) -> None:
    env = Faulty()
    env.alternative_goals = lambda: goals
    stage = checked(env)
    stage.reset(START)
    allowed = "a tuple of other variations from 0 to 3"
    with pytest.raises(SimulatorError, match=f"{WHERE}0: alternative_goals: found .*; allowed: {allowed}; correct"):
        stage.alternative_goals()


@pytest.mark.parametrize("limits", [EpisodeLimits(), EpisodeLimits(max_keyframes=5)])
def test_an_episode_that_never_ends_is_one_line(limits: EpisodeLimits) -> None:
    stage = checked(Faulty())
    stage.limits = limits
    stage.reset(START)
    last = limits.max_keyframes or stage.max_steps
    for _ in range(last - 1):
        assert stage.step(ACTION).outcome is None
    with pytest.raises(SimulatorError, match=f"{WHERE}{last}: outcome: found none after {last} actions; allowed: Outc"):
        stage.step(ACTION)


def test_steps_are_those_of_the_protocol() -> None:
    stage = checked(Faulty(outcome=Outcome.FAILURE))
    stage.reset(START)
    assert isinstance(stage.step(ACTION), Step)
    with pytest.raises(SimulatorError, match=f"{WHERE}0: video: found float64"):
        env = Faulty()
        env.film = lambda start, actions, size: np.zeros((2, size, size, 3))
        checked(env).film(START, ACTION[None], size=8)
