"""Job specs of commands whose episodes several jobs share."""

from typing import Any

import pytest

from instructrl.cli.compose import compose
from instructrl.cli.entry import SweepRequest
from instructrl.config.environment import CollectConfig
from instructrl.config.evaluation import EvalConfig
from instructrl.config.launcher import LaunchConfig
from instructrl.errors import InputError
from launchers.sweep.plan import job_specs

WORDS = ["task=pick_and_lift", "episodes=6", "val_episodes=2"]


def request(words: list[str], *launcher: str, config: str = "collect", schema: Any = CollectConfig) -> SweepRequest:
    """The request of one job."""
    resources = compose("launch", LaunchConfig, list(launcher)).launcher
    return SweepRequest(config, (f"{config}.py",), resources, [words], [compose(config, schema, words)], "")


def test_a_command_is_the_jobs_that_share_its_episodes_and_a_last_one_after_them() -> None:
    *shares, last = job_specs(request([*WORDS, "jobs=3"]))[0]
    assert [spec.command for spec in shares] == [("collect.py", *WORDS, "jobs=3", f"job={job}") for job in (1, 2, 3)]
    assert last.command == ("collect.py", *WORDS, "jobs=1") and last.after == (0, 1, 2)
    assert len({spec.name for spec in (*shares, last)}) == 4 and not any(spec.after or spec.results for spec in shares)


def test_an_evaluation_is_divided_too_but_not_among_more_jobs_than_episodes() -> None:
    words = ["run=outputs/x", "episodes=4"]
    *shares, last = job_specs(request([*words, "jobs=4"], config="eval", schema=EvalConfig))[0]
    assert [spec.overrides[-1] for spec in shares] == [f"job={job}" for job in (1, 2, 3, 4)]
    assert last.command == ("eval.py", *words, "jobs=1") and last.run == "outputs/x"
    assert last.results == ("report: outputs/x/eval/report.html",)
    with pytest.raises(InputError, match=r"^jobs: found 5 for 4 episodes; allowed: 1 to 4$"):
        request([*words, "jobs=5"], config="eval", schema=EvalConfig)


def test_a_job_of_them_and_a_single_job_stay_as_they_are() -> None:
    for words in (["jobs=3", "job=2"], ["jobs=1"]):
        [spec] = job_specs(request([*WORDS, *words], "launcher=slurm_gpu"))[0]
        assert spec.command == ("collect.py", *WORDS, *words) and not spec.after


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["jobs=0"], "jobs: found 0; allowed: an integer at least 1 and at most 1024"),
        (["jobs=9"], "jobs: found 9 for 8 episodes; allowed: 1 to 8"),
        (["jobs=3", "job=4"], "job: found 4; allowed: null, or one of 1 to jobs=3"),
        (["job=2"], "job: found 2; allowed: null, or one of 1 to jobs=1"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(words: list[str], line: str) -> None:
    with pytest.raises(InputError) as refused:
        request([*WORDS, *words])
    assert str(refused.value) == line


@pytest.mark.parametrize("launcher", ["tpu_v4_32", "skypilot"])
def test_launchers_that_run_no_job_after_others_are_refused(launcher: str) -> None:
    with pytest.raises(InputError) as refused:
        job_specs(request([*WORDS, "jobs=3"], f"launcher={launcher}"))
    allowed = "allowed: 1, or launcher=local or a profile of SLURM"
    assert str(refused.value) == f"jobs: found 3 with launcher={launcher}; {allowed}"
