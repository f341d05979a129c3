"""python -m data_tools.reproduce: runs the comparisons of the method's paper and writes a page with their results.

Trains the experiments in conf/experiment/paper with several seeds by the sweep launcher, evaluates the runs in equal
scenes, and writes the page with its figure. The same command resumes what is missing. Further words are settings
of all trainings, and of the launcher:

python -m data_tools.reproduce
python -m data_tools.reproduce --experiments scratch,regression --seeds 0 launcher.jobs=2
python -m data_tools.reproduce --experiments m3ae,m3ae_random --out gpu.md hardware=gpu encoder=m3ae_b16
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from data_tools.reproduce.comparisons import FOLDER, experiments, missing_weights
from data_tools.reproduce.page import HINT, write_page
from data_tools.reproduce.results import load_results
from instructrl.cli.args import Parser
from instructrl.config.fields import format_value
from instructrl.errors import InputError, report_user_errors
from instructrl.storage.writable import check_writable_file

PROG = "python -m data_tools.reproduce"
SWEEPS = Path("multirun")  # where the launchers keep the job tables of sweeps


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line.

    Raises:
        InputError: an experiment does not exist, or a value is not allowed.
    """
    parser = Parser(prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", help="names in conf/experiment/paper; default: all whose weights are present")
    parser.add_argument("--seeds", default="0,1,2", help="training seeds; default: 0,1,2")
    parser.add_argument("--episodes", type=int, default=200, help="episodes of each evaluation; default: 200")
    parser.add_argument("--sweep", default="paper", help="name of the sweeps of trainings and, with -eval, evaluations")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/method.md"), help="the page")
    parser.add_argument("overrides", nargs="*", help="settings of all trainings and of the launcher, like hardware=gpu")
    found = parser.parse_args(words)
    if not all(seed.isdecimal() for seed in found.seeds.split(",")):
        raise InputError(f"--seeds: found {format_value(found.seeds)}; allowed: integers, like 0,1,2")
    if found.episodes < 1:
        raise InputError(f"--episodes: found {found.episodes}; allowed: an integer >= 1")
    for override in found.overrides:
        if override.startswith(("seed=", "experiment=", "name=", "launcher.sweep=")) or "=" not in override:
            raise InputError(f"{format_value(override)}: not allowed here; see {PROG} --help")
    found.experiments = chosen_experiments(found.experiments)
    return found


def chosen_experiments(names: str | None) -> list[str]:
    """The experiments to run.

    Raises:
        InputError: one does not exist.
    """
    present = experiments()
    if names is None:
        missing = missing_weights()
        for name, path in missing.items():
            print(f"left out: {FOLDER}{name}, for which there is no {path}", flush=True)
        return [name for name in present if name not in missing]
    unknown = [name for name in names.split(",") if name not in present]
    if unknown:
        raise InputError(f"--experiments: found {format_value(unknown[0])}; allowed: {', '.join(present)}")
    return names.split(",")


def run_sweep(module: str, *words: str) -> None:
    """Run the sweep of a command; where it fails it says why, and its exit code is this command's."""
    code = subprocess.run([sys.executable, "-m", module, "--multirun", *words]).returncode
    if code:
        raise SystemExit(code)


def main(words: Sequence[str]) -> None:
    """Run the command."""
    chosen = arguments(words)
    check_writable_file(chosen.out, hint=HINT)
    launcher = [word for word in chosen.overrides if word.partition("=")[0].partition(".")[0] == "launcher"]
    launcher = launcher if any(word.startswith("launcher=") for word in launcher) else ["launcher=local", *launcher]
    settings = [word for word in chosen.overrides if word not in launcher]
    names = ",".join(FOLDER + name for name in chosen.experiments)
    sweep = [*launcher, f"launcher.sweep={chosen.sweep}"]
    run_sweep("instructrl.commands.train", f"experiment={names}", f"seed={chosen.seeds}", *settings, *sweep)
    runs = ",".join(run.location for run in load_results(SWEEPS / chosen.sweep).runs)
    sweep = [*launcher, f"launcher.sweep={chosen.sweep}-eval"]
    run_sweep("instructrl.commands.evaluate", f"run={runs}", f"episodes={chosen.episodes}", *sweep)
    results = load_results(SWEEPS / chosen.sweep)
    print(f"page: {write_page(results, chosen.out, command=shlex.join([*PROG.split(), *words]))}")


if __name__ == "__main__":
    with report_user_errors():
        main(sys.argv[1:])
