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
from omegaconf import DictConfig, read_write


class SweepLauncher(Launcher):
    """Hydra launcher that runs jobs where the `launcher` settings say, and exits with the sweep's exit code."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._record = Path(config.hydra.sweep.dir) / "multirun.yaml"
        self._request: Any = getattr(task_function, "sweep_request", None)  # a SweepRequest
        if self._request is not None and self._request.search:
            from launchers.sweep.trials import search_folder

            with read_write(config.hydra):  # where the sweeper, which asks afterwards, writes the best values
                config.hydra.sweep.dir = str(search_folder(self._request))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs of the request, already composed and validated by the entry point, or those of a sweeper.

        Raises:
            SystemExit: a job failed, or those of a sweeper were interrupted.
            InputError: there is no request.
        """
        from instructrl.errors import InputError, RunError
        from instructrl.preemption import handle_signals
        from launchers.sweep.plan import job_specs
        from launchers.sweep.runner import run_sweep
        from launchers.sweep.trials import run_trials

        # Hydra's record is shared by all sweeps; each of ours has its own jobs.json.
        self._record.unlink(missing_ok=True)
        with suppress(OSError):
            self._record.parent.rmdir()
        if self._request is None:
            raise InputError("hydra/launcher: found instructrl; leave it out, as --multirun uses it")
        if self._request.search:
            with handle_signals():
                trials = run_trials(self._request, job_overrides)
            return [
                JobReturn(words, status=JobStatus.FAILED, _return_value=RunError(f"{' '.join(words)}: {trial.error}"))
                if trial.error
                else JobReturn(words, status=JobStatus.COMPLETED, _return_value=trial.value)
                for words, trial in zip(job_overrides, trials, strict=True)
            ]
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
