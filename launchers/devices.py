"""Whether this machine's accelerators can be used. Set-up ends with it.

python -m launchers.devices gpu
python -m launchers.devices tpu
"""

import os
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instructrl.errors import InputError, RunError, one_line_errors

METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"
DEV = Path("/dev")
CHIPS = ("accel*", "vfio/[0-9]*")
ADVICE = {
    "gpu": "look at nvidia-smi, and set the machine up again with launchers/setup_gpu.sh",
    "tpu": "see that this is a TPU host and nothing else runs on it, and set it up with launchers/setup_tpu.sh",
}


def check(kind: str) -> str:
    """Compute something on each device of this machine; says what there is.

    The chips of a pod of several hosts answer only when all hosts ask together: those are counted.

    Raises:
        RunError: there is none, it cannot be used, or computes something else.
    """
    if kind == "tpu":
        chips = [path for pattern in CHIPS for path in DEV.glob(pattern)]
        hosts = host_count() if chips else 1
        if not chips:
            raise RunError(f"tpu: found no chip in {DEV} ({', '.join(CHIPS)}); {ADVICE[kind]}")
        if hosts > 1:
            import libtpu  # noqa: F401  # that it is there

            return f"tpu: {len(chips)} chips on this host, one of {hosts}"
    os.environ["JAX_PLATFORMS"] = {"gpu": "cuda"}.get(kind, kind)
    import jax

    try:
        devices = jax.local_devices()
        found = [product(device) for device in devices]
    except Exception as error:  # of any library below jax
        raise RunError(f"{kind}: cannot be used ({' '.join(str(error).split())[:300]}); {ADVICE[kind]}") from None
    wrong = [str(device) for device, value in zip(devices, found, strict=True) if value != 2.0**19]
    if wrong:
        raise RunError(f"{kind}: {', '.join(wrong)} computes a wrong product; take another machine")
    return f"{kind}: {len(devices)} x {devices[0].device_kind}, each computes"


def product(device: Any) -> float:
    """The sum of a product of matrices of ones, exact in any precision: 64 x 128 x 64."""
    import jax
    import jax.numpy as jnp

    ones = jax.device_put(jnp.ones((64, 128)), device)
    return float((ones @ ones.T).sum())


def host_count() -> int:
    """How many hosts this one's TPU has; 1 where nothing says so."""
    request = urllib.request.Request(METADATA, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=3) as answer:
            return max(1, len(answer.read().decode().split(",")))
    except (OSError, ValueError):
        return 1


def main(words: Sequence[str]) -> None:
    """`gpu` or `tpu`."""
    if len(words) != 1 or words[0] not in ADVICE:
        raise InputError(f"devices: found {' '.join(words) or 'nothing'}; allowed: gpu or tpu")
    print(check(words[0]), flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
