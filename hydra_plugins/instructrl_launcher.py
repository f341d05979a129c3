"""Hydra launcher plugin: in this namespace package Hydra finds it without an installation."""

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


class SweepLauncher(Launcher):
    """Hydra launcher that runs jobs where the `launcher` settings say, and exits with the sweep's exit code."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._record = Path(config.hydra.sweep.dir) / "multirun.yaml"
        self._request: Any = task_function.sweep_request  # type: ignore[attr-defined]  # a SweepRequest

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, already composed and validated by the entry point.

        Raises:
            SystemExit: a job failed.
            InputError: another sweeper generated other jobs.
        """
        from instructrl.errors import InputError
        from instructrl.preemption import handle_signals
        from launchers.sweep.plan import job_specs
        from launchers.sweep.runner import run_sweep

        # Hydra's record is shared by all sweeps; each of ours has its own jobs.json.
        self._record.unlink(missing_ok=True)
        with suppress(OSError):
            self._record.parent.rmdir()
        if len(job_overrides) != len(self._request.jobs):  # compared by number: Hydra changes the quoting of some words
            raise InputError("hydra/sweeper: another sweeper needs its own launcher; add hydra/launcher=...")
        with handle_signals():
            code = run_sweep(*job_specs(self._request), command=self._request.command)
        if code:
            raise SystemExit(code)
        return [JobReturn(overrides=words, status=JobStatus.COMPLETED, _return_value=0) for words in job_overrides]


@dataclass
class SweepLauncherConf:
    """Config of hydra/launcher=instructrl."""

    _target_: str = f"{__name__}.SweepLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="instructrl", node=SweepLauncherConf, provider="instructrl")
