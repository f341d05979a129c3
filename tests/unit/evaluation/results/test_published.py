"""Comparability of results with published numbers, as results.json and its sentence tell it."""

from dataclasses import replace
from typing import Any

import pytest

from instructrl.cli.entry import compose
from instructrl.config.evaluation import EvalConfig, effective_protocol, protocol_record
from instructrl.evaluation.results.published import published_record, published_text


def evaluated(preset: str, *words: str, **changes: Any) -> dict[str, Any]:
    """The part of results.json that tells what was evaluated: HiveFormer's own, unless something is changed."""
    asked = effective_protocol(compose("eval", EvalConfig, ["run=x", f"protocol={preset}", *words]))
    simulator = {"simulator": "rlbench", "variant": "original", "renderer": "rlbench_opengl"}
    results = {"protocol": protocol_record(asked), "simulator": simulator, "task": "pick_up_cup", "problems": []}
    results |= changes
    return results | {"published": published_record(results)}


def differences(preset: str, *words: str, **changes: Any) -> list[str]:
    published = evaluated(preset, *words, **changes)["published"]
    return published["differences"]


def test_results_are_comparable_where_every_choice_was_met() -> None:
    results = evaluated("hiveformer", "conditions=[trained]")
    assert results["published"] == {"of": "HiveFormer", "differences": []}
    assert published_text(results) == (
        "Comparable with HiveFormer's published numbers: every choice of its protocol was met."
    )
    assert evaluated("default")["published"] is None and not published_text(evaluated("default"))


@pytest.mark.parametrize(
    ("words", "changes", "difference"),
    [
        (["episodes=100"], {}, "episodes=100, there 500"),
        (["seed=0"], {}, "seed=0, there 200"),
        ([], {"task": "close_jar"}, "close_jar not among the tasks of hiveformer_10 and rlbench_74"),
        ([], {"tasks": {"pick_up_cup": {}, "open_jar": {}}}, "open_jar not among the tasks of hiveformer_10 and rl"),
        ([], {"problems": ["pick_up_cup: lost"]}, "episodes that the simulator lost count as failures"),
        ([], {"simulator": {"simulator": "tabletop"}}, "played on tabletop, not on RLBench"),
        ([], {"simulator": {}}, "played on no simulator, not on RLBench"),
        (
            [],
            {"simulator": {"simulator": "rlbench", "variant": "peract", "renderer": "rlbench_opengl"}},
            "RLBench's variant peract, there original",
        ),
        (
            [],
            {"simulator": {"simulator": "rlbench", "variant": "original", "renderer": "rlbench_opengl3"}},
            "renderer rlbench_opengl3, there rlbench_opengl",
        ),
    ],
)
def test_each_choice_that_was_not_met_is_named(words: list[str], changes: dict[str, Any], difference: str) -> None:
    [found] = differences("hiveformer", *words, **changes)
    assert found.startswith(difference)
    assert published_text(evaluated("hiveformer", *words, **changes)).startswith(
        f"Not comparable with HiveFormer's published numbers: {difference}"
    )


def test_results_of_an_earlier_version_do_not_record_how_actions_were_executed() -> None:
    results = evaluated("hiveformer")
    protocol = {key: value for key, value in results["protocol"].items() if key != "rlbench"} | {"keyframes": 25}
    found = differences("hiveformer", protocol=protocol)
    assert found[0] == "protocol.max_keyframes=25, there 20"
    assert "protocol.rlbench.motion_attempts=not recorded, there 10" in found


@pytest.mark.parametrize("protocol", ["peract", "rvt"])
def test_peracts_numbers_are_of_stored_scenes_and_of_agents_that_predict_collisions(protocol: str) -> None:
    fork = {"simulator": "rlbench", "variant": "peract", "renderer": "rlbench_opengl"}
    found = differences(protocol, task="close_jar", simulator=fork)
    assert [text.partition(",")[0] for text in found] == [
        "scenes drawn by the seed",
        "ignore_collisions the same in all actions",
    ]
    predicted = differences(protocol, task="close_jar", simulator=fork, actions="keyframe_collisions")
    assert predicted == found[:1]
    stored = differences(protocol, "protocol.scenes=/data", "seed=3", task="close_jar", simulator=fork)
    assert stored == found[1:], "the seed draws no scene there"


def test_choices_that_another_simulator_left_out_are_named() -> None:
    asked = compose("eval", EvalConfig, ["run=x", "protocol=rvt"]).protocol
    results = evaluated("default", protocol=protocol_record(replace(asked, name="mine")), simulator={"simulator": "a"})
    assert published_text(results) == (
        "Not used on a: protocol.rlbench.renderer, protocol.rlbench.planner_attempts, "
        "protocol.rlbench.clip_to_workspace."
    )
