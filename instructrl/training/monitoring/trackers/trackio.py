"""Trackio."""

import dataclasses
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from instructrl.config.training import TrainConfig
from instructrl.errors import InputError
from instructrl.training.monitoring.trackers.base import Logged, Tracker, run_identity


class TrackioTracker(Tracker):
    """A run in Trackio's local database, written anew by each training that continues it, or in a Space."""

    def __init__(self, config: TrainConfig, run: Path) -> None:
        """Start Trackio's run; one in a Space is continued.

        Raises:
            InputError: the Space cannot be reached, or the login fails.
        """
        import trackio

        options = config.trackio
        self.incomplete = options.space is None
        name = trackio_name(config, run)
        try:
            with redirect_stdout(StringIO()):  # instructions, of which our last lines give the short form
                if self.incomplete:
                    delete_local_run(options.project, name)
                trackio.init(
                    project=options.project,
                    name=name,
                    group=options.group,
                    space_id=options.space,
                    config=dataclasses.asdict(config),
                    resume="allow",
                    embed=False,
                )
        except Exception as error:  # Trackio lets through what its HTTP client and its database raise
            raise InputError(
                f"trackio.enabled: found true, but Trackio cannot start ({error}); "
                + ("run hf auth login, or use trackio.space=null" if options.space else "trackio.enabled=false goes on")
            ) from None

    def log(self, logged: Logged) -> None:
        """Log to Trackio; images are copied into its files."""
        import trackio

        images = {name: trackio.Image(path) for name, path in logged.images.items()}
        trackio.log({**logged.numbers, **images}, step=logged.step)

    def close(self, exit_code: int) -> None:
        """Finish Trackio's run."""
        import trackio

        with redirect_stdout(StringIO()):
            trackio.finish()


def trackio_name(config: TrainConfig, run: Path) -> str:
    """The name of a run in its Trackio project, which tells runs of one name in several output folders apart."""
    return f"{config.name}-{run_identity(config, run)[:6]}"


def delete_local_run(project: str, name: str) -> None:
    """Delete what Trackio's local database has of a run."""
    from trackio import Api

    try:
        runs = list(Api().runs(project))
    except ValueError:  # there is no such project yet
        return
    for one in runs:
        if one.name == name:
            one.delete()
