"""Platform selection, compute precision, and the persistent compilation cache."""

import os
import platform
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from instructrl.allocator import keep_freed_memory
from instructrl.config.training import HardwareConfig
from instructrl.errors import InputError
from instructrl.models.layers.attention import has_cudnn
from instructrl.models.layers.block_stack import ExecutionConfig
from instructrl.training.distributed.jax_internals import write_compiled_programs
from instructrl.training.distributed.multihost import process_shard

BACKENDS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
MEMORY_BESIDE_RENDERERS = "0.6"  # of a GPU's memory; jax takes 0.75 of it by itself
MEMORY_VARIABLES = (  # with which a user says how jax reserves a GPU's memory
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
)


def select_platform(config: HardwareConfig, *, beside_renderers: bool = False) -> None:
    """Make jax use the configured platform; call before any computation.

    `beside_renderers`: simulators may render on the same GPU, so that jax reserves less of its memory.

    Raises:
        InputError: jax finds no such device.
    """
    if beside_renderers and not any(os.environ.get(name) for name in MEMORY_VARIABLES):
        os.environ[MEMORY_VARIABLES[0]] = MEMORY_BESIDE_RENDERERS
    if config.platform != "auto":
        jax.config.update("jax_platforms", BACKENDS[config.platform])
    configure_compilation_cache(config)
    if config.platform in ("cpu", "auto"):
        keep_freed_memory()  # before jax starts the threads that compute
    try:
        jax.devices()
    except (RuntimeError, AssertionError):  # AssertionError: cuda without an NVIDIA GPU (jax 0.10)
        asking = ["JAX_PLATFORM_NAME", *(["JAX_PLATFORMS"] if config.platform == "auto" else [])]
        for variable in filter(os.environ.get, asking):
            raise InputError(
                f"{variable}: found {os.environ[variable]}, but jax sees no such device; unset this variable, or use "
                "hardware=cpu"
            ) from None
        raise InputError(
            f"hardware.platform: found {config.platform}, but jax sees no such device; "
            "install requirements-gpu.txt or requirements-tpu.txt if the machine has one, or use hardware=cpu"
        ) from None
    if config.fsdp > 1 and jax.default_backend() == "cpu":
        # XLA's CPU programs that gather shards within the loop over microbatches never end if they come from the cache
        # (jaxlib 0.10): a resumed training would hang.
        jax.config.update("jax_compilation_cache_dir", None)
    if config.attention == "cudnn" and not has_cudnn():
        raise InputError(
            f"hardware.attention: found cudnn, but jax runs on {jax.devices()[0].device_kind}; allowed: auto or xla"
        )


def check_precision() -> None:
    """Raise InputError if jax computes in 64 bits by default: random numbers, and so every result, would be others."""
    if jax.dtypes.canonicalize_dtype(float) == jnp.float64:
        found = os.environ.get("JAX_ENABLE_X64", "true in jax.config")
        raise InputError(
            f"JAX_ENABLE_X64: found {found}; allowed: false, or no such variable: hardware.precision sets the precision"
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
        write_compiled_programs()
    jax.config.update("jax_compilation_cache_dir", cache_dir)


def cpu_fingerprint() -> str:
    """Name shared by CPUs with the same instruction set: a program compiled for one CPU may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = [platform.processor()]
    features = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0] if lines else "")
    return f"{platform.machine()}-{zlib.crc32(features.encode()):08x}"


def compute_dtype(config: HardwareConfig) -> DTypeLike:
    """Data type of activations; parameters stay float32."""
    return {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[config.precision]
