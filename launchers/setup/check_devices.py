"""Check of this machine's accelerators, the last step of the set-up scripts.

python -m launchers.setup.check_devices gpu
python -m launchers.setup.check_devices tpu
"""

import os
import sys
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from instructrl.errors import InputError, RunError, report_user_errors

METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"
DEV = Path("/dev")
CHIPS = ("accel*", "vfio/[0-9]*")
ADVICE = {
    "gpu": "check nvidia-smi, and repeat the set-up with launchers/setup/setup_gpu.sh",
    "tpu": "check that this is a TPU host without other processes, and repeat launchers/setup/setup_tpu.sh",
}


def host_count() -> int:
    """Number of hosts of this TPU; 1 if the metadata server does not answer."""
    request = urllib.request.Request(METADATA, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=3) as response:
            return max(1, len(response.read().decode().split(",")))
    except (OSError, ValueError):
        return 1


def check(kind: str, *, dev: Path = DEV, host_count: Callable[[], int] = host_count) -> str:
    """Run a computation on each device of this machine; returns a description.

    The chips of a multi-host pod work only when all hosts initialize them together: they are only counted.

    Args:
        kind: `gpu` or `tpu`.
        dev: folder of the machine's device files.
        host_count: returns the number of hosts of the TPU.

    Raises:
        RunError: there is no device, it cannot be used, or its result is wrong.
    """
    if kind == "tpu":
        chips = [path for pattern in CHIPS for path in dev.glob(pattern)]
        hosts = host_count() if chips else 1
        if not chips:
            raise RunError(f"tpu: found no chip in {dev} ({', '.join(CHIPS)}); {ADVICE[kind]}")
        if hosts > 1:
            import libtpu  # noqa: F401  # raises unless installed

            return f"tpu: {len(chips)} chips on this host, one of {hosts}"
    os.environ["JAX_PLATFORMS"] = {"gpu": "cuda"}.get(kind, kind)
    import jax

    try:
        devices = jax.local_devices()
        sums = [product(device) for device in devices]
    except Exception as error:  # from any library below jax
        raise RunError(f"{kind}: cannot be used ({' '.join(str(error).split())[:300]}); {ADVICE[kind]}") from None
    wrong = [str(device) for device, value in zip(devices, sums, strict=True) if value != 2.0**19]
    if wrong:
        raise RunError(f"{kind}: {', '.join(wrong)} computes a wrong product; use another machine")
    return f"{kind}: {len(devices)} x {devices[0].device_kind}, each computes"


def product(device: Any) -> float:
    """Sum of a 64 x 128 x 64 product of matrices of ones, exact in any precision."""
    import jax
    import jax.numpy as jnp

    ones = jax.device_put(jnp.ones((64, 128)), device)
    return float((ones @ ones.T).sum())


def main(words: Sequence[str]) -> None:
    """Check the devices of the given kind, `gpu` or `tpu`."""
    if len(words) != 1 or words[0] not in ADVICE:
        raise InputError(f"devices: found {' '.join(words) or 'nothing'}; allowed: gpu or tpu")
    print(check(words[0]), flush=True)


if __name__ == "__main__":
    with report_user_errors():
        main(sys.argv[1:])
