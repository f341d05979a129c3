import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructrl.cli.entry import compose
from instructrl.config.evaluation import EvalConfig, ProtocolConfig, effective_protocol
from instructrl.config.fields import RENAMED_CONDITIONS
from instructrl.errors import InputError, SimulatorError
from instructrl.evaluation.episode_log import EpisodeLog
from instructrl.evaluation.evaluator import (
    EVALUATION_SEEDS,
    TRAINING_ROLLOUT_SEEDS,
    Condition,
    TaskEvaluator,
    fixed_starts,
)
from instructrl.evaluation.results.summary import headline, summarize, table
from instructrl.evaluation.results.variations import evaluated_variations, format_ranges
from instructrl.evaluation.rollout import Episode
from instructrl.evaluation.workers import task_info
from instructrl.inference.client import FIRST_SEED
from instructrl.sim import EpisodeStart, Outcome
from instructrl.types import Observation
from tests.fakes.sim import TRAINING, FakePolicy, InlineWorkers, without_clock

CONDITIONS = ("trained", "held_out_instructions", "no_instruction", "swapped_instruction", "oracle")


class Interrupted(FakePolicy):
    """A policy that raises KeyboardInterrupt after some calls."""

    def __init__(self, calls: int):
        super().__init__()
        self._left = calls

    def act(self, observations: dict[int, Observation]) -> dict[int, np.ndarray]:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return super().act(observations)


def play(path: Path, policy: FakePolicy, *, identity: Any = 1, **settings: Any) -> list[Condition]:
    workers = settings.pop("workers", None) or InlineWorkers()
    conditions, episodes, seed = (
        settings.get("conditions", CONDITIONS),
        settings.get("episodes", 12),
        settings.get("seed", 0),
    )
    with EpisodeLog(path, {"identity": identity}) as episode_log:
        options = {key: value for key, value in settings.items() if key in ("sentence", "keep_going")}
        return TaskEvaluator(workers, policy, task_info(workers, "numbers", None), episode_log, **options).evaluate(
            conditions, episodes=episodes, seed=seed
        )


def results_of(conditions: list[Condition]) -> dict[str, Any]:
    return summarize(conditions, task_info(InlineWorkers(), "numbers", None), about={})


def rates(conditions: list[Condition]) -> dict[str, float]:
    return {name: condition["success_rate"] for name, condition in results_of(conditions)["conditions"].items()}


def test_rows_tell_who_follows_the_instruction(tmp_path: Path) -> None:
    reader = rates(play(tmp_path / "reader", FakePolicy()))
    assert reader == {
        "trained": 1.0,
        "held_out_instructions": 1.0,
        "no_instruction": 0.25,
        "swapped_instruction": 1.0,
        "oracle": 1.0,
    }
    parrot = rates(play(tmp_path / "parrot", FakePolicy(knows=("touch", "go"))))
    assert parrot == {
        "trained": 1.0,
        "held_out_instructions": 0.25,
        "no_instruction": 0.25,
        "swapped_instruction": 1.0,
        "oracle": 1.0,
    }
    deaf = rates(play(tmp_path / "deaf", FakePolicy(knows=())))
    assert deaf["trained"] == deaf["no_instruction"] == 0.25
    assert deaf["oracle"] == 1.0


def test_each_row_uses_the_words_it_says(tmp_path: Path) -> None:
    conditions = {condition.name: condition.episodes for condition in play(tmp_path / "e", FakePolicy())}
    for index in range(12):
        scene = index % 4
        assert conditions["trained"][index].instruction in [text.format(scene) for text in TRAINING]
        assert conditions["held_out_instructions"][index].instruction == f"approach {scene}"
        assert conditions["no_instruction"][index].instruction == ""
        swapped = conditions["swapped_instruction"][index]
        assert swapped.start.goal not in (None, scene)
        assert swapped.instruction in [text.format(swapped.start.goal) for text in TRAINING]
        assert (
            len({(conditions[name][index].start.variation, conditions[name][index].start.seed) for name in conditions})
            == 1
        )
    assert len({episode.start.goal for episode in conditions["swapped_instruction"].values()}) > 2, (
        "the seed chooses the alternative goal"
    )


def test_seeds_are_nobody_elses() -> None:
    def seeds(first: int, seed: int) -> set[int]:
        starts = fixed_starts(1000, range(20), first_seed=first, seed=seed)
        return {start.seed for start in starts.values()}

    largest = 2**31 - 1
    evaluation = seeds(EVALUATION_SEEDS, 0) | seeds(EVALUATION_SEEDS, 1) | seeds(EVALUATION_SEEDS, largest)
    training = seeds(TRAINING_ROLLOUT_SEEDS, 0) | seeds(TRAINING_ROLLOUT_SEEDS, largest)
    assert len(evaluation) == 3000, "evaluation seeds do not overlap"
    assert len(training) == 2000
    assert min(evaluation) >= 2_000_000_000, "below are the demonstrations'"
    assert max(evaluation) < min(training)
    assert max(training) < FIRST_SEED, "those that a policy server's client plays"
    assert FIRST_SEED + 2_000_000_000 < 2**53


def test_a_task_without_rivals_has_no_swapped_row(tmp_path: Path) -> None:
    results = results_of(play(tmp_path / "e", FakePolicy(), workers=InlineWorkers(alternative_goals=False)))
    assert list(results["conditions"]) == ["trained", "held_out_instructions", "no_instruction", "oracle"]
    assert results["absent_conditions"] == {"swapped_instruction": "the scenes of numbers have no alternative goal"}
    assert "swapped_instruction" in table(results)


def test_a_scene_that_kills_the_simulator_is_counted_in_every_row(tmp_path: Path) -> None:
    workers = InlineWorkers(deadly=(EVALUATION_SEEDS + 5,))
    for condition in play(tmp_path / "e", FakePolicy(), workers=workers):
        dead = [index for index, episode in condition.episodes.items() if episode.outcome is Outcome.SIMULATOR_ERROR]
        assert (condition.name, dead, len(condition.episodes)) == (condition.name, [5], 12)


def test_numbers_of_the_results(tmp_path: Path) -> None:
    workers = InlineWorkers(deadly=(EVALUATION_SEEDS + 5,))
    results = results_of(play(tmp_path / "e", FakePolicy(), workers=workers))
    assert {key: results[key] for key in ("episodes", "successes", "mean_steps")} == {
        "episodes": 12,
        "successes": 11,
        "mean_steps": pytest.approx((11 * 2 + 1) / 12, abs=1e-3),
    }
    assert results["success_rate"] == pytest.approx(11 / 12)
    assert (results["wilson_low"], results["wilson_high"]) == pytest.approx((0.6461, 0.9851), abs=1e-4)
    assert set(results["outcomes"]) == set(Outcome)
    assert {word: count for word, count in results["outcomes"].items() if count} == {
        "success": 11,
        "simulator_error": 1,
    }
    for condition in results["conditions"].values():
        assert (
            sum(condition["outcomes"].values())
            == condition["episodes"]
            == sum(v["episodes"] for v in condition["variations"])
        )
        assert condition["successes"] == sum(v["successes"] for v in condition["variations"])
    assert [(v["variation"], v["sentence"]) for v in results["conditions"]["held_out_instructions"]["variations"]] == [
        (number, f"approach {number}") for number in range(4)
    ]
    assert json.loads(json.dumps(results)) == results
    assert headline(results) == "success_rate 0.917 [0.646, 0.985] over 12 episodes"


def test_an_interrupted_evaluation_goes_on(tmp_path: Path) -> None:
    undisturbed = play(tmp_path / "whole", FakePolicy())
    for calls in (5, 3):
        with pytest.raises(KeyboardInterrupt):
            play(tmp_path / "pieces", Interrupted(calls))
    with (tmp_path / "pieces").open("a") as file:
        file.write('{"row": "trained", "index": 11, "vari')  # killed while writing
    last = FakePolicy()
    resumed = play(tmp_path / "pieces", last)
    assert without_clock(results_of(resumed)) == without_clock(results_of(undisturbed))
    assert 0 < len(last.started) < 48
    again = FakePolicy()
    assert without_clock(results_of(play(tmp_path / "pieces", again))) == without_clock(results_of(undisturbed))
    assert again.started == []


def test_an_episode_log_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    path, last = tmp_path / "e", FakePolicy()
    first = play(path, FakePolicy())
    text = path.read_text()
    for former, current in (*RENAMED_CONDITIONS.items(), ("trained", "trained"), ("oracle", "oracle")):
        text = text.replace(f'"condition": "{current}"', f'"row": "{former}"')
    assert text.count('"row": ') == 60 and "condition" not in text
    path.write_text(text)
    assert without_clock(results_of(play(path, last))) == without_clock(results_of(first))
    assert last.started == [], "nothing is run twice"


def test_more_episodes_extend_and_other_settings_start_anew(tmp_path: Path) -> None:
    play(tmp_path / "e", FakePolicy(), conditions=["trained"])
    longer = FakePolicy()
    assert len(play(tmp_path / "e", longer, conditions=["trained"], episodes=20)[0].episodes) == 20
    assert len(longer.started) == 8
    assert len(play(tmp_path / "e", FakePolicy(), conditions=["trained"], episodes=4)[0].episodes) == 4
    other = FakePolicy()
    play(tmp_path / "e", other, conditions=["trained"], identity=2)
    assert len(other.started) == 12


def test_wall_time_is_counted_over_all_sessions(tmp_path: Path) -> None:
    first = play(tmp_path / "e", FakePolicy(), conditions=["trained"])[0].seconds
    assert first > 0
    assert play(tmp_path / "e", FakePolicy(), conditions=["trained"])[0].seconds == pytest.approx(first, abs=0.01)


def test_an_episode_is_on_disk_as_soon_as_it_ends(tmp_path: Path) -> None:
    with EpisodeLog(tmp_path / "e", {}) as episode_log:
        episode_log.append(
            "trained", 4, Episode(EpisodeStart(1, 2, 3), "touch 3", Outcome.FAILURE, np.full((1, 8), 0.1))
        )
        found = EpisodeLog(tmp_path / "e", {}).episodes("trained")[4]  # as if the first were killed now
    assert (found.start, found.instruction, found.outcome) == (EpisodeStart(1, 2, 3), "touch 3", Outcome.FAILURE)
    assert found.actions.tolist() == [[0.1] * 8]


# Protocols: which variations, which sentences, and what a lost simulator costs.


def asked(*overrides: str) -> ProtocolConfig:
    return effective_protocol(compose("eval", EvalConfig, ["run=x", "protocol.name=mine", *overrides]))


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("all", (0, 1, 2, 3, 4, 5)),
        ("trained", (1, 4)),
        ("held_out", (0, 2, 3, 5)),
        ("[5,2]", (5, 2)),
    ],
)
def test_a_protocol_chooses_the_variations(choice: str, expected: tuple[int, ...]) -> None:
    protocol = asked(f"protocol.variations={choice}")
    assert evaluated_variations(protocol, "numbers", trained=(1, 4), count=6) == expected
    shuffled = asked(f"protocol.variations={choice}", "protocol.order=shuffled")
    orders = [evaluated_variations(replace(shuffled, seed=s), "numbers", trained=(1, 4), count=6) for s in range(9)]
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(expected))}, "each of them once"
    assert len(set(orders)) > 1, "the seed draws the order"
    again = evaluated_variations(replace(shuffled, episodes=9999), "numbers", trained=(1, 4), count=6)
    assert again == orders[0], "more episodes go on where fewer ended"


@pytest.mark.parametrize(
    ("choice", "trained", "said"),
    [
        ("[0,6]", (1,), r"protocol.variations: found \[0, 6\]; allowed for numbers: 0 to 5"),
        ("held_out", range(6), "protocol.variations: found held_out; allowed for numbers: all, trained, or a list"),
    ],
)
def test_variations_that_are_not_there_are_one_line(choice: str, trained: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        evaluated_variations(asked(f"protocol.variations={choice}"), "numbers", trained=trained, count=6)


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([7], "7"), ([1, 0], "0-1"), ([9, 5, 6, 7, 0, 3], "0, 3, 5-7, 9")]
)
def test_numbers_are_spelled_as_spans(numbers: list[int], text: str) -> None:
    assert format_ranges(numbers) == text


def test_the_first_sentence_is_told_where_the_protocol_says_so(tmp_path: Path) -> None:
    conditions = {
        condition.name: condition.episodes for condition in play(tmp_path / "e", FakePolicy(), sentence="first")
    }
    for name in ("trained", "swapped_instruction"):
        for episode in conditions[name].values():
            goal = episode.start.variation if episode.start.goal is None else episode.start.goal
            assert episode.instruction == TRAINING[0].format(goal)
    by_seed = {condition.name: condition.episodes for condition in play(tmp_path / "other", FakePolicy())}
    for name in ("trained", "swapped_instruction"):
        assert len({episode.instruction.split()[0] for episode in by_seed[name].values()}) == 2
    assert [e.instruction for e in conditions["no_instruction"].values()] == [""] * 12
    assert [e.instruction for e in conditions["held_out_instructions"].values()] == [
        f"approach {index % 4}" for index in range(12)
    ]


def test_a_task_without_held_out_sentences_has_no_such_row(tmp_path: Path) -> None:
    results = results_of(play(tmp_path / "e", FakePolicy(), workers=InlineWorkers(held_out=False)))
    assert results["absent_conditions"] == {"held_out_instructions": "numbers has no held-out instructions"}
    assert list(results["conditions"]) == ["trained", "no_instruction", "swapped_instruction", "oracle"]


def test_episodes_of_another_evaluation_stay_until_their_turn(tmp_path: Path) -> None:
    first = play(tmp_path / "e", FakePolicy(), identity="first")
    play(tmp_path / "e", FakePolicy(), identity="second", conditions=["trained"])
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path / "e", Interrupted(3), identity="third")
    play(tmp_path / "e", FakePolicy(), identity="first")
    before = (tmp_path / "e").read_bytes()
    back = FakePolicy()
    assert without_clock(results_of(play(tmp_path / "e", back, identity="first"))) == without_clock(results_of(first))
    assert back.started == [], "nothing is played twice"
    assert (tmp_path / "e").read_bytes() == before, "nor written"
    longer = FakePolicy()
    play(tmp_path / "e", longer, identity="second", conditions=["trained"], episodes=15)
    assert len(longer.started) == 3
    third = FakePolicy()
    play(tmp_path / "e", third, identity="third", conditions=["trained"])
    assert 0 < len(third.started) < 12


class Mortal(InlineWorkers):
    """Workers that cannot be restarted after some calls."""

    def __init__(self, calls: int):
        super().__init__()
        self._left = calls

    def _one(self, slot: int, request: Any) -> Any:
        self._left -= request[0] in ("step", "expert", "alternative_goals")
        if self._left < 0:
            raise SimulatorError("a simulator process cannot start: no display")
        return super()._one(slot, request)


@pytest.mark.parametrize("calls", [0, 7, 30, 80])
def test_a_lost_simulator_costs_what_it_did_not_play(calls: int, tmp_path: Path) -> None:
    whole = {condition.name: condition.episodes for condition in play(tmp_path / "whole", FakePolicy())}
    conditions = play(tmp_path / "e", FakePolicy(), workers=Mortal(calls), keep_going=True)
    assert [condition.name for condition in conditions] == list(CONDITIONS)
    lost = 0
    for condition in conditions:
        assert len(condition.episodes) == 12, "every episode is counted"
        for index, episode in condition.episodes.items():
            if episode.outcome is Outcome.SIMULATOR_ERROR:
                assert episode.start.seed == whole[condition.name][index].start.seed
                lost += 1
            else:
                assert episode.outcome is whole[condition.name][index].outcome
    assert lost > 0 and "no display" in conditions[-1].lost
    results = results_of(conditions)
    assert results["problems"] == [
        "numbers: a simulator process cannot start: no display; episodes that were not run count as simulator_error"
    ]
    mended = FakePolicy()
    again = play(tmp_path / "e", mended)
    assert without_clock(results_of(again)) == without_clock(results_of(play(tmp_path / "whole", FakePolicy())))
    assert len(mended.started) <= lost, "only what was not played is played now"


def test_the_only_task_does_not_pretend_when_its_simulator_is_lost(tmp_path: Path) -> None:
    with pytest.raises(SimulatorError, match="no display"):
        play(tmp_path / "e", FakePolicy(), workers=Mortal(7))
    assert len(play(tmp_path / "e", FakePolicy())[0].episodes) == 12


def test_a_condition_in_which_every_episode_crashed_is_a_problem_and_is_played_again(tmp_path: Path) -> None:
    whole = results_of(play(tmp_path / "whole", FakePolicy()))
    deadly = InlineWorkers(deadly=tuple(EVALUATION_SEEDS + index for index in range(12)))
    assert results_of(play(tmp_path / "e", FakePolicy(), workers=deadly))["problems"] == [
        f"numbers: the simulator crashed in every episode of {', '.join(CONDITIONS)}; see its messages, and mend it"
    ]
    other = play(tmp_path / "e", FakePolicy(), identity=2, conditions=("trained",), workers=deadly)
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path / "e", Interrupted(3))
    assert without_clock(results_of(play(tmp_path / "e", FakePolicy()))) == without_clock(whole)
    policy = FakePolicy()
    assert without_clock(results_of(play(tmp_path / "e", policy))) == without_clock(whole)
    assert not policy.started, "what was played is not played again"
    with EpisodeLog(tmp_path / "e", {"identity": 2}) as log:
        assert log.episodes("trained").keys() == other[0].episodes.keys(), "those of another evaluation stay"
