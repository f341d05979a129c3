"""python -m data_tools.rlbench check: lists RLBench's requirements, what is installed, and commands to fix the rest.

python -m data_tools.rlbench smoke: replays an expert episode as keyframes in a separate process.

python -m data_tools.rlbench interface: prints the parts of RLBench and PyRep that this suite relies on, as JSON.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from instructrl.cli.args import Parser
from instructrl.config.environment import SimConfig
from instructrl.config.simulators import RLBenchConfig
from instructrl.errors import InputError, RunError, report_user_errors
from instructrl.sim import EpisodeStart, Outcome, make_env
from instructrl.sim.rlbench.check import findings, package_folder
from instructrl.sim.rlbench.interface import read, task_names
from instructrl.sim.vector.pool import Workers

SMOKE_TASK, SMOKE_SECONDS = "reach_target", 600.0
FAILURE = "RLBench does not work: {}; python -m data_tools.rlbench check"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(prog="python -m data_tools.rlbench", description=__doc__)
    parser.add_argument("what", choices=["check", "smoke", "interface"])
    parser.add_argument("--task", default=SMOKE_TASK, help=f"task of the smoke episode (default: {SMOKE_TASK})")
    return parser.parse_args(given)


def check() -> bool:
    """Print the state of each part of the installation; returns True if all are fine."""
    rows = findings()
    width = max(len(row.part) for row in rows)
    for row in rows:
        print(f"{'!' if row.fix else ' '} {row.part:<{width}}  {row.found}")
        if row.fix:
            print(f"  {'':<{width}}  -> {row.fix}")
    missing = sum(bool(row.fix) for row in rows)
    print("RLBench is installed" if not missing else f"{missing} of {len(rows)} parts are missing or wrong")
    return not missing


def print_interface() -> None:
    """Print the interface of the packages on the path, which need not be built.

    Raises:
        InputError: one of them is not there, or cannot be read.
    """
    folders = [package_folder(name) for name in ("rlbench", "pyrep")]
    if folders[0] is None or folders[1] is None:
        raise InputError(
            "rlbench, pyrep: not found; install them (make rlbench), or set PYTHONPATH to checkouts of both"
        )
    try:
        names = read(folders[0], folders[1])
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{folders[0]}, {folders[1]}: cannot be read ({error})") from None
    print(json.dumps({"names": names, "tasks": task_names(folders[0])}, indent=1))


def smoke(task: str, make: Callable[[SimConfig, str], Any] = make_env) -> None:
    """Play one episode and print its outcome.

    Raises:
        InputError: the installation or the task's name is wrong. RunError: the episode does not succeed.
    """
    sim = RLBenchConfig(name="rlbench", kind="rlbench", workers=1)
    with Workers(partial(make, sim, task), 1, timeout=SMOKE_SECONDS) as workers:
        provenance = workers.ask("provenance", failure=FAILURE)
        print(", ".join(f"{key} {value}" for key, value in provenance.items()), flush=True)
        demonstration, outcome = workers.ask("demonstrate", EpisodeStart(0, 0), failure=FAILURE)
    keyframes = len(demonstration.actions)
    print(f"{demonstration.instructions[0]!r}: {outcome} after {keyframes} keyframe{'s' * (keyframes != 1)}")
    if outcome is not Outcome.SUCCESS:
        raise RunError(f"{task}: the expert's episode did not succeed when replayed; try again, then try another task")


def main() -> None:
    """Run the command."""
    with report_user_errors():
        options = arguments()
        if options.what == "smoke":
            smoke(options.task)
        elif options.what == "interface":
            print_interface()
        elif not check():
            sys.exit(2)


if __name__ == "__main__":
    main()
