"""Settings of eval.py: evaluation conditions and protocols. No jax here."""

from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

from instructrl.config.fields import (
    MAX_EPISODES,
    MAX_VARIATION,
    MISSING,
    choice_or_integers,
    flatten,
    leaves,
    number,
    one_of,
    setting,
)
from instructrl.config.share import MAX_JOBS
from instructrl.config.simulators import RLBENCH_RENDERERS
from instructrl.config.training import HardwareConfig
from instructrl.errors import InputError, format_value

EVALUATION_CONDITIONS = (
    "trained",
    "held_out_instructions",
    "no_instruction",
    "swapped_instruction",
    "dropped_word",
    "oracle",
)

DEFAULT_PROTOCOL = "default"  # its evaluations are written to eval/ in the run directory, those of others to eval-NAME/

# What a protocol of a preset's name may have in another way: it is part of every result, and comparisons tell it.
_FREE = ("episodes", "seed", "conditions", "scenes")


@dataclass
class RLBenchProtocol:
    """Choices of a protocol that only RLBench has: how it draws and how it executes an action; elsewhere unused."""

    renderer: str | None = one_of(
        *RLBENCH_RENDERERS, default=None, help="renderer on RLBench; null: the one of the training data"
    )
    planner_attempts: int | None = number(
        None, low=1, high=1000, help="path planning attempts for each motion; null: sim.planner_attempts"
    )
    motion_attempts: int = number(
        1, low=1, high=100, help="executions of a motion that ends over 5 cm from its target, the first one included"
    )
    separate_gripper: bool = setting(
        False, help="open or close the gripper in a second motion, after the arm has arrived with it as it was"
    )
    failure_ends: bool = setting(True, help="end an episode when RLBench says that the task can no longer succeed")
    clip_to_workspace: bool = setting(False, help="move targets outside of RLBench's workspace onto its boundary")
    ignore_collisions: bool = setting(
        True, help="plan without collision checks, the ninth number of actions; false: only with PerAct's fork"
    )


@dataclass
class ProtocolConfig:
    """Evaluation protocol; success rates are comparable only within one protocol."""

    name: str = setting(help="name of the protocol and of its folder: eval for the default one, else eval-NAME")
    episodes: int = number(low=1, high=MAX_EPISODES, help="episodes of each task in each condition")
    seed: int = number(low=0, high=2**31 - 1, help="random seed of the scenes")
    conditions: list[str] = one_of(*EVALUATION_CONDITIONS, help="evaluation conditions, trained among them")
    variations: Any = choice_or_integers(
        "all",
        "trained",
        "held_out",
        default=MISSING,
        low=0,
        high=MAX_VARIATION,
        help="task variations to evaluate; trained: those of the run, held_out: all others",
    )
    order: str = one_of("in_turn", "shuffled", help="order of the variations; each comes once before any comes twice")
    sentence: str = one_of(
        "seed", "first", help="instruction of each episode: chosen by its seed, or the variation's first one"
    )
    max_keyframes: int | None = number(
        low=1, high=1000, help="maximum keyframes of an episode; null: the task's own limit"
    )
    max_unreachable: int = number(low=1, high=1000, help="number of unreachable actions after which the episode ends")
    scenes: str | None = setting(
        None, help="folder of demonstrations stored by RLBench, whose scenes are played; null: scenes of the seed"
    )
    rlbench: RLBenchProtocol = field(default_factory=RLBenchProtocol)


# What results answer, by the names of the settings, with the names that results.json records them under
RECORDED = MappingProxyType(
    {
        "episodes": "episodes",
        "seed": "seed",
        "conditions": "conditions",
        "protocol.variations": "variations",
        "protocol.order": "order",
        "protocol.sentence": "sentence",
        "protocol.max_keyframes": "keyframes",
        "protocol.max_unreachable": "tries",
        "protocol.scenes": "scenes",
        **{f"protocol.rlbench.{key}": f"rlbench.{key}" for key in leaves(RLBenchProtocol)},
    }
)


@dataclass
class EvalConfig:
    """Settings of `python eval.py`; those of model, task and simulator come from the run."""

    run: str = setting(help="run directory to evaluate, local or gs://... or s3://...")
    tasks: list[str] | None = setting(None, help="tasks of the run to evaluate; null: all")
    episodes: int | None = number(
        None, low=1, high=MAX_EPISODES, help="episodes of each task in each condition; null: protocol.episodes"
    )
    seed: int | None = number(None, low=0, high=2**31 - 1, help="random seed of the scenes; null: protocol.seed")
    conditions: list[str] | None = one_of(
        *EVALUATION_CONDITIONS, default=None, help="evaluation conditions; null: protocol.conditions"
    )
    checkpoint: str = one_of("best", "last", default="best", help="checkpoint of the run")
    strict: bool = setting(False, help="refuse instructions with words that no instruction of the training had")
    videos: int | None = number(
        None,
        low=0,
        high=100,
        help="videos of each task's successes, and of its failures; null: 3, or 1 for a set of tasks",
    )
    renderer: str | None = setting(None, help="renderer of the run's simulator; null: the one of the training data")
    workers: int | None = number(None, low=1, high=1024, help="simulator processes; null: one per CPU core")
    jobs: int = number(1, low=1, high=MAX_JOBS, help="jobs of the launcher among which the episodes are divided")
    job: int | None = number(
        None, low=1, high=MAX_JOBS, help="run the episodes of this one of jobs only, without results; null: all"
    )
    python: str | None = setting(None, help="Python interpreter of the run's simulator; null: as in the training")
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)


def effective_protocol(config: EvalConfig) -> ProtocolConfig:
    """The protocol with the overrides beside it: `episodes`, `seed` and `conditions` take precedence."""
    overrides: dict[str, Any] = {"episodes": config.episodes, "seed": config.seed, "conditions": config.conditions}
    return replace(config.protocol, **{key: value for key, value in overrides.items() if value is not None})


def check_protocol_name(protocol: ProtocolConfig, preset: ProtocolConfig) -> None:
    """Raise InputError for a protocol with the name of a preset, but not with all that the preset fixes.

    Episodes, seed, conditions and stored scenes may differ: they are part of every result.
    """
    if protocol.name != preset.name:
        return
    found, fixed = (dict(flatten(asdict(one))) for one in (protocol, preset))
    for key in leaves(ProtocolConfig):
        if found[key] != fixed[key] and key not in _FREE:
            raise InputError(
                f"protocol.{key}: found {format_value(found[key])}; allowed with protocol.name={preset.name}: "
                f"{format_value(fixed[key])}; add protocol.name=NAME for a protocol of your own"
            )


def protocol_record(protocol: ProtocolConfig) -> dict[str, Any]:
    """A protocol as results.json and episodes.jsonl record it: two settings under the names that they had first."""
    names = {"max_keyframes": "keyframes", "max_unreachable": "tries"}
    return {names.get(key, key): value for key, value in asdict(protocol).items()}
