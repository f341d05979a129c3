"""python -m data_tools.rlbench check: what RLBench needs, what is there, and the command that mends what is not.

python -m data_tools.rlbench smoke: an episode of its expert, replayed as keyframes, in a process of its own.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from data_tools.parser import Parser
from instructrl.config import SimConfig
from instructrl.errors import RunError, one_line_errors
from instructrl.sim import Outcome, Start, make_env
from instructrl.sim.rlbench.check import findings
from instructrl.sim.workers import WorkerFailure, Workers

SMOKE_TASK, SMOKE_SECONDS = "reach_target", 600.0


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m data_tools.rlbench", description=__doc__)
    parser.add_argument("what", choices=["check", "smoke"])
    parser.add_argument("--task", default=SMOKE_TASK, help=f"task of the smoke episode (default: {SMOKE_TASK})")
    return parser.parse_args(given)


def check() -> bool:
    """Print every part of the installation as a table; whether all are well."""
    rows = findings()
    width = max(len(row.part) for row in rows)
    for row in rows:
        print(f"{'!' if row.remedy else ' '} {row.part:<{width}}  {row.found}")
        if row.remedy:
            print(f"  {'':<{width}}  -> {row.remedy}")
    missing = sum(bool(row.remedy) for row in rows)
    print("RLBench is installed" if not missing else f"{missing} of {len(rows)} parts are missing or wrong")
    return not missing


def smoke(task: str, make: Callable[[SimConfig, str], Any] = make_env) -> None:
    """Play one episode and say what came of it.

    Raises:
        InputError: the installation or the task's name is wrong. RunError: no success.
    """
    sim = SimConfig(name="rlbench", kind="rlbench", workers=1)
    with Workers(partial(make, sim, task), 1, timeout=SMOKE_SECONDS) as workers:
        provenance = answer(workers, "provenance")
        print(", ".join(f"{key} {value}" for key, value in provenance.items()), flush=True)
        demonstration, outcome = answer(workers, "demonstrate", Start(0, 0))
    keyframes = len(demonstration.actions)
    print(f"{demonstration.instructions[0]!r}: {outcome} after {keyframes} keyframe{'s' * (keyframes != 1)}")
    if outcome is not Outcome.SUCCESS:
        raise RunError(
            f"{task}: the expert's episode did not succeed when replayed; start again, then try another task"
        )


def answer(workers: Workers, method: str, *given: Any) -> Any:
    """What the one process answers."""
    result = workers.call({0: (method, given)})[0]
    if isinstance(result, WorkerFailure):
        raise RunError(f"RLBench does not work: {result.reason}; python -m data_tools.rlbench check")
    return result


def main() -> None:
    """Run the command."""
    with one_line_errors():
        asked = arguments()
        if asked.what == "smoke":
            smoke(asked.task)
        elif not check():
            sys.exit(2)


if __name__ == "__main__":
    main()
