"""Platform selection, compute precision, and the persistent compilation cache."""

import os
import platform
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax._src import compilation_cache, compiler  # no public setting for which processes write the cache
from jax._src import config as jax_config

from instructrl.config.training import HardwareConfig
from instructrl.errors import InputError
from instructrl.models.layers.attention import has_cudnn
from instructrl.models.layers.block_stack import ExecutionConfig
from instructrl.training.distributed.multihost import process_shard

BACKENDS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


def select_platform(config: HardwareConfig) -> None:
    """Make jax use the configured platform; call before any computation.

    Raises:
        InputError: jax finds no such device.
    """
    if config.platform != "auto":
        jax.config.update("jax_platforms", BACKENDS[config.platform])
    configure_compilation_cache(config)
    try:
        jax.devices()
    except (RuntimeError, AssertionError):  # AssertionError: cuda without an NVIDIA GPU (jax 0.10)
        raise InputError(
            f"hardware.platform: found {config.platform}, but jax sees no such device; "
            "install requirements-gpu.txt or requirements-tpu.txt if the machine has one, or use hardware=cpu"
        ) from None
    if config.attention == "cudnn" and not has_cudnn():
        raise InputError(
            f"hardware.attention: found cudnn, but jax runs on {jax.devices()[0].device_kind}; allowed: auto or xla"
        )


def execution_config(config: HardwareConfig) -> ExecutionConfig:
    """Execution options of attention and blocks."""
    return ExecutionConfig(config.attention, remat=config.remat == "blocks", scan=config.scan)


def configure_compilation_cache(config: HardwareConfig) -> None:
    """Enable the persistent compilation cache; JAX_COMPILATION_CACHE_DIR takes precedence."""
    cache_dir = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not cache_dir:
        if config.compilation_cache is None:
            return
        cache_dir = str(Path(config.compilation_cache).expanduser() / cpu_fingerprint())
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    index, count = process_shard()
    if index:
        cache_dir = str(Path(cache_dir) / f"process-{index}-of-{count}")  # no two processes write the same file
        compiler._cache_write = write_compiled_program
    jax.config.update("jax_compilation_cache_dir", cache_dir)


def write_compiled_program(
    cache_key: str,
    compile_time_secs: float,
    module_name: str,
    backend: Any,
    executable: Any,
    host_callbacks: Sequence[Any],
) -> None:
    """Write a compiled program to this process's cache folder; replaces jax's function of the same signature.

    In jax only process 0 writes. Others cannot read its entries if keys differ by process (CPUs) or folders by host;
    they would compile at every start while process 0 waits in its first step, possibly until it times out.
    """
    if host_callbacks or compile_time_secs < jax_config.persistent_cache_min_compile_time_secs.value:
        return
    try:
        compilation_cache.put_executable_and_time(cache_key, module_name, executable, backend, int(compile_time_secs))
    except Exception as error:  # as in jax: a failed cache write must not end a training
        warnings.warn(f"compiled programs cannot be cached: {error}", stacklevel=2)


def cpu_fingerprint() -> str:
    """Name shared by CPUs with the same instruction set: a program compiled for one CPU may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    features = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0] if lines else "")
    return f"{platform.machine()}-{zlib.crc32(features.encode()):08x}"


def compute_dtype(config: HardwareConfig) -> Any:
    """Data type of activations; parameters stay float32."""
    return {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[config.precision]
