"""The share of a GPU's memory beside renderers, devices that jax does not see, and 64 bits."""

import os

import jax
import pytest

from instructrl.config.training import HardwareConfig
from instructrl.errors import InputError
from instructrl.training.distributed.platform import MEMORY_VARIABLES, check_precision, select_platform

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


@pytest.mark.parametrize(
    ("platform", "platforms", "name", "said"),
    [
        (
            "auto",
            "cuda,foo",
            "",
            r"^JAX_PLATFORMS: found cuda,foo, but jax sees no such device; unset this variable, or ",
        ),
        ("auto", "", "", r"^hardware.platform: found auto, but jax sees no such device; install "),
        ("cpu", "foo", "", r"^hardware.platform: found cpu, but jax sees no such device; install "),
        ("cpu", "", "bar", r"^JAX_PLATFORM_NAME: found bar, but jax sees no such device; unset this variable"),
    ],
)
def test_devices_that_jax_does_not_see_are_named_by_who_asked_for_them(
    monkeypatch: pytest.MonkeyPatch, platform: str, platforms: str, name: str, said: str
) -> None:
    def devices() -> None:
        raise RuntimeError("Unable to initialize backend")

    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setenv("JAX_PLATFORM_NAME", name)
    with pytest.raises(InputError, match=said):
        select_platform(HardwareConfig(name=platform, platform=platform, compilation_cache=None))


def test_a_training_in_64_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_precision()
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    with jax.enable_x64(True), pytest.raises(InputError, match=r"^JAX_ENABLE_X64: found 1; allowed: false, or no such"):
        check_precision()
