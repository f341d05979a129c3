"""Job specs of the evaluations that follow the trainings of a sweep."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from instructrl.cli.compose import compose
from instructrl.cli.entry import SweepRequest
from instructrl.config.evaluation import EvalConfig
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError, format_value
from launchers.job import CHAINING, JobSpec

ENTRIES = {"train.py": "eval.py", "instructrl.commands.train": "instructrl.commands.evaluate"}


def evaluation_specs(request: SweepRequest, trainings: Sequence[JobSpec]) -> list[JobSpec]:
    """Return the evaluation of each training, with `launcher.then_settings`; none without `launcher.then`.

    Raises:
        InputError: they cannot follow these jobs, or a setting of theirs is invalid.
    """
    launcher = request.launcher
    if launcher.then is None:
        if launcher.then_settings:
            found = format_value(launcher.then_settings)
            raise InputError(
                f"launcher.then_settings: found {found} without launcher.then; write launcher.then=eval too"
            )
        return []
    if launcher.kind not in CHAINING:
        raise InputError(
            f"launcher.then: found {launcher.then} with launcher={launcher.name}; allowed: null, and eval.py "
            "once the trainings are done"
        )
    for config in request.configs:
        if not isinstance(config, TrainConfig) or config.objective == "masked_pretraining":
            raise InputError(
                f"launcher.then: found {launcher.then}; allowed: only with trainings of agents by train.py"
            )
    return [evaluation_spec(spec, index, launcher.then_settings) for index, spec in enumerate(trainings)]


def evaluation_spec(training: JobSpec, index: int, settings: Mapping[str, Any]) -> JobSpec:
    """Return the evaluation of one training.

    Raises:
        InputError: a setting is invalid.
    """
    run = training.run if re.fullmatch(r"[A-Za-z0-9_./:@+-]+", training.run) else json.dumps(training.run)
    given = {key: str(value).lower() if isinstance(value, bool) else value for key, value in settings.items()}
    overrides = (f"run={run}", *(f"{key}={value}" for key, value in given.items() if value is not None))
    try:
        compose("eval", EvalConfig, overrides)
    except InputError as error:
        raise InputError(f"launcher.then_settings: {error}") from None
    entry = [ENTRIES.get(word, word) for word in training.entry]
    return replace(
        training,
        command=(*entry, *overrides),
        name=f"{training.name[:60]}-eval",
        overrides=overrides,
        distributed=False,
        after=(index,),
    )
