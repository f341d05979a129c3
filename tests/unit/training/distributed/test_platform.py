"""The share of a GPU's memory that jax reserves where simulators render on it."""

import os

import pytest

from instructrl.config.training import HardwareConfig
from instructrl.training.distributed.platform import MEMORY_VARIABLES, select_platform

CPU = HardwareConfig(name="cpu", platform="cpu", compilation_cache=None)
FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"


@pytest.mark.parametrize(
    ("given", "beside_renderers", "found"),
    [
        ({}, True, "0.6"),
        ({}, False, None),
        ({FRACTION: "0.9"}, True, "0.9"),
        ({FRACTION: ""}, True, "0.6"),
        ({"XLA_CLIENT_MEM_FRACTION": "0.9"}, True, None),  # jax refuses both
        ({"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}, True, None),
        ({"XLA_PYTHON_CLIENT_ALLOCATOR": "platform"}, True, None),
    ],
)
def test_renderers_have_memory_unless_the_user_divided_it(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], beside_renderers: bool, found: str | None
) -> None:
    for name in MEMORY_VARIABLES:
        monkeypatch.setenv(name, given.get(name, ""))
        if name not in given:
            del os.environ[name]
    select_platform(CPU, beside_renderers=beside_renderers)
    assert os.environ.get(FRACTION) == found
