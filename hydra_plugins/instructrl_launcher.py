"""Hydra finds its plugins in this namespace, beside those that are installed: our launcher, in a fresh clone too."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class StudyLauncher(Launcher):
    """Hands Hydra's jobs to the place that the `launcher` words name, and ends with the sweep's exit code."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._record = Path(config.hydra.sweep.dir) / "multirun.yaml"
        self._study: Any = task_function.study  # type: ignore[attr-defined]  # command.py's

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, which command.py has composed and checked.

        Raises:
            SystemExit: one of them failed.
            InputError: another sweeper chose other jobs.
        """
        from instructrl.errors import InputError
        from launchers.study import launches
        from launchers.sweep import run_sweep

        self._record.unlink(missing_ok=True)  # Hydra's, one for all sweeps; each of ours has its jobs.json
        with suppress(OSError):
            self._record.parent.rmdir()
        if len(job_overrides) != len(self._study.jobs):  # the words as the user wrote them: Hydra quotes some anew
            raise InputError("hydra/sweeper: another sweeper needs a launcher of its own; add hydra/launcher=...")
        code = run_sweep(*launches(self._study), command=self._study.command)
        if code:
            raise SystemExit(code)
        return [JobReturn(overrides=words, status=JobStatus.COMPLETED, _return_value=0) for words in job_overrides]


@dataclass
class StudyLauncherConf:
    """Chosen by hydra/launcher=study."""

    _target_: str = f"{__name__}.StudyLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="study", node=StudyLauncherConf, provider="instructrl")
