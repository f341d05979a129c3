"""The devices that a process asks jax for."""

import warnings
from typing import Any

import jax
import pytest

from instructrl.config.training import HardwareConfig
from instructrl.errors import InputError
from instructrl.training.distributed.multihost import process_group

EIGHT = "0,1,2,3,4,5,6,7"
ALL_SEEN = {"CUDA_VISIBLE_DEVICES": EIGHT, "SLURM_GPUS_ON_NODE": "8"}
STEP = {"SLURM_STEP_NODELIST": "n[1-2]", "SLURMD_NODENAME": "n1"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The keyword arguments of each call of jax.distributed.initialize."""
    calls: list[dict[str, Any]] = []
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "JAX_LOCAL_DEVICE_IDS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **more: calls.append(more))
    return calls


def start(patch: pytest.MonkeyPatch, index: int, count: int, environ: dict[str, str], **hardware: Any) -> None:
    """Connect as task `index` of `count` on a node, of two."""
    own = {"SLURM_LOCALID": str(index), "SLURM_PROCID": str(index), "SLURM_NTASKS": str(2 * count)}
    for name, value in {**STEP, "SLURM_NTASKS_PER_NODE": str(count), **own, **environ}.items():
        patch.setenv(name, value)
    with process_group(HardwareConfig(**{"name": "gpu", "platform": "gpu", "coordinator": "auto", **hardware})):
        pass


@pytest.mark.parametrize(
    ("index", "count", "environ", "hardware", "ids"),
    [
        (0, 1, ALL_SEEN, {}, list(range(8))),
        (3, 8, ALL_SEEN, {}, [3]),
        (3, 8, {"CUDA_VISIBLE_DEVICES": "0", "SLURM_GPUS_ON_NODE": "8"}, {}, [0]),
        (3, 8, ALL_SEEN, {"platform": "auto"}, [3]),
        (0, 1, {}, {}, []),  # GPUs that SLURM does not know of: all
        (1, 2, {}, {}, None),
        (3, 8, ALL_SEEN, {"platform": "cpu"}, None),
        (3, 8, ALL_SEEN, {"platform": "tpu"}, None),
        (3, 8, {**ALL_SEEN, "JAX_PLATFORMS": "cpu"}, {"platform": "auto"}, None),
        (3, 8, {**ALL_SEEN, "JAX_PLATFORMS": "cuda,cpu"}, {"platform": "auto"}, [3]),
        (3, 8, {**ALL_SEEN, "JAX_LOCAL_DEVICE_IDS": "5"}, {}, None),
        # an address in place of auto: SLURM's tasks, or what a script starts on its own
        (3, 8, ALL_SEEN, {"coordinator": "n1:1234", "process_id": 3, "num_processes": 16}, [3]),
        (0, 8, ALL_SEEN, {"coordinator": "n1:1234", "process_id": 1, "num_processes": 2}, None),
    ],
)
def test_each_task_asks_for_its_gpus(
    asked: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    index: int,
    count: int,
    environ: dict[str, str],
    hardware: dict[str, Any],
    ids: list[int] | None,
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start(monkeypatch, index, count, environ, **hardware)
    [call] = asked
    found = call["local_device_ids"]
    assert (found if found is None else list(found)) == ids


def test_idle_gpus_are_named_once(asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning) as caught:
        for index in range(3):
            start(monkeypatch, index, 3, ALL_SEEN)
        start(monkeypatch, 0, 3, ALL_SEEN, local_devices=1)  # as was asked for
    assert [str(one.message) for one in caught] == ["GPUs 6, 7 of n1 stay idle, beside 3 tasks of 2 GPUs each"]
    assert [list(call["local_device_ids"]) for call in asked[:3]] == [[0, 1], [2, 3], [4, 5]]


def test_more_tasks_than_gpus_are_one_line(asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_ON_NODE": "2"}
    with pytest.raises(InputError, match=r"^hardware.coordinator: found 4 tasks on this node, which all see 2 GPUs"):
        start(monkeypatch, 3, 4, environ)
    assert asked == []
