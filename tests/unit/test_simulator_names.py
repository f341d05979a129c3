"""No code but a simulator's own asks for its name: what differs between worlds is declared, and recorded with data."""

import ast
from pathlib import Path

import pytest

from instructrl.config.environment import SIMULATORS
from tests.paths import ROOT

OWN = [ROOT / "instructrl" / "sim" / name for name in SIMULATORS.own]
FILES = [path for folder in ("instructrl", "data_tools") for path in sorted((ROOT / folder).rglob("*.py"))]
OTHERS = [path for path in FILES if not any(folder in path.parents for folder in OWN)]


def compared_names(path: Path) -> list[int]:
    """Lines of a file in which a simulator's name is compared or matched."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare | ast.MatchValue):
            values = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            found += [node.lineno] * bool({*SIMULATORS.own} & {value for value in values if isinstance(value, str)})
    return found


@pytest.mark.parametrize("folder", ["instructrl", "data_tools"])
def test_no_simulators_name_is_compared(folder: str) -> None:
    files = [path for path in OTHERS if folder in path.relative_to(ROOT).parts]
    assert len(files) > 30
    assert {str(path): lines for path in files if (lines := compared_names(path))} == {}
