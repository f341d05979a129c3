"""The stand-in for RLBench."""

import os

from gymnasium import register  # noqa: F401

__version__ = "1.2.0"
if os.environ.get("FAKE_RLBENCH_IMPORT"):
    raise ImportError(os.environ["FAKE_RLBENCH_IMPORT"])
