"""YAML of documents for other programs, which read every text in it as it was given."""

import re
from typing import Any

import yaml

NOT_PLAIN = re.compile(r"[yYnN]|[-+.\d].*")  # kubectl's YAML takes y and 1e3 for a flag and a number, PyYAML for texts


class Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such, and quotes those that other readers take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else "'" if NOT_PLAIN.fullmatch(text) else None
    if not text.replace("\n", "").isprintable():
        style = '"'  # which has escapes; otherwise U+0085 would be read as a line break
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Dumper.add_representer(str, _represent_text)


def dump_yaml(document: Any) -> str:
    """Return a document as YAML, with keys in their order and long lines whole."""
    return yaml.dump(document, Dumper=Dumper, sort_keys=False, width=10_000, allow_unicode=True)
