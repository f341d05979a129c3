"""Which device computes, and in which precision."""

from typing import Any

import jax
import jax.numpy as jnp

from instructrl.config import HardwareConfig
from instructrl.errors import InputError

BACKENDS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


def select_platform(config: HardwareConfig) -> None:
    """Make jax use the configured platform; call before anything is computed.

    Raises:
        InputError: jax finds no such device.
    """
    if config.platform != "auto":
        jax.config.update("jax_platforms", BACKENDS[config.platform])
    try:
        jax.devices()
    except (RuntimeError, AssertionError):  # the latter for cuda on a machine without an NVIDIA GPU (jax 0.10)
        raise InputError(
            f"hardware.platform: found {config.platform}, but jax sees no such device; "
            "install requirements-gpu.txt or requirements-tpu.txt where there is one, or use hardware=cpu"
        ) from None


def compute_dtype(config: HardwareConfig) -> Any:
    """The type in which activations are computed; parameters stay float32."""
    return {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[config.precision]
