"""The tasks of the installed RLBench, found without importing it."""

from collections.abc import Sequence
from difflib import get_close_matches

from instructrl.errors import InputError
from instructrl.sim.rlbench.check import check_installation, package_folder
from instructrl.sim.rlbench.interface import VARIANTS, recorded, task_names


def check_tasks(names: Sequence[str]) -> None:
    """Check that these tasks are installed.

    Raises:
        InputError: RLBench is not installed, or lacks one of them; the message names the variant that has it, else
            similar tasks.
    """
    check_installation()
    folder = package_folder("rlbench")
    present = task_names(folder) if folder else ()
    for name in names:
        if name in present:
            continue
        found = f"task.name: found {name}; not one of RLBench's {len(present)}"
        variant = next((variant for variant in VARIANTS if name in recorded(variant).tasks), None)
        if variant:
            install = f"RLBENCH_VARIANT={variant} make rlbench installs it"
            raise InputError(f"{found} that are installed, but a task of {VARIANTS[variant]}: {install}")
        similar = get_close_matches(name, present, n=3, cutoff=0.5) or present[:3]
        raise InputError(f"{found}; similar: {', '.join(similar)}")
