"""Strict settings for every test, as environment variables: tests without jax pay nothing, child processes agree."""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()

# The same small agents are compiled in many tests: once a session is enough, for all of its processes.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="instructrl-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# A test computes little and compiles much; what users' programs compute is compared in files that ask for `optimized`.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"

# A shell that starts the tests in the background has them ignore ctrl-C, and all that they start would inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def optimized() -> Iterator[None]:
    """Programs are compiled as users compile them."""
    import jax

    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True, scope="module")
def no_programs_of_other_files() -> Iterator[None]:
    """Let go of what a file compiled: the programs of all would fill gigabytes."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of slow tests come first: one that begins last would keep all processes but its own waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
