"""Summaries of evaluation conditions as numbers and text, for one task and for several."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from instructrl.cli.entry import compose
from instructrl.config.evaluation import EvalConfig
from instructrl.evaluation.evaluator import Condition
from instructrl.evaluation.results.statistics import mean_interval, wilson_interval
from instructrl.evaluation.results.summary import (
    bounds,
    combine,
    coverage_note,
    failed_task_results,
    headline,
    summarize,
    table,
)
from instructrl.evaluation.rollout import Episode
from instructrl.evaluation.worker_env import TaskInfo
from instructrl.sim import EpisodeStart, Outcome

CONDITIONS = ("trained", "swapped_instruction", "oracle")
GOOD, LATE, FAR = Outcome.SUCCESS, Outcome.TIME_LIMIT, Outcome.UNREACHABLE


def facts(task: str, *, count: int = 2, trained: tuple[int, ...] | None = None) -> TaskInfo:
    sentences = {variation: (f"do {variation}",) for variation in range(count)}
    every = tuple(range(count))
    return TaskInfo(task, 3, every, every if trained is None else trained, sentences, sentences, {"simulator": "fake"})


def condition(
    name: str, ends: list[Outcome], *, variations: tuple[int, ...] = (0, 1), steps: int = 2, lost: str = ""
) -> Condition:
    starts = [EpisodeStart(variations[index % len(variations)], index) for index in range(len(ends))]
    episodes = {i: Episode(start, "do", ends[i], np.zeros((steps, 8))) for i, start in enumerate(starts)}
    return Condition(name, episodes, 3.0, lost=lost)


def entry(task: str, ends: list[Outcome], *, swapped: bool = True, **more: Any) -> dict[str, Any]:
    lost = more.pop("lost", "")
    options = {key: value for key, value in more.items() if key in ("variations", "steps")}
    conditions = [condition("trained", ends, lost=lost, **options)]
    conditions.append(
        condition("swapped_instruction", ends[:2], **options)
        if swapped
        else Condition("swapped_instruction", {}, absent=f"nothing in {task}")
    )
    conditions.append(condition("oracle", [GOOD] * len(ends), **options))
    known = facts(task, **{key: value for key, value in more.items() if key in ("count", "trained")})
    return {**summarize(conditions, known, about={}), "videos": []}


def protocol(name: str = "default", conditions: tuple[str, ...] = CONDITIONS) -> dict[str, Any]:
    return {"name": name, "conditions": list(conditions)}


def several(tasks: Mapping[str, dict[str, Any]], **about: Any) -> dict[str, Any]:
    return combine(tasks, about={"protocol": protocol(), **about})


TWO = {
    "first": entry("first", [GOOD] * 9 + [LATE]),
    "second": entry("second", [GOOD] + [FAR] * 4, swapped=False, steps=4),
}


def test_the_headline_of_several_tasks_is_the_mean_of_their_rates() -> None:
    results = several(TWO, seed=5)
    assert results["success_rate"] == pytest.approx((0.9 + 0.2) / 2), "not 10 of 15: every task counts the same"
    assert (results["episodes"], results["successes"], results["averaged_tasks"]) == (15, 10, 2)
    assert bounds(results) == mean_interval([(9, 10), (1, 5)])
    assert results["mean_steps"] == pytest.approx((2 + 4) / 2)
    assert {word: count for word, count in results["outcomes"].items() if count} == {
        "success": 10, "time_limit": 1, "unreachable": 4,
    }  # fmt: skip
    assert set(results["outcomes"]) == set(Outcome)
    assert (results["seed"], results["wall_seconds"], results["problems"]) == (5, 15.0, [])
    assert results["episodes_per_minute"] == pytest.approx(60 * 15 / 6)
    assert json.loads(json.dumps(results)) == results


def test_each_task_keeps_all_its_rows_and_its_own_interval() -> None:
    tasks = several(TWO)["tasks"]
    assert list(tasks) == ["first", "second"]
    assert [list(tasks[name]["conditions"]) for name in tasks] == [
        ["trained", "swapped_instruction", "oracle"],
        ["trained", "oracle"],
    ]
    assert bounds(tasks["second"]) == bounds(tasks["second"]["conditions"]["trained"]) == wilson_interval(1, 5)
    assert tasks["second"]["absent_conditions"] == {"swapped_instruction": "nothing in second"}
    assert [(one["variation"], one["episodes"]) for one in tasks["second"]["conditions"]["trained"]["variations"]] == [
        (0, 3), (1, 2),
    ]  # fmt: skip


def test_a_row_that_some_tasks_lack_is_the_mean_of_the_others_and_says_so() -> None:
    results = several(TWO)
    assert results["conditions"]["swapped_instruction"]["averaged_tasks"] == 1
    assert results["conditions"]["swapped_instruction"]["success_rate"] == 1.0
    line = next(line for line in table(results).splitlines() if "swapped_instruction" in line)
    assert line.endswith("(mean of 1 of 2 tasks)")
    lacking = several({"second": TWO["second"]})
    assert lacking["absent_conditions"] == {"swapped_instruction": "nothing in second"}
    assert "swapped_instruction" not in lacking["conditions"]


def test_the_table_has_a_line_for_each_task_then_the_means() -> None:
    lines = table(several(TWO)).splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "task", "first", "second", "mean of trained", "mean of swapped_instruction", "mean of oracle",
    ]  # fmt: skip
    low, high = wilson_interval(1, 5)
    assert lines[2].split() == ["second", "5", "0.200", f"[{low:.3f},", f"{high:.3f}]", "4.00", "unreachable", "4"]
    low, high = mean_interval([(9, 10), (1, 5)])
    assert f"15    0.550   [{low:.3f}, {high:.3f}]" in lines[3]
    assert len({line.index("[") for line in lines[1:]}) == 1, "the columns stand under each other"


def test_long_names_of_tasks_do_not_shift_the_columns() -> None:
    name = "take_umbrella_out_of_umbrella_stand"
    lines = table(several({name: entry(name, [GOOD, LATE]), "first": TWO["first"]})).splitlines()
    assert len({line.index("[") for line in lines[1:]}) == 1


def test_a_task_without_a_simulator_counts_as_failed_and_is_named() -> None:
    asked = compose("eval", EvalConfig, ["run=x", "protocol.episodes=5", "conditions=null"]).protocol
    lost = failed_task_results("second", "it is not installed", asked)
    results = several({"first": TWO["first"], "second": lost})
    assert results["success_rate"] == pytest.approx(0.45)
    assert results["tasks"]["second"]["outcomes"]["simulator_error"] == 5
    assert results["outcomes"]["simulator_error"] == 5
    assert results["problems"] == ["second: it is not installed; all its episodes count as simulator_error"]
    assert results["simulator"] == {"simulator": "fake"}
    assert set(lost["conditions"]) == set(asked.conditions)
    assert "simulator error 5" in table(results)
    assert set(lost) == set(TWO["first"]), "every task's entry in results.json has the same keys"
    assert "over 15 episodes of 2 tasks" in headline(results)


def test_what_a_lost_simulator_left_is_named() -> None:
    results = several(
        {"first": entry("first", [GOOD, Outcome.SIMULATOR_ERROR], lost="it died"), "second": TWO["second"]}
    )
    assert results["problems"] == ["first: it died; episodes that were not run count as simulator_error"]


def test_a_simulator_that_crashes_in_every_episode_is_a_problem() -> None:
    crashed = [Outcome.SIMULATOR_ERROR] * 3
    assert entry("first", [GOOD, *crashed, LATE])["problems"] == []
    assert entry("first", crashed)["problems"] == [
        "first: the simulator crashed in every episode of trained, swapped_instruction; see its messages, and mend it"
    ]


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ([{}], ""),
        ([{"variations": (0,), "count": 20}], "on variation 0 of 20 only"),
        ([{"variations": (0, 2, 3, 4), "count": 20}], "on variations 0, 2-4 of 20 only"),
        (
            [{"variations": (3, 4), "count": 5, "trained": (0, 1, 2)}],
            "on variations 3-4 of 5 only, none of them trained",
        ),
        ([{"variations": (0,), "count": 1}], ""),
        ([{}, {}], ""),
        ([{"variations": (0,), "count": 20}, {"variations": (0,), "count": 18}], "on variation 0 only in every task"),
        (
            [{"variations": (0,), "count": 20}, {"variations": (0,), "count": 1}],
            "on variation 0 only in 1 of the 2 tasks",
        ),
        ([{"variations": (0, 1), "count": 3}, {"variations": (1, 2, 4), "count": 9}, {}], "on 7 of 14 variations only"),
    ],
)
def test_a_rate_over_some_variations_only_says_so(tasks: list[dict[str, Any]], said: str) -> None:
    entries = {f"t{number}": entry(f"t{number}", [GOOD] * 8, **more) for number, more in enumerate(tasks)}
    results = several(entries) if len(entries) > 1 else {**entries["t0"], "protocol": protocol()}
    assert coverage_note(results) == said
    assert headline(results).endswith(said or ("episodes" if len(entries) == 1 else "(mean over tasks)"))


def test_many_single_variations_are_counted_not_listed() -> None:
    odd = entry("odd", [GOOD] * 30, variations=tuple(range(0, 60, 2)), count=60)
    assert coverage_note(odd) == "on 30 of 60 variations only"


def test_another_protocol_is_named_in_the_headline() -> None:
    low, high = mean_interval([(9, 10), (1, 5)])
    start = f"success_rate 0.550 [{low:.3f}, {high:.3f}] over 15 episodes of 2 tasks (mean over tasks)"
    assert headline(several(TWO)) == start
    assert headline(several(TWO, protocol=protocol("peract"))) == f"{start}, protocol peract"
    one = {**TWO["first"], "protocol": protocol("hiveformer")}
    assert headline(one).endswith("over 10 episodes, protocol hiveformer")


def test_one_task_of_a_set_is_no_mean() -> None:
    assert "over 10 episodes of first" in headline(several({"first": TWO["first"]}))
