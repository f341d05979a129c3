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
