"""The EGL device on which a process renders, by what EGL and the scheduler tell."""

import os
from collections.abc import Mapping

import pytest

from instructrl.sim import egl_devices
from instructrl.sim.egl_devices import select_egl_device

EIGHT = "0,1,2,3,4,5,6,7"
CUDA_NUMBERS = [None, 7, 6, 5, 4, 3, 2, 1, 0]  # of EGL's devices on a node; the first one renders in software


@pytest.fixture(autouse=True)
def node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose driver numbers the visible GPUs from 0, or all of them if all are visible."""

    def query(environ: Mapping[str, str]) -> list[int | None]:
        visible = environ.get("CUDA_VISIBLE_DEVICES", EIGHT).split(",")
        return [visible.index(str(one)) if str(one) in visible else None for one in CUDA_NUMBERS]

    monkeypatch.setattr(egl_devices, "cuda_numbers", query)
    for name in ("MUJOCO_EGL_DEVICE_ID", "CUDA_VISIBLE_DEVICES", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)


def device(patch: pytest.MonkeyPatch, environ: Mapping[str, str]) -> str | None:
    """The chosen device; None if MuJoCo chooses it."""
    with patch.context() as inner:
        for name, value in {"MUJOCO_EGL_DEVICE_ID": "", **environ}.items():
            inner.setenv(name, value)  # and takes back what is chosen
        del os.environ["MUJOCO_EGL_DEVICE_ID"]
        chosen = select_egl_device()
        found = os.environ.get("MUJOCO_EGL_DEVICE_ID")
        assert chosen == (found is not None)
        return found


def task(index: int, **more: str) -> dict[str, str]:
    return {"SLURM_LOCALID": str(index), "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "8", **more}


def test_eight_tasks_render_on_eight_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    all_seen = {"CUDA_VISIBLE_DEVICES": EIGHT, "SLURM_GPUS_ON_NODE": "8"}
    assert [device(monkeypatch, task(index, **all_seen)) for index in range(8)] == [
        "8",
        "7",
        "6",
        "5",
        "4",
        "3",
        "2",
        "1",
    ]
    own = [task(index, CUDA_VISIBLE_DEVICES=str(index), SLURM_GPUS_ON_NODE="8") for index in range(8)]
    assert [device(monkeypatch, one) for one in own] == ["8", "7", "6", "5", "4", "3", "2", "1"]
    shared = {"CUDA_VISIBLE_DEVICES": "2,3", "SLURM_GPUS_ON_NODE": "2"}  # too few for a training, but not to render
    assert [device(monkeypatch, task(index, **shared)) for index in range(4)] == ["6", "5", "6", "5"]


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({"CUDA_VISIBLE_DEVICES": "3"}, "5"),
        ({"CUDA_VISIBLE_DEVICES": "5,2"}, "3"),
        ({}, None),
        ({"CUDA_VISIBLE_DEVICES": ""}, None),
        ({"CUDA_VISIBLE_DEVICES": "12"}, None),  # EGL does not know it
    ],
)
def test_the_device_is_the_one_of_the_first_visible_gpu(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], found: str | None
) -> None:
    assert device(monkeypatch, environ) == found


def test_gpus_that_are_named_by_uuid_are_counted_as_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egl_devices, "cuda_numbers", lambda _: [None, 1, 0])
    both = {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    assert [device(monkeypatch, {**both, "SLURM_LOCALID": str(index)}) for index in range(2)] == ["2", "1"]


def test_a_driver_that_answers_the_same_for_several_devices_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egl_devices, "cuda_numbers", lambda _: [0, 0, 1])
    assert device(monkeypatch, {"CUDA_VISIBLE_DEVICES": "0"}) is None


def test_a_device_that_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "1")
    assert not select_egl_device() and os.environ["MUJOCO_EGL_DEVICE_ID"] == "1"
