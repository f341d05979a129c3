"""InstructRL: train and evaluate robot agents that follow written instructions.

    from instructrl import Agent

    action = Agent.load("outputs/NAME").act(observation, "reach the red ball")

Exported classes are imported at first use, so that `import instructrl` needs neither jax nor flax.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from instructrl.inference.agent import Agent
    from instructrl.inference.batched_agent import BatchedAgent
    from instructrl.types import Observation

__version__ = "0.1.0"
__all__ = ["Agent", "BatchedAgent", "Observation", "__version__"]
_EXPORTS = {
    "Agent": "instructrl.inference.agent",
    "BatchedAgent": "instructrl.inference.batched_agent",
    "Observation": "instructrl.types",
}

if not TYPE_CHECKING:  # a checker shall know these classes, and refuse other names

    def __getattr__(name: str) -> type:
        if name not in _EXPORTS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_EXPORTS[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
