"""Tables as text."""

from instructrl.cli.table import align


def test_columns_are_as_wide_as_their_widest_cell_and_lines_end_with_text() -> None:
    rows = [("run", "n", "note"), ("a", "10", ""), ("longer", "7", "x")]
    assert align(rows, right=(1,)) == ["run      n  note", "a       10", "longer   7  x"]
