import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructrl.batch import Observation
from instructrl.command import compose
from instructrl.config import EVALUATION_ROWS, EvalConfig, ProtocolConfig, SimConfig, protocol_of
from instructrl.errors import InputError, SimulatorError
from instructrl.evaluation.ledger import Ledger
from instructrl.evaluation.protocol import (
    EVALUATION_SEEDS,
    TRAINING_ROLLOUT_SEEDS,
    Evaluation,
    Row,
    demonstrate,
    fixed_starts,
)
from instructrl.evaluation.results import headline, summarize, table
from instructrl.evaluation.rollout import Episode, Plan, rollouts
from instructrl.evaluation.stage import stage_workers, task_facts
from instructrl.evaluation.variations import judged_variations, spelled
from instructrl.sim import Outcome, Start
from tests.fake_sim import TRAINING, FakeActor, InlineWorkers, without_clock

ROOT = Path(__file__).resolve().parent.parent


class Interrupted(FakeActor):
    """Ctrl-C after some calls."""

    def __init__(self, calls: int):
        super().__init__()
        self._left = calls

    def act(self, observations: dict[int, Observation]) -> dict[int, np.ndarray]:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return super().act(observations)


def play(path: Path, actor: FakeActor, *, identity: Any = 1, **settings: Any) -> list[Row]:
    workers = settings.pop("workers", None) or InlineWorkers()
    rows, episodes, seed = settings.get("rows", EVALUATION_ROWS), settings.get("episodes", 12), settings.get("seed", 0)
    with Ledger(path, {"identity": identity}) as ledger:
        how = {key: value for key, value in settings.items() if key in ("sentence", "patient")}
        return Evaluation(workers, actor, task_facts(workers, "numbers", None), ledger, **how).play(
            rows, episodes=episodes, seed=seed
        )


def results_of(rows: list[Row]) -> dict[str, Any]:
    return summarize(rows, task_facts(InlineWorkers(), "numbers", None), about={})


def rates(rows: list[Row]) -> dict[str, float]:
    return {name: row["success_rate"] for name, row in results_of(rows)["rows"].items()}


def test_rows_tell_who_follows_the_instruction(tmp_path: Path) -> None:
    reader = rates(play(tmp_path / "reader", FakeActor()))
    assert reader == {"trained": 1.0, "held_out": 1.0, "removed": 0.25, "swapped": 1.0, "oracle": 1.0}
    parrot = rates(play(tmp_path / "parrot", FakeActor(knows=("touch", "go"))))
    assert parrot == {"trained": 1.0, "held_out": 0.25, "removed": 0.25, "swapped": 1.0, "oracle": 1.0}
    deaf = rates(play(tmp_path / "deaf", FakeActor(knows=())))
    assert deaf["trained"] == deaf["removed"] == 0.25
    assert deaf["oracle"] == 1.0


def test_each_row_uses_the_words_it_says(tmp_path: Path) -> None:
    rows = {row.name: row.episodes for row in play(tmp_path / "e", FakeActor())}
    for index in range(12):
        scene = index % 4
        assert rows["trained"][index].instruction in [text.format(scene) for text in TRAINING]
        assert rows["held_out"][index].instruction == f"approach {scene}"
        assert rows["removed"][index].instruction == ""
        swapped = rows["swapped"][index]
        assert swapped.start.goal not in (None, scene)
        assert swapped.instruction in [text.format(swapped.start.goal) for text in TRAINING]
        assert len({(rows[name][index].start.variation, rows[name][index].start.seed) for name in rows}) == 1
    assert len({episode.start.goal for episode in rows["swapped"].values()}) > 2, "the seed chooses the rival"


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
    assert max(training) < 2**53


def test_a_task_without_rivals_has_no_swapped_row(tmp_path: Path) -> None:
    results = results_of(play(tmp_path / "e", FakeActor(), workers=InlineWorkers(rivals=False)))
    assert list(results["rows"]) == ["trained", "held_out", "removed", "oracle"]
    assert results["absent_rows"] == {"swapped": "nothing else can be asked for in the scenes of numbers"}
    assert "swapped" in table(results)


def test_a_scene_that_kills_the_simulator_is_counted_in_every_row(tmp_path: Path) -> None:
    workers = InlineWorkers(deadly=(EVALUATION_SEEDS + 5,))
    for row in play(tmp_path / "e", FakeActor(), workers=workers):
        dead = [index for index, episode in row.episodes.items() if episode.outcome is Outcome.SIMULATOR_ERROR]
        assert (row.name, dead, len(row.episodes)) == (row.name, [5], 12)


def test_numbers_of_the_results(tmp_path: Path) -> None:
    workers = InlineWorkers(deadly=(EVALUATION_SEEDS + 5,))
    results = results_of(play(tmp_path / "e", FakeActor(), workers=workers))
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
    for row in results["rows"].values():
        assert sum(row["outcomes"].values()) == row["episodes"] == sum(v["episodes"] for v in row["variations"])
        assert row["successes"] == sum(v["successes"] for v in row["variations"])
    assert [(v["variation"], v["sentence"]) for v in results["rows"]["held_out"]["variations"]] == [
        (number, f"approach {number}") for number in range(4)
    ]
    assert json.loads(json.dumps(results)) == results
    assert headline(results) == "success_rate 0.92 [0.65, 0.99] over 12 episodes"


def test_an_interrupted_evaluation_goes_on(tmp_path: Path) -> None:
    undisturbed = play(tmp_path / "whole", FakeActor())
    for calls in (5, 3):
        with pytest.raises(KeyboardInterrupt):
            play(tmp_path / "pieces", Interrupted(calls))
    with (tmp_path / "pieces").open("a") as file:
        file.write('{"row": "trained", "index": 11, "vari')  # killed while writing
    last = FakeActor()
    resumed = play(tmp_path / "pieces", last)
    assert without_clock(results_of(resumed)) == without_clock(results_of(undisturbed))
    assert 0 < len(last.begun) < 48
    again = FakeActor()
    assert without_clock(results_of(play(tmp_path / "pieces", again))) == without_clock(results_of(undisturbed))
    assert again.begun == []


def test_more_episodes_extend_and_other_settings_start_anew(tmp_path: Path) -> None:
    play(tmp_path / "e", FakeActor(), rows=["trained"])
    longer = FakeActor()
    assert len(play(tmp_path / "e", longer, rows=["trained"], episodes=20)[0].episodes) == 20
    assert len(longer.begun) == 8
    assert len(play(tmp_path / "e", FakeActor(), rows=["trained"], episodes=4)[0].episodes) == 4
    other = FakeActor()
    play(tmp_path / "e", other, rows=["trained"], identity=2)
    assert len(other.begun) == 12


def test_wall_time_is_counted_over_all_sessions(tmp_path: Path) -> None:
    first = play(tmp_path / "e", FakeActor(), rows=["trained"])[0].seconds
    assert first > 0
    assert play(tmp_path / "e", FakeActor(), rows=["trained"])[0].seconds == pytest.approx(first, abs=0.01)


def test_the_embedded_simulator_plays_all_parts() -> None:
    """The expert succeeds, also where a rival is asked for; what it did can be replayed and filmed."""
    sim = SimConfig(cameras=["front"], image_size=16)
    with stage_workers(sim, "reach_target", renderer="raycast", count=2) as workers:
        facts = task_facts(workers, "reach_target", [3, 7])
        assert facts.variations == (3, 7)
        assert len(facts.sentences) == 20
        assert not set(facts.sentences[3]) & set(facts.held_out[3])
        starts = fixed_starts(4, facts.variations, first_seed=EVALUATION_SEEDS, seed=0)
        shown: dict[int, Any] = {}
        demonstrate(workers, starts, facts, on_episode=shown.__setitem__)
        assert [shown[index].outcome for index in range(4)] == [Outcome.SUCCESS] * 4

        class Replay(FakeActor):
            def answer(self, slot: int, seen: Observation) -> np.ndarray:
                return shown[next(i for i in range(4) if i % 2 == slot and begun[slot] == i // 2)].actions[0]

            def begin(self, slot: int, instruction: str) -> None:
                begun[slot] = begun.get(slot, -1) + 1

        begun: dict[int, int] = {}
        replayed = rollouts(workers, Replay(), plans={i: Plan(start) for i, start in starts.items()})
        assert [episode.outcome for episode in replayed.values()] == [Outcome.SUCCESS] * 4
        frames = workers.call({0: ("film", (shown[0].start, shown[0].actions, 64))})[0]
        assert frames.shape[1:] == (64, 64, 3)
        assert len(frames) > 5


def test_an_episode_is_on_disk_as_soon_as_it_ends(tmp_path: Path) -> None:
    with Ledger(tmp_path / "e", {}) as ledger:
        ledger.append("trained", 4, Episode(Start(1, 2, 3), "touch 3", Outcome.FAILURE, np.full((1, 8), 0.1)))
        found = Ledger(tmp_path / "e", {}).episodes("trained")[4]  # as if the first were killed now
    assert (found.start, found.instruction, found.outcome) == (Start(1, 2, 3), "touch 3", Outcome.FAILURE)
    assert found.actions.tolist() == [[0.1] * 8]


# Protocols: which variations, which sentences, and what a lost simulator costs.


def asked(*overrides: str) -> ProtocolConfig:
    return protocol_of(compose("eval", EvalConfig, ["run=x", *overrides]))


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
    assert judged_variations(protocol, "numbers", trained=(1, 4), count=6) == expected
    shuffled = asked(f"protocol.variations={choice}", "protocol.order=shuffled")
    orders = [judged_variations(replace(shuffled, seed=s), "numbers", trained=(1, 4), count=6) for s in range(9)]
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(expected))}, "each of them once"
    assert len(set(orders)) > 1, "the seed draws the order"
    again = judged_variations(replace(shuffled, episodes=9999), "numbers", trained=(1, 4), count=6)
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
        judged_variations(asked(f"protocol.variations={choice}"), "numbers", trained=trained, count=6)


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([7], "7"), ([1, 0], "0-1"), ([9, 5, 6, 7, 0, 3], "0, 3, 5-7, 9")]
)
def test_numbers_are_spelled_as_spans(numbers: list[int], text: str) -> None:
    assert spelled(numbers) == text


def test_the_first_sentence_is_told_where_the_protocol_says_so(tmp_path: Path) -> None:
    rows = {row.name: row.episodes for row in play(tmp_path / "e", FakeActor(), sentence="first")}
    for name in ("trained", "swapped"):
        for episode in rows[name].values():
            goal = episode.start.variation if episode.start.goal is None else episode.start.goal
            assert episode.instruction == TRAINING[0].format(goal)
    by_seed = {row.name: row.episodes for row in play(tmp_path / "other", FakeActor())}
    for name in ("trained", "swapped"):
        assert len({episode.instruction.split()[0] for episode in by_seed[name].values()}) == 2
    assert [e.instruction for e in rows["removed"].values()] == [""] * 12
    assert [e.instruction for e in rows["held_out"].values()] == [f"approach {index % 4}" for index in range(12)]


def test_a_task_without_held_out_sentences_has_no_such_row(tmp_path: Path) -> None:
    results = results_of(play(tmp_path / "e", FakeActor(), workers=InlineWorkers(held_out=False)))
    assert results["absent_rows"] == {"held_out": "numbers keeps no sentences out of training"}
    assert list(results["rows"]) == ["trained", "removed", "swapped", "oracle"]


def test_episodes_of_another_evaluation_stay_until_their_turn(tmp_path: Path) -> None:
    first = play(tmp_path / "e", FakeActor(), identity="first")
    play(tmp_path / "e", FakeActor(), identity="second", rows=["trained"])
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path / "e", Interrupted(3), identity="third")
    play(tmp_path / "e", FakeActor(), identity="first")
    before = (tmp_path / "e").read_bytes()
    back = FakeActor()
    assert without_clock(results_of(play(tmp_path / "e", back, identity="first"))) == without_clock(results_of(first))
    assert back.begun == [], "nothing is played twice"
    assert (tmp_path / "e").read_bytes() == before, "nor written"
    longer = FakeActor()
    play(tmp_path / "e", longer, identity="second", rows=["trained"], episodes=15)
    assert len(longer.begun) == 3
    third = FakeActor()
    play(tmp_path / "e", third, identity="third", rows=["trained"])
    assert 0 < len(third.begun) < 12


class Mortal(InlineWorkers):
    """Workers of which one cannot be started again after some calls."""

    def __init__(self, calls: int):
        super().__init__()
        self._left = calls

    def _one(self, slot: int, request: Any) -> Any:
        self._left -= request[0] in ("step", "expert", "rivals")
        if self._left < 0:
            raise SimulatorError("a simulator process cannot start: no display")
        return super()._one(slot, request)


@pytest.mark.parametrize("calls", [0, 7, 30, 80])
def test_a_lost_simulator_costs_what_it_did_not_play(calls: int, tmp_path: Path) -> None:
    whole = {row.name: row.episodes for row in play(tmp_path / "whole", FakeActor())}
    rows = play(tmp_path / "e", FakeActor(), workers=Mortal(calls), patient=True)
    assert [row.name for row in rows] == list(EVALUATION_ROWS)
    lost = 0
    for row in rows:
        assert len(row.episodes) == 12, "every episode is counted"
        for index, episode in row.episodes.items():
            if episode.outcome is Outcome.SIMULATOR_ERROR:
                assert episode.start.seed == whole[row.name][index].start.seed
                lost += 1
            else:
                assert episode.outcome is whole[row.name][index].outcome
    assert lost > 0 and "no display" in rows[-1].lost
    results = results_of(rows)
    assert results["problems"] == [
        "numbers: a simulator process cannot start: no display; what was not played counts as simulator_error"
    ]
    mended = FakeActor()
    again = play(tmp_path / "e", mended)
    assert without_clock(results_of(again)) == without_clock(results_of(play(tmp_path / "whole", FakeActor())))
    assert len(mended.begun) <= lost, "only what was not played is played now"


def test_the_only_task_does_not_pretend_when_its_simulator_is_lost(tmp_path: Path) -> None:
    with pytest.raises(SimulatorError, match="no display"):
        play(tmp_path / "e", FakeActor(), workers=Mortal(7))
    assert len(play(tmp_path / "e", FakeActor())[0].episodes) == 12
