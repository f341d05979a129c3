"""Folders of settings (--config-dir) of jobs on machines that have a copy of the checkout, and nothing else of here."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from instructrl.errors import InputError
from launchers.job import JobSpec
from launchers.ssh.sync_code import checkout_files


def with_copied_folders(spec: JobSpec, code: Path, *, mounted: Sequence[str] = ()) -> JobSpec:
    """Return a job that names its folders of settings as the copy of the checkout has them, from which it starts.

    Args:
        spec: the job.
        code: the checkout that is copied.
        mounted: folders that these machines have with the same path.

    Raises:
        InputError: a folder is neither copied nor mounted.
    """
    if not spec.config_folders:
        return spec
    names = {}
    for folder in map(Path, spec.config_folders):
        if any(folder.is_relative_to(path) for path in mounted):
            names[str(folder)] = str(folder)
        elif folder in copied_folders(code):
            names[str(folder)] = str(folder.relative_to(code))
        else:
            other = f", or one in the mounts {', '.join(mounted)}" if mounted else ""
            raise InputError(
                f"--config-dir: found {folder}, which the machines of launcher={spec.resources.name} do not have; "
                f"allowed: a folder in the checkout {code}, of files that git does not ignore{other}; copy it there"
            )
    entry = [names.get(word, word) for word in spec.entry]
    return replace(spec, command=(*entry, *spec.command[len(entry) :]))


@cache  # all jobs of a sweep ask for the same, and git lists every file
def copied_folders(code: Path) -> set[Path]:
    """The folders of a checkout with a file that its copies have, and the checkout itself."""
    return {folder for name in checkout_files(code) for folder in (code / name).parents if folder.is_relative_to(code)}
