"""Accelerator types: the number of hosts and the system image follow from the name; wrong ones are refused."""

import re

import pytest

from instructrl.config.launcher import TpuConfig
from instructrl.errors import InputError
from launchers.tpu.accelerator import expected_hosts, slice_of
from launchers.tpu.request import request_of


@pytest.mark.parametrize(
    ("accelerator", "hosts", "runtime"),
    [
        ("v2-8", 1, "tpu-ubuntu2204-base"),
        ("v3-8", 1, "tpu-ubuntu2204-base"),
        ("v3-2048", 256, "tpu-ubuntu2204-base"),
        ("v4-32", 4, "tpu-ubuntu2204-base"),
        ("v4-64", 8, "tpu-ubuntu2204-base"),
        ("v4-384", 48, "tpu-ubuntu2204-base"),
        ("v5litepod-1", 1, "v2-alpha-tpuv5-lite"),
        ("v5litepod-8", 1, "v2-alpha-tpuv5-lite"),
        ("v5litepod-16", 4, "v2-alpha-tpuv5-lite"),
        ("v5litepod-256", 64, "v2-alpha-tpuv5-lite"),
        ("v5p-8", 1, "v2-alpha-tpuv5"),
        ("v5p-12288", 1536, "v2-alpha-tpuv5"),
        ("v6e-8", 1, "v2-alpha-tpuv6e"),
        ("v6e-256", 64, "v2-alpha-tpuv6e"),
    ],
)
def test_hosts_and_image_follow_from_the_name(accelerator: str, hosts: int, runtime: str) -> None:
    tpu = TpuConfig(accelerator=accelerator)
    asked = slice_of(tpu)
    assert (asked.hosts, asked.runtime) == (hosts, runtime)
    assert slice_of(TpuConfig(accelerator=accelerator, hosts=hosts, runtime=runtime)) == asked
    assert expected_hosts(TpuConfig(), accelerator) == hosts
    assert request_of(tpu, key_text="key")[1]["runtimeVersion"] == runtime


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"accelerator": "nonsense"}, "accelerator: found nonsense; allowed: v2-8|32|128|256|512; v3-8|"),
        ({"accelerator": "v4-33"}, "accelerator: found v4-33; allowed: v4-8|16|32|64, or a multiple of 128 up to 8192"),
        ({"accelerator": "v4-24", "hosts": 3}, "accelerator: found v4-24; allowed: v4-8|16"),
        ({"accelerator": "v6e-2"}, "accelerator: found v6e-2; allowed: v6e-1|4|8|16|32|64|128|256"),
        ({"accelerator": "v5e-256"}, "accelerator: found v5e-256; did you mean v5litepod-256?"),
        ({"accelerator": "v5litpod-256"}, "accelerator: found v5litpod-256; did you mean v5litepod-256"),
        ({"accelerator": "v9-24"}, "accelerator: found v9-24; "),
        ({"accelerator": "v9-24", "hosts": 3}, "accelerator: found v9-24; "),
        ({"accelerator": "v4-32", "hosts": 8}, "hosts: found 8, but v4-32 has 4; leave hosts= out"),
        ({"accelerator": "v5p-8", "runtime": "v2-alpha-tpuv5-lite"}, "runtime: found v2-alpha-tpuv5-lite, an image of"),
        ({"accelerator": "v6e-8", "runtime": "tpu-ubuntu2204-base"}, "runtime: found tpu-ubuntu2204-base, an image"),
        ({"accelerator": "v4-8", "runtime": "nonsense"}, "runtime: found nonsense, no known image; v4-8 runs"),
    ],
)  # fmt: skip
def test_wrong_types_are_refused_in_one_line(settings: dict, line: str) -> None:
    with pytest.raises(InputError, match="^" + re.escape(line)) as refused:
        request_of(TpuConfig(**settings), key_text="key")
    assert str(refused.value).isprintable()


def test_a_type_that_is_newer_than_the_list_is_described_in_full() -> None:
    with pytest.raises(InputError, match="newer than this list needs hosts=NUMBER and runtime=NAME"):
        slice_of(TpuConfig(accelerator="v9x-24"))
    asked = slice_of(TpuConfig(accelerator="v9x-24", hosts=3, runtime="v2-alpha-tpuv9"))
    assert (asked.hosts, asked.runtime) == (3, "v2-alpha-tpuv9")
    assert expected_hosts(TpuConfig(), "v9x-24") is None


@pytest.mark.parametrize(
    "runtime", ["tpu-vm-tf-2.18.0-pod-pjrt", "v2-alpha-tpuv5-lite", "v2-tpuv5-litepod"], ids=lambda text: text
)
def test_other_images_of_a_generation_are_taken(runtime: str) -> None:
    assert slice_of(TpuConfig(accelerator="v5litepod-16", runtime=runtime)).runtime == runtime
