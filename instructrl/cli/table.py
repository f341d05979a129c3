"""Tables as text."""

from collections.abc import Container, Sequence


def align(rows: Sequence[Sequence[str]], *, right: Container[int] = ()) -> list[str]:
    """Lines with the cells of each column padded to the same width; those of the columns `right` on the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
