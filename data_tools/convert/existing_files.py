"""Files that are there before a conversion: made by the same one, or in its way."""

from instructrl.data.demonstrations.reader import read
from instructrl.data.demonstrations.schema import Header
from instructrl.errors import InputError, format_value
from instructrl.storage.paths import StoragePath
from instructrl.workspace import Workspace


def already_converted(files: dict[str, StoragePath], headers: dict[str, Header]) -> bool:
    """Return True if the same conversion was done before.

    Raises:
        InputError: another file is in the way.
    """
    present = {split: read(path) for split, path in files.items() if path.exists()}
    for split, (found, _) in present.items():
        if found != headers[split]:
            raise InputError(
                f"{files[split]}: found another file: {differences(found, headers[split])}; choose another out=, or "
                "add overwrite=true"
            )
    if len(present) < len(files):
        return False
    for split, (_, contents) in present.items():
        print(f"{files[split]}: exists already, {len(contents.seed)} episodes; overwrite=true converts it again")
    return True


def differences(found: Header, wanted: Header) -> str:
    """The fields in which the header of a file differs from that of a conversion, each with both values."""
    before, now = ({**one.__dict__, **one.provenance} for one in (found, wanted))
    keys = [key for key in {**before, **now} if key != "provenance" and before.get(key) != now.get(key)]
    return ", ".join(f"{key} {shown(before.get(key))} (asked for {shown(now.get(key))})" for key in keys)


def shown(value: object) -> str:
    """A value of a header for an error."""
    if isinstance(value, Workspace):
        return str(value)
    return format_value(list(value) if isinstance(value, tuple) else value)
