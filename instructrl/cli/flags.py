"""The flags of the commands that are composed with Hydra."""

from collections.abc import Sequence

from instructrl.config.fields import format_value
from instructrl.errors import InputError

FLAGS = {
    "--help": "print this help, with the values that the other arguments choose",
    "--cfg": "with `job`: print the composed settings and exit",
    "--multirun": "one run per combination of several values, like seed=0,1,2 or seed=range(0,4)",
    "--dry-run": "print the commands and the scripts for a cluster, and exit",
    "--config-dir": "with a folder: its YAML files, such as encoder/NAME.yaml, are options of the groups too",
}
SHORT_FLAGS = {"-h": "--help", "-c": "--cfg", "-m": "--multirun", "-cd": "--config-dir"}


def split_flags(words: Sequence[str]) -> tuple[set[str], list[str]]:
    """The flags, by their long names, and the other words.

    Raises:
        InputError: an unknown flag.
    """
    flags = {SHORT_FLAGS.get(word, word) for word in words if word.startswith("-")}
    for flag in sorted(flags - set(FLAGS)):
        allowed = f"{', '.join([*FLAGS, *SHORT_FLAGS])} and key=value"
        raise InputError(f"{format_value(flag)}: no such flag; allowed: {allowed}")
    others = [word for word in words if not word.startswith("-")]
    if "--cfg" in flags:
        if "job" not in others:
            raise InputError("--cfg: found nothing to print; write --cfg job")
        others.remove("job")
    return flags, others
