"""Plugins of Hydra: a sweeper, which searches settings by the results of earlier jobs, and a launcher of others."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import OmegaConf

from instructrl.cli.compose import compose, hydra_compose, merge, schema_of
from instructrl.cli.overrides import check_search, expand_override, read_override
from instructrl.errors import InputError
from instructrl.package_files import IMPORT_ROOT, IS_CHECKOUT

HYDRAS_OWN = "basic"  # option of Hydra's sweeper that enumerates, and of its launcher that runs in this process


@dataclass(frozen=True)
class Plugins:
    """The sweeper and the launcher of Hydra that the words or the files of a command choose.

    Attributes:
        sweeper: option of hydra/sweeper.
        launcher: option of hydra/launcher; empty if it is left to InstructRL.
        space: words of the search space that files give, in `hydra.sweeper.params`.
    """

    sweeper: str = HYDRAS_OWN
    launcher: str = ""
    space: tuple[str, ...] = ()

    @property
    def searches(self) -> bool:
        """True if the sweeper chooses jobs, rather than enumerating them."""
        return self.sweeper != HYDRAS_OWN


def chosen_plugins(words: Sequence[str], config_name: str, schema: type) -> Plugins:
    """Return the plugins that a command with --multirun has chosen, by its words or in an option's file.

    Raises:
        InputError: a word that all jobs share is invalid.
    """
    shared = [word for word in words if not read_override(word).is_sweep_override()]
    try:
        config = hydra_compose(config_name, shared, schema, typed=False, of_hydra=True).hydra
    except Exception:  # Hydra's, which this explains
        merge(config_name, schema_of(config_name, schema, shared), shared)
        return Plugins()
    choices = config.runtime.choices
    named = any(word.startswith("hydra/launcher=") for word in words)
    launcher = choices["hydra/launcher"] if named or choices["hydra/launcher"] != HYDRAS_OWN else ""
    params: Any = OmegaConf.to_container(config.sweeper).get("params") or {}  # type: ignore[union-attr]
    return Plugins(choices["hydra/sweeper"], launcher, tuple(f"{key}={value}" for key, value in params.items()))


def example_jobs(words: Sequence[str], config_name: str, schema: type[Any]) -> list[list[str]]:
    """Jobs of a search, which show before it begins that its bounds are valid and its runs differ in their names.

    The first has the first value of each searched setting; each of the others has one other value: any other choice,
    or the end of a range. Settings that are valid but do not fit together are left to the trials, of which the sweeper
    may let some fail.

    Raises:
        InputError: an unknown setting, a value that is not allowed, or no job that is valid.
    """
    read = {override.key_or_group: (word, override) for word in words for override in [read_override(word)]}
    read = {key: pair for key, pair in read.items() if not key.startswith(("hydra.", "hydra/"))}
    shared = [word for word, override in read.values() if not override.is_sweep_override()]
    known = schema_of(config_name, schema, shared)
    for word in words:
        check_search(word, config_name, known)
    values = [example_words(word, override) for word, override in read.values()]
    first = [each[0] for each in values]
    others = [[*first[:index], other, *first[index + 1 :]] for index, each in enumerate(values) for other in each[1:]]
    valid, failure = [], None
    for job in [first, *others]:
        try:
            compose(config_name, schema, job)
            valid.append(job)
        except InputError as error:
            if error.key in read:
                raise with_advice(error, read[error.key][1]) from None
            failure = failure or error
    if not valid and failure:
        raise failure
    return valid


def example_words(word: str, override: Override) -> list[str]:
    """Words of single values for a word of a search: all choices, or the ends of a range or an interval."""
    if override.is_interval_sweep():
        value, key = override.value(), override.get_key_element()
        assert isinstance(value, IntervalSweep)
        return [f"{key}={value.start}", f"{key}={value.end}"]
    found = expand_override(word)
    return [found[0], found[-1]] if override.is_range_sweep() and len(found) > 1 else found


def with_advice(error: InputError, override: Override) -> InputError:
    """The error of a bound; that of an interval of whole numbers, which Hydra reads as real ones, with how to write it.

    Its trials would be refused for the same reason.
    """
    if not override.is_interval_sweep() or "an integer" not in str(error):
        return error
    key, _, interval = (override.input_line or "").partition("=")
    return InputError(f"{error}; for whole numbers, write {key}=int({interval})")


def add_import_path() -> None:
    """Let processes that a launcher of others starts import the checkout from any folder."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if IS_CHECKOUT and str(IMPORT_ROOT) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(IMPORT_ROOT), *paths]))
