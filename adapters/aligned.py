"""Tables and times as plain text."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], num_left: int) -> list[str]:
    """A line for each row, columns two spaces apart; the first `num_left` to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if number < num_left else text.rjust(width)
            for number, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def ms(seconds: float) -> str:
    """In milliseconds, with three decimals."""
    return f"{1000 * seconds:.3f}"
