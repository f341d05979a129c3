"""Does the agent follow the instruction: paired differences, words that decide, success by variation."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from instructrl.evaluation.episode_log import EpisodeLog
from instructrl.evaluation.evaluator import TaskEvaluator
from instructrl.evaluation.results.pairs import add_pairs, compare_pairs, pairs_text
from instructrl.evaluation.results.statistics import mcnemar_test, paired_interval
from instructrl.evaluation.results.summary import combine, summarize
from instructrl.evaluation.results.tables import tables
from instructrl.evaluation.workers import task_info
from tests.fakes.sim import FakePolicy, InlineWorkers
from tests.unit.evaluation.report.test_report import page_text

pairs = st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300)).filter(any)


def evaluated(path: Path, *conditions: str, episodes: int = 40, task: str = "numbers") -> dict[str, Any]:
    workers = InlineWorkers()
    info = task_info(workers, task, None)
    with EpisodeLog(path, {}) as episode_log:
        found = TaskEvaluator(workers, FakePolicy(), info, episode_log).evaluate(conditions, episodes=episodes, seed=0)
    return {**summarize(found, info, about={}), "videos": []}


@given(pairs)
def test_a_paired_interval_holds_the_difference_and_mirrors(counts: tuple[int, int, int]) -> None:
    gained, lost, same = counts
    number = gained + lost + same
    low, high = paired_interval(gained, lost, number)
    assert -1 <= low <= (gained - lost) / number <= high <= 1 and low < high
    assert paired_interval(lost, gained, number) == pytest.approx((-high, -low), abs=1e-12)
    assert mcnemar_test(gained, lost) == mcnemar_test(lost, gained)


def test_paired_numbers_by_hand() -> None:
    """Of 100 pairs, 10 are gained and 2 lost: (11 - 3) / 102 +- 1.96 sqrt((14 / 102 - (8 / 102)^2) / 102)."""
    assert paired_interval(10, 2, 100) == pytest.approx((0.008163, 0.148700), abs=5e-6)
    assert mcnemar_test(10, 2) == pytest.approx(binomtest(2, 12).pvalue) == pytest.approx(0.03857, abs=5e-5)
    assert mcnemar_test(0, 0) == 1.0
    for impossible in ((0, 0, 0), (3, 0, 2), (-1, 2, 5)):
        with pytest.raises(ValueError, match="at least one pair"):
            paired_interval(*impossible)


def test_pairs_are_of_the_same_scenes() -> None:
    here = {"0/1": "success", "0/2": "success", "1/3": "time_limit", "1/9": "success"}
    there = {"0/1": "failure", "0/2": "success", "1/3": "success", "1/4": "success"}
    found = compare_pairs(here, there)
    assert (found["pairs"], found["gained"], found["lost"], found["difference"]) == (3, 1, 1, 0.0)
    both = add_pairs([found, compare_pairs({"0/1": "success"}, {"0/1": "failure"})])
    assert (both["pairs"], both["gained"], both["lost"], both["difference"]) == (4, 2, 1, 0.25)
    assert pairs_text(both).startswith("+0.250 [") and pairs_text(both).endswith("p = 1.000")


def test_each_condition_is_compared_with_the_headline_in_its_scenes(tmp_path: Path) -> None:
    results = evaluated(tmp_path / "e", "trained", "no_instruction", "oracle")
    paired = {name: condition.get("paired") for name, condition in results["conditions"].items()}
    assert paired["trained"] is None and paired["oracle"]["difference"] == 0
    without = paired["no_instruction"]
    assert (without["pairs"], without["gained"], without["lost"], without["difference"]) == (40, 0, 30, -0.75)
    assert without["difference_high"] < -0.5 and without["p_value"] < 1e-8
    scenes = results["conditions"]["trained"]["scenes"]
    assert scenes["3/2000000003"] == "success" and len(scenes) == 40
    assert "paired" not in results and "scenes" not in results, "they belong to conditions"
    assert json.loads(json.dumps(results)) == results
    lines = tables(results).splitlines()
    assert lines[1].split()[:3] == ["no_instruction", "40", "-0.750"] and lines[1].endswith("p < 0.001")
    shown = page_text(results)
    assert "Differences in the same scenes" in shown and "-75.0" in shown and "< 0.001" in shown


def test_the_word_that_decides_is_on_top(tmp_path: Path) -> None:
    results = evaluated(tmp_path / "e", "trained", "dropped_word", episodes=80)
    first, *others = results["conditions"]["dropped_word"]["words"]
    assert first["word"] == "words that tell variations apart" and first["words"] == ["0", "1", "2", "3"]
    assert first["success_rate"] < 0.5 and first["paired"]["p_value"] < 0.001
    assert {row["word"] for row in others} == {"touch", "go", "to"}
    harmless = next(row for row in others if row["word"] == "to")
    assert harmless["success_rate"] == 1.0 and harmless["paired"]["difference"] == 0
    assert sum(row["episodes"] for row in (first, *others)) == 80
    entries = [json.loads(line) for line in (tmp_path / "e").read_text().splitlines()[1:]]
    whole = {entry["index"]: entry["instruction"].split() for entry in entries if entry["condition"] == "trained"}
    for entry in entries:
        if entry["condition"] == "dropped_word":
            assert sorted([*entry["instruction"].split(), entry["dropped_word"]]) == sorted(whole[entry["index"]])
    again = evaluated(tmp_path / "e", "trained", "dropped_word", episodes=80)
    assert again["conditions"]["dropped_word"]["words"] == [first, *others], "after resuming too"
    assert "words that tell variations apart" in tables(results)
    shown = page_text(results)
    assert "Which word decides?" in shown and "0, 1, 2, 3" in shown and "One word left out" in shown


def test_several_tasks_are_added(tmp_path: Path) -> None:
    names = ("trained", "no_instruction", "dropped_word")
    tasks = {task: evaluated(tmp_path / task, *names, task=task) for task in ("first", "second")}
    results = combine(tasks, about={"protocol": {"name": "default", "conditions": list(names)}})
    without = results["conditions"]["no_instruction"]["paired"]
    assert (without["pairs"], without["difference"]) == (80, -0.75)
    table = results["conditions"]["dropped_word"]["words"]
    assert sum(row["episodes"] for row in table) == 80 and table[0]["words"] == ["0", "1", "2", "3"]
    assert results["conditions"]["no_instruction"]["diagnosis"]["failures"] == 60
    text = tables(results)
    assert text.count("first ") >= 3 and "... and 2 more, on the page" in text, "the lowest variations of each task"


def test_success_by_variation_is_printed(tmp_path: Path) -> None:
    lines = tables(evaluated(tmp_path / "e", "trained")).splitlines()
    assert [line.split() for line in lines if line.endswith("touch 2")] == [["2", "10/10", "touch", "2"]]
