"""Write the exact versions of requirements*.txt: the newest that the ranges in pyproject.toml allow, by pip.

python .ci/lock.py            everything anew
python .ci/lock.py --keep     versions that are there stay: only what pyproject.toml newly asks for is added
python .ci/lock.py --check    write nothing; fail if a range is not met by its pin, or has none

pip resolves as for a fresh environment, and installs nothing: packages for GPUs and TPUs need neither here. Each file
keeps its first comment; direct requirements come first, and then what these need in turn.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [Requirement(text) for text in PROJECT["dependencies"]]
CPU, IN_TURN = "requirements.txt", "# What these need in turn"
COMMENT = f"{IN_TURN}, so that every machine gets the same (pip's choice for a fresh environment: make lock)."


def resolve(words: list[str], constraints: list[str]) -> dict[str, str]:
    """The version of each package, by its canonical name, that pip would install for these words."""
    with tempfile.TemporaryDirectory() as folder:
        limits, report = Path(folder) / "constraints.txt", Path(folder) / "report.json"
        limits.write_text("\n".join(constraints))
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        dry = ["install", "--dry-run", "--ignore-installed", "--report", str(report), "--constraint", str(limits)]
        if subprocess.run([*pip, *dry, *words], cwd=ROOT).returncode:
            sys.exit(f"error: {' '.join(words)}: pip finds no versions that go together, see above")
        found = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    return {canonicalize_name(one["name"]): one["version"] for one in found}


def pins(name: str) -> list[str]:
    """The lines of a file that name a version."""
    return [line for line in (ROOT / name).read_text().splitlines() if "==" in line and not line.startswith("#")]


def without_extras(lines: list[str]) -> list[str]:
    """Pins as constraints, which may name no extras."""
    return [f"{Requirement(line).name}{Requirement(line).specifier}" for line in lines]


def write(name: str, direct: list[str], in_turn: dict[str, str], comment: str) -> None:
    """Write a file below the comment that it begins with."""
    path = ROOT / name
    first = path.read_text().splitlines()[0]
    lines = [first, *direct, "", comment, *(f"{package}=={version}" for package, version in sorted(in_turn.items()))]
    path.write_text("\n".join(lines) + "\n")


def lock(*, keep: bool) -> None:
    """Write all three files."""
    found = resolve(["."], without_extras(pins(CPU)) if keep else [])
    del found[canonicalize_name(PROJECT["name"])]
    direct = {canonicalize_name(one.name): one.name for one in DIRECT}
    lines = [f"{name}=={found[key]}" for key, name in direct.items()]
    write(CPU, lines, {key: version for key, version in found.items() if key not in direct}, COMMENT)
    cpu = [f"{name}=={version}" for name, version in found.items()]
    for kind, extra in PROJECT["optional-dependencies"].items():
        name = f"requirements-{kind}.txt"
        more = resolve(extra, [*cpu, *(without_extras(pins(name)) if keep else [])])
        lines = [f"{text}=={more[canonicalize_name(Requirement(text).name)]}" for text in extra]
        in_turn = {key: version for key, version in more.items() if key not in found}
        write(name, ["-r requirements.txt", *lines], in_turn, f"{IN_TURN}.")


def misfits() -> list[str]:
    """Direct requirements that are not pinned, or not within their range; and packages that are pinned twice."""
    pinned = [Requirement(line) for line in pins(CPU)]
    versions = {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in pinned}
    wrong = [
        f"{one}: {versions.get(canonicalize_name(one.name), 'no version')} in {CPU}"
        for one in DIRECT
        if not one.specifier.contains(versions.get(canonicalize_name(one.name), "0"), prereleases=True)
    ]
    names = [canonicalize_name(one.name) for one in pinned]
    return wrong + sorted({f"{name}: twice in {CPU}" for name in names if names.count(name) > 1})


def main() -> None:
    """Lock, or check."""
    words = sys.argv[1:]
    if not set(words) <= {"--keep", "--check"} or len(words) > 1:
        sys.exit(f"error: {' '.join(words)}: allowed: --keep or --check")
    if words != ["--check"]:
        lock(keep=words == ["--keep"])
    if found := misfits():
        sys.exit("error: " + "; ".join(found) + "; run make lock")


if __name__ == "__main__":
    main()
