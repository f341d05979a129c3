"""The GPUs of a task, by what SLURM and Open MPI tell it."""

import pytest

from instructrl.errors import InputError
from instructrl.local_gpus import gpu_share

EIGHT = "0,1,2,3,4,5,6,7"


def step(index: int, count: int, *, nodes: int = 1, **more: str) -> dict[str, str]:
    """The environment of task `index` of `count` on a node."""
    sizes = f"{count}(x{nodes})" if nodes > 1 else str(count)
    return {
        "SLURM_LOCALID": str(index),
        "SLURM_NTASKS": str(count * nodes),
        "SLURM_STEP_NUM_NODES": str(nodes),
        "SLURM_STEP_TASKS_PER_NODE": sizes,
        "SLURM_NODEID": str(nodes - 1),
        **more,
    }


def all_of(count: int) -> dict[str, str]:
    """The environment of a task that sees all GPUs of its job, as with --gpus-per-node."""
    names = ",".join(map(str, range(count)))
    return {"CUDA_VISIBLE_DEVICES": names, "SLURM_STEP_GPUS": names, "SLURM_GPUS_ON_NODE": str(count)}


def own(*names: str, of: int) -> dict[str, str]:
    """The environment of a task that has GPUs of its own, as with --gpus-per-task."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(names), "SLURM_GPUS_ON_NODE": str(of)}


@pytest.mark.parametrize(
    ("environ", "used", "idle"),
    [
        (step(0, 1, **all_of(8)), range(8), ""),
        (step(0, 1, nodes=2, **all_of(8)), range(8), ""),
        (step(3, 8, **all_of(8)), [3], ""),
        (step(7, 8, nodes=3, **all_of(8)), [7], ""),
        (step(1, 4, **all_of(8)), [2, 3], ""),
        (step(1, 2, **all_of(3)), [1], "GPU 2"),
        (step(2, 3, **all_of(8)), [4, 5], "GPUs 6, 7"),
        (step(4, 5, **all_of(8)), [4], "GPUs 5, 6, 7"),
        # GPUs of its own: numbered from 0 for each task, or as on the node
        (step(3, 8, **own("0", of=8)), [0], ""),
        (step(3, 8, **own("3", of=8)), [0], ""),
        (step(1, 2, **own("0", "1", of=4)), [0, 1], ""),
        (step(1, 2, **own("2", "3", of=4), SLURM_STEP_GPUS="2,3"), [0, 1], ""),
        (step(1, 4, **own("1", of=8)), [0], "4 of the 8 GPUs"),
        (step(0, 1, **own("0", of=8)), [0], "7 of the 8 GPUs"),
        (step(3, 8, CUDA_VISIBLE_DEVICES="0"), [0], ""),
        (step(1, 2, CUDA_VISIBLE_DEVICES="2,3", SLURM_GPUS_PER_TASK="a100:2"), [0, 1], ""),
        (step(1, 2, CUDA_VISIBLE_DEVICES="2,3", SLURM_TRES_PER_TASK="cpu=8,gres/gpu:a100=2"), [0, 1], ""),
        (step(1, 2, **all_of(2), SLURM_GPUS_PER_TASK="1"), [1], ""),  # with --gpu-bind=none
        # what is listed, and what is not
        (step(1, 2, CUDA_VISIBLE_DEVICES="GPU-a1, GPU-b2"), [1], ""),
        (step(0, 1, CUDA_VISIBLE_DEVICES="MIG-a,MIG-b"), [0], ""),
        (step(1, 2, CUDA_VISIBLE_DEVICES="4,5,-1,6"), [1], ""),
        (step(1, 2, SLURM_STEP_GPUS="4,5", SLURM_GPUS_ON_NODE="2"), [1], ""),
        (step(1, 2, SLURM_GPUS_ON_NODE="4"), [2, 3], ""),
        (step(1, 2, ROCR_VISIBLE_DEVICES="4,5", SLURM_GPUS_ON_NODE="2"), [1], ""),
        (step(1, 2, HIP_VISIBLE_DEVICES="0,1", ROCR_VISIBLE_DEVICES="4,5,6,7"), [1], ""),
        # the number of tasks, where SLURM does not give it exactly
        ({"SLURM_LOCALID": "0", "SLURM_NTASKS": "2", "SLURM_NNODES": "2", **all_of(4)}, range(4), ""),
        ({"SLURM_LOCALID": "1", "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", **all_of(4)}, [1], ""),
        ({"SLURM_LOCALID": "0", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "4", **all_of(4)}, range(4), ""),
        ({"SLURM_LOCALID": "1", **all_of(4)}, [2, 3], ""),
        (step(0, 3) | {"SLURM_STEP_TASKS_PER_NODE": "4(x2),1", "SLURM_NODEID": "2"} | all_of(4), range(4), ""),
        # mpirun, whose daemons are SLURM's tasks
        (step(0, 1, OMPI_COMM_WORLD_LOCAL_RANK="5", OMPI_COMM_WORLD_LOCAL_SIZE="8", **all_of(8)), [5], ""),
    ],
)
def test_a_task_has_its_even_part_of_the_gpus(environ: dict[str, str], used: list[int], idle: str) -> None:
    share = gpu_share(environ)
    assert share is not None
    assert (list(share.used), share.idle) == (list(used), idle)


@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("gpus", range(1, 9))
def test_no_gpu_has_two_tasks_and_none_is_forgotten(count: int, gpus: int) -> None:
    if count > gpus:
        with pytest.raises(InputError, match=f"^found {count} tasks on this node, which all see {gpus} GPU"):
            gpu_share(step(0, count, **all_of(gpus)))
        return
    shares = [gpu_share(step(index, count, **all_of(gpus))) for index in range(count)]
    used = [number for share in shares if share is not None for number in share.used]
    assert len({len(share.used) for share in shares if share is not None}) == 1
    assert used == list(range(len(used))) and gpus - len(used) < count
    assert {share.idle.count(",") for share in shares if share} == {max(gpus - len(used) - 1, 0)}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"CUDA_VISIBLE_DEVICES": EIGHT},
        step(0, 2),
        step(0, 2, CUDA_VISIBLE_DEVICES=""),
        step(0, 2, CUDA_VISIBLE_DEVICES="NoDevFiles"),
        step(0, 2, CUDA_VISIBLE_DEVICES="-1"),
        {"SLURM_LOCALID": "x", "CUDA_VISIBLE_DEVICES": EIGHT},
    ],
)
def test_without_gpus_or_a_scheduler_there_is_nothing_to_divide(environ: dict[str, str]) -> None:
    assert gpu_share(environ) is None


def test_tasks_that_share_a_gpu_are_one_line_with_what_to_do() -> None:
    with pytest.raises(InputError) as error:
        gpu_share(step(5, 8, **own("0", "1", "2", "3", of=8)))  # bound to the closest ones, four to four tasks
    assert str(error.value) == (
        "found 8 tasks on this node, which all see 4 GPUs of the job's 8 (0, 1, 2, 3); allowed: at most 4; start fewer "
        "tasks per node, give each a GPU of its own with --gpus-per-task=1, or use hardware=cpu"
    )
