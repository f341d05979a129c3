"""GPUs and processes of the launcher profiles."""

import pytest

from instructrl.cli.compose import compose
from instructrl.cli.entry import SweepRequest
from instructrl.cli.overrides import options
from instructrl.config.evaluation import EvalConfig
from instructrl.config.launcher import LaunchConfig
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError
from launchers.sweep.plan import job_specs


def request(name: str, schema: type, words: list[str], *launcher: str) -> SweepRequest:
    """The request of one job."""
    resources = compose("launch", LaunchConfig, list(launcher)).launcher
    return SweepRequest(name, (f"{name}.py",), resources, [words], [compose(name, schema, words)], "")


def test_every_profile_has_as_many_gpus_for_each_process() -> None:
    for profile in options("launcher"):
        asked = request("train", TrainConfig, ["experiment=quickstart"], f"launcher={profile}")
        slurm = job_specs(asked)[0][0].resources.slurm
        assert (slurm.gpus_per_node or slurm.tasks_per_node) % slurm.tasks_per_node == 0


def test_a_training_with_more_processes_than_gpus_is_refused_and_an_evaluation_has_one() -> None:
    words = ("launcher=slurm_a100", "launcher.slurm.gpus_per_node=2")
    with pytest.raises(InputError, match=r"^launcher.slurm.tasks_per_node: found 4 with .*gpus_per_node=2; allowed: "):
        job_specs(request("train", TrainConfig, ["experiment=quickstart"], *words))
    [spec] = job_specs(request("eval", EvalConfig, ["run=outputs/x"], *words))[0]
    assert not spec.distributed


def test_each_training_is_followed_by_its_evaluation() -> None:
    words = ("launcher.then=eval", "launcher.then_settings={episodes: 7, conditions: '[trained]', seed: null}")
    training, evaluation = job_specs(request("train", TrainConfig, ["experiment=quickstart"], *words))[0]
    assert training.after == () and evaluation.after == (0,) and not evaluation.distributed
    overrides = (f"run={training.run}", "episodes=7", "conditions=[trained]")
    assert evaluation.command == ("eval.py", *overrides) and evaluation.overrides == overrides


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["launcher.then_settings={episodes: 3}"],
            "launcher.then_settings: found {'episodes': 3} without launcher.then",
        ),
        (["launcher.then=eval", "launcher.then_settings={episods: 3}"], "launcher.then_settings: episods: no such"),
        (
            ["launcher.then=eval", "launcher=tpu_v3_8"],
            "launcher.then: found eval with launcher=tpu_v3_8; allowed: null",
        ),
    ],
)
def test_an_evaluation_that_cannot_follow_is_refused(words: list[str], line: str) -> None:
    with pytest.raises(InputError) as refused:
        job_specs(request("train", TrainConfig, ["experiment=quickstart"], *words))
    assert str(refused.value).startswith(line)


def test_only_trainings_are_followed_by_evaluations() -> None:
    with pytest.raises(InputError, match=r"^launcher.then: found eval; allowed: only with trainings of agents"):
        job_specs(request("eval", EvalConfig, ["run=outputs/x"], "launcher.then=eval"))
    with pytest.raises(InputError, match=r"^launcher.then_settings: found \{'run': 'x'\}; allowed: "):
        request("eval", EvalConfig, ["run=outputs/x"], "launcher.then_settings={run: x}")
