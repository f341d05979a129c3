"""The words of a command line that are the launcher's, and its settings."""

import re
from collections.abc import Sequence
from dataclasses import replace

from instructrl.cli.compose import compose
from instructrl.config.launcher import LaunchConfig, LauncherConfig, user_config_file, user_overrides
from instructrl.errors import InputError


def compose_launcher(words: Sequence[str], *, dry_run: bool = False) -> tuple[list[str], LauncherConfig]:
    """The words that are not the launcher's, and the launcher's settings: profile, the user's file, words.

    Raises:
        InputError: one of them, or a setting of that file, is invalid.
    """
    rest, launcher_words = split_launcher(words)
    config = compose("launch", LaunchConfig, launcher_words)
    return rest, replace(config.launcher, dry_run=config.launcher.dry_run or dry_run)


def split_launcher(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words that are not the launcher's, and the launcher's with those of the user's file, the last one winning.

    Raises:
        InputError: a setting of that file is invalid.
    """
    own = [word for word in words if re.match(r"\+*~?launcher[=.@]", word)]
    from_file = user_overrides()
    profile = [word for word in own if word.startswith("launcher=")]
    try:
        if from_file:
            compose("launch", LaunchConfig, from_file)
    except InputError as error:
        raise InputError(f"{user_config_file()}: {error}") from None
    others = [word for word in own if word not in profile]
    return [word for word in words if word not in own], [*profile, *from_file, *others]


def is_launched(launcher: LauncherConfig) -> bool:
    """Return True if the settings of the launcher ask for one, even for a single job."""
    return launcher.kind != "local" or launcher.dry_run or bool(launcher.then)
