"""The only access to jax's private modules, with fallbacks; no other file may import `jax._src`.

Two features have no public API in jax 0.10: the key-value store of the coordination service (public functions exchange
arrays only, through devices that are not selected yet), and the choice of processes that write compiled programs to
the cache. If a later jax moves them, multi-process training is refused with one line, and processes other than the
first recompile at every start; a single process needs neither.
"""

import warnings
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, NamedTuple

import jax

from instructrl.errors import RunError


class Coordination(NamedTuple):
    """This process within the group that `jax.distributed.initialize` connected."""

    client: Any  # a jaxlib DistributedRuntimeClient, which has no public type
    process: int
    processes: int


def coordination() -> Coordination:
    """Return the client of the coordination service, this process' index and the number of processes.

    Raises:
        RunError: the service cannot be found in this version of jax.
    """
    try:
        from jax._src.distributed import global_state

        client, process, processes = global_state.client, global_state.process_id, global_state.num_processes or 1
        if client is not None or processes == 1:
            return Coordination(client, process, processes)
    except (ImportError, AttributeError):
        pass
    raise RunError(
        f"hardware.coordinator: jax {jax.__version__} does not expose its coordination service; install the version in "
        "requirements.txt, or train in one process with hardware.coordinator=null"
    )


def write_compiled_programs() -> bool:
    """Make this process write compiled programs to the cache, although it is not process 0; returns True on success.

    In jax only process 0 writes. Others cannot read its entries if keys differ by process (CPUs) or folders by host;
    they would compile at every start while process 0 waits in its first step, possibly until it times out.
    """
    try:
        from jax._src import compilation_cache, compiler, config

        writer = _writer(compilation_cache.put_executable_and_time, config.persistent_cache_min_compile_time_secs)
        if [*signature(compiler._cache_write).parameters] != [*signature(writer).parameters]:
            raise TypeError
        compiler._cache_write = writer
    except (ImportError, AttributeError, TypeError):
        warnings.warn(
            f"jax {jax.__version__} does not let this process cache its programs; it recompiles at every start",
            stacklevel=2,
        )
        return False
    return True


def _writer(put: Callable[..., None], min_compile_time: Any) -> Callable[..., None]:
    """Return a replacement of jax's `_cache_write`; `put` and the option of the minimum compile time are jax's."""

    def cache_program(
        cache_key: str,
        compile_time_secs: float,
        module_name: str,
        backend: Any,
        executable: Any,
        host_callbacks: Sequence[Any],
    ) -> None:
        if host_callbacks or compile_time_secs < min_compile_time.value:
            return
        try:
            put(cache_key, module_name, executable, backend, int(compile_time_secs))
        except Exception as error:  # as in jax: a failed cache write must not end a training
            warnings.warn(f"compiled programs cannot be cached: {error}", stacklevel=2)

    return cache_program
