"""python -m data_tools.simulators: lists the simulators, the interpreter that runs each, and what is missing.

python -m data_tools.simulators play --sim metaworld --task reach-v3: plays an episode of its expert.
"""

import argparse
import sys
import time
from dataclasses import replace
from functools import partial

from instructrl.cli.args import Parser
from instructrl.config.environment import SIMULATORS, SimConfig
from instructrl.errors import InputError, RunError, SimulatorError, report_user_errors
from instructrl.sim import EpisodeStart, Outcome, check_tasks, make_checked_env, working_renderer
from instructrl.sim.vector.pool import Workers

TIMEOUT = 600.0


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(prog="python -m data_tools.simulators", description=__doc__)
    parser.add_argument("what", nargs="?", default="list", choices=["list", "play"], help="default: list")
    parser.add_argument("--sim", metavar="NAME", help=f"only this one of {', '.join(SIMULATORS)}")
    parser.add_argument("--task", metavar="TASK", help="the task to play")
    parser.add_argument("--python", metavar="PATH", help="interpreter of the simulator, as sim.python")
    options = parser.parse_args(given)
    if options.what == "play" and not (options.sim and options.task):
        parser.error("play: --sim and --task are missing")
    return options


def settings(name: str, python: str | None = None) -> SimConfig:
    """The settings of a simulator with their defaults.

    Raises:
        InputError: there is none of this name, or the package of another one cannot be imported.
    """
    return SIMULATORS[name](name=name, kind=name, workers=1, timeout=TIMEOUT, python=python)


def state(sim: SimConfig) -> tuple[bool, str]:
    """Return True and the renderer of a simulator that can be used, else False and what is missing."""
    try:
        check_tasks(sim, [])
        return True, f"renderer {working_renderer(sim, 'auto')}"
    except (InputError, SimulatorError) as error:
        return False, str(error)


def print_list(names: list[str], python: str | None) -> None:
    """Print the state of each simulator, and where it runs."""
    width = max(map(len, names))
    for name in names:
        try:
            sim = settings(name, python)
            (usable, found), place = state(sim), sim.interpreter or sys.executable
        except InputError as error:
            usable, found, place = False, str(error), ""
        print(f"{' ' if usable else '!'} {name:<{width}}  {place}", flush=True)
        print(f"  {'':<{width}}  {'' if usable else '-> '}{found}", flush=True)


def play(sim: SimConfig, task: str) -> None:
    """Play one episode of the expert and print its outcome.

    Raises:
        InputError: the installation or the task's name is wrong. RunError: the episode does not succeed.
    """
    sim = replace(sim, renderer=working_renderer(sim, "auto"))
    factory = partial(make_checked_env, sim, task)
    with Workers(factory, 1, timeout=sim.timeout, python=sim.interpreter) as workers:
        print(", ".join(f"{key} {value}" for key, value in workers.ask("provenance").items()), flush=True)
        started = time.monotonic()
        demonstration, outcome = workers.ask("demonstrate", EpisodeStart(0, 0))
    count, seconds = len(demonstration.actions), time.monotonic() - started
    text = demonstration.instructions[0]
    print(f"{task}, {text!r}: {outcome} after {count} keyframe{'s' * (count != 1)}, {seconds:.1f} s")
    if outcome is not Outcome.SUCCESS:
        raise RunError(f"{task}: the expert's episode did not succeed; try again, then try another task")


def main() -> None:
    """Run the command."""
    with report_user_errors():
        options = arguments()
        if options.what == "play":
            play(settings(options.sim, options.python), options.task)
        else:
            print_list([options.sim] if options.sim else list(SIMULATORS), options.python)


if __name__ == "__main__":
    main()
