"""Strict settings for every test, as environment variables: tests without jax pay nothing, child processes agree."""

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from jaxtyping import install_import_hook

from tests import typecheck
from tests.fixtures.scheduler import pytest_xdist_make_scheduler  # noqa: F401 (a hook)
from tests.fixtures.xla_flags import xla_flags

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags(devices=8)}".strip()

# The same small agents are compiled, and demonstrated to, in many tests: once a session is enough, for all processes.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _SESSION = tempfile.TemporaryDirectory(prefix="instructrl-tests-")
    os.environ["INSTRUCTRL_TEST_SESSION"] = _SESSION.name
    os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{_SESSION.name}/compiled"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# A test computes little and compiles much; what users' programs compute is compared in files that ask for `optimized`.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"

# Tracing makes many small objects of which few are ever garbage: looking for it took a tenth of the time.
gc.set_threshold(100_000, 50, 100)

# Where batches, features and states pass, arrays have the dtypes and shapes that the annotations name. Other modules
# are called by some tests with stand-ins, or with numpy arrays for jax's.
CHECKED = (
    "instructrl.data.loading.loader",
    "instructrl.models.agent",
    "instructrl.training.distributed.mesh",
    "instructrl.training.feature_extraction",
    "instructrl.training.gradient_accumulation",
    "instructrl.training.objectives.augmentation",
    "instructrl.training.objectives.bc_step",
    "instructrl.training.objectives.mae_step",
    "instructrl.training.optimizer",
    "instructrl.training.state",
)
install_import_hook(CHECKED, f"sys.modules['{typecheck.__name__}'].check")

# Machines are shared: a case that waited half a second for a processor is no failure.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")

# A shell that starts the tests in the background has them ignore ctrl-C, and all that they start would inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TIERS = ("cluster", "integration", "unit")  # folders of tests, in the order in which they run


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
    """Tiers of long files come first: a file that begins last would keep all processes but its own waiting."""
    tests = Path(__file__).parent

    def tier(item: pytest.Item) -> int:
        folder = item.path.relative_to(tests).parts[0]
        return TIERS.index(folder) if folder in TIERS else 0

    items.sort(key=tier)
