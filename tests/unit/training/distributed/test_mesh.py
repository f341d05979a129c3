"""The mesh of processes that see different numbers of devices."""

from typing import Any

import jax
import pytest

from instructrl.config.training import HardwareConfig
from instructrl.training.distributed.mesh import check_devices, make_mesh


class Device:
    """A device of a process."""

    def __init__(self, process_index: int, number: int) -> None:
        self.process_index, self.id = process_index, number

    def __str__(self) -> str:
        return f"cuda:{self.id}"


def test_processes_with_more_devices_than_others_leave_some_idle_and_say_which(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: Any = [Device(process, number) for number, process in enumerate((0, 0, 0, 0, 1, 1))]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    mesh = make_mesh(HardwareConfig(name="gpu"))
    assert [str(one) for one in mesh.devices.flat] == ["cuda:0", "cuda:1", "cuda:4", "cuda:5"]
    with pytest.warns(UserWarning) as caught:
        check_devices(HardwareConfig(name="gpu"), batch_size=8)
        check_devices(HardwareConfig(name="gpu", local_devices=1), batch_size=8)
    [warning] = caught
    assert str(warning.message).startswith("cuda:2, cuda:3 stay idle: ")
