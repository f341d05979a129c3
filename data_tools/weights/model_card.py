"""Reader of the licence in a model card: README.md beside the weights, whose head is YAML between lines of dashes."""

import re
from pathlib import Path

MODEL_CARD = "README.md"
MAX_BYTES = 100_000  # of the head
LICENCE = re.compile(r"^license:[ \t]*[\"']?([\w.+-]{1,80})[\"']?[ \t]*$", re.MULTILINE | re.ASCII)


def read_licence(folder: Path) -> str:
    """The licence that a folder's model card states, such as apache-2.0; empty if it states none."""
    try:
        with (folder / MODEL_CARD).open("rb") as file:
            text = file.read(MAX_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return ""
    head = text.partition("---\n")[2].partition("\n---")[0] if text.startswith("---\n") else ""
    found = LICENCE.search(head)
    return found[1] if found else ""
