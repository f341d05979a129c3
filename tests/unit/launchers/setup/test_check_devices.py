"""The check of a machine's accelerators: devices that are missing, of a pod, or compute."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from instructrl.errors import InputError, RunError
from launchers.setup import check_devices


def test_devices_that_cannot_be_used_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match=r"^tpu: found no chip in .*setup_tpu.sh$"):
        check_devices.check("tpu", dev=tmp_path)
    (tmp_path / "accel0").touch()
    monkeypatch.setitem(sys.modules, "libtpu", ModuleType("libtpu"))  # as if it were installed
    assert check_devices.check("tpu", dev=tmp_path, host_count=lambda: 4) == "tpu: 1 chips on this host, one of 4"
    with pytest.raises(InputError, match="found cpu; allowed: gpu or tpu"):
        check_devices.main(["cpu"])


def test_devices_compute_what_is_known_exactly() -> None:
    import jax

    assert {check_devices.product(device) for device in jax.devices()} == {2.0**19}
