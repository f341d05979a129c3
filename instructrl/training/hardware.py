"""Which device computes, in which precision, and where compiled programs are kept."""

import os
import platform
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax._src import compilation_cache, compiler  # which processes keep their programs cannot be set elsewhere
from jax._src import config as jax_config

from instructrl.config import HardwareConfig
from instructrl.errors import InputError
from instructrl.models.blocks import Strategy, has_cudnn
from instructrl.training.processes import shard

BACKENDS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


def select_platform(config: HardwareConfig) -> None:
    """Make jax use the configured platform; call before anything is computed.

    Raises:
        InputError: jax finds no such device.
    """
    if config.platform != "auto":
        jax.config.update("jax_platforms", BACKENDS[config.platform])
    keep_compiled(config)
    try:
        jax.devices()
    except (RuntimeError, AssertionError):  # the latter for cuda on a machine without an NVIDIA GPU (jax 0.10)
        raise InputError(
            f"hardware.platform: found {config.platform}, but jax sees no such device; "
            "install requirements-gpu.txt or requirements-tpu.txt where there is one, or use hardware=cpu"
        ) from None
    if config.attention == "cudnn" and not has_cudnn():
        raise InputError(
            f"hardware.attention: found cudnn, but jax computes on {jax.devices()[0].device_kind}; allowed: auto or xla"
        )


def strategy(config: HardwareConfig) -> Strategy:
    """How blocks and attention are computed."""
    return Strategy(config.attention, remat=config.remat == "blocks", scan=config.scan)


def keep_compiled(config: HardwareConfig) -> None:
    """Let the next start find what this one compiles; JAX_COMPILATION_CACHE_DIR has the last word."""
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not given:
        if config.compilation_cache is None:
            return
        given = str(Path(config.compilation_cache).expanduser() / kind_of_machine())
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    index, count = shard()
    if index:
        given = str(Path(given) / f"process-{index}-of-{count}")  # two never write one file
        compiler._cache_write = keep_program
    jax.config.update("jax_compilation_cache_dir", given)


def keep_program(
    cache_key: str,
    compile_time_secs: float,
    module_name: str,
    backend: Any,
    executable: Any,
    host_callbacks: Sequence[Any],
) -> None:
    """Write a compiled program to this process's folder.

    jax lets process 0 alone write. The others could not read that where keys differ by process, as on CPUs, or folders
    by host: they would compile at every start, while process 0 waits in its first step until its patience is over.
    """
    if host_callbacks or compile_time_secs < jax_config.persistent_cache_min_compile_time_secs.value:
        return
    try:
        compilation_cache.put_executable_and_time(cache_key, module_name, executable, backend, int(compile_time_secs))
    except Exception as error:  # as jax does: nothing that cannot be kept ends a training
        warnings.warn(f"compiled programs cannot be kept: {error}", stacklevel=2)


def kind_of_machine() -> str:
    """A name for processors with the same instructions: a program compiled for one CPU need not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    told = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0] if lines else "")
    return f"{platform.machine()}-{zlib.crc32(told.encode()):08x}"


def compute_dtype(config: HardwareConfig) -> Any:
    """The type in which activations are computed; parameters stay float32."""
    return {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[config.precision]
