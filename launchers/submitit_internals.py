"""The only access to submitit's private functions, with a fallback.

submitit writes a batch script only when it submits it. The function that formats the script has no public name; a dry
run calls it here. If a later submitit lacks it, a dry run prints the parameters instead of the script. Submitting
needs public names only.
"""

import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any


def batch_script(folder: Path, count: int, parameters: Mapping[str, Any]) -> str:
    """Return the script that submitit would pass to sbatch for `count` jobs, or else its parameters."""
    from submitit.core.utils import JobPaths

    try:
        from submitit.slurm.slurm import _make_sbatch_string

        folder = JobPaths.get_first_id_independent_folder(folder)
        command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
        return _make_sbatch_string(command, folder, map_count=count if count > 1 else None, **parameters)
    except (ImportError, AttributeError, TypeError):  # removed, or with other arguments
        lines = [f"# {name}: {value}" for name, value in sorted(parameters.items())]
        return "\n".join([f"# submitit {version('submitit')} does not expose its script; its parameters are:", *lines])
