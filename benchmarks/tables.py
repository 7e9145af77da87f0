"""Comparison rows as tables for people.

Names and messages are printed as `Text`: as strings, rich would read markup into them.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.rows import ModelRow, Row

#: A longer name is cut short: it would leave no room for the figures.
_LONGEST_NAME = 30


def layer_table(rows: Sequence[Row]) -> Table:
    """Objectives and bounds in the caller's unit; a `*` marks the instance's best objective and best bound."""
    table = Table(title="Layer by layer: every method on the same problem", title_justify="left")
    for name in ("layer", "method"):
        table.add_column(name, no_wrap=True, max_width=_LONGEST_NAME)
    for name in ("objective", "lower bound", "gap", "by", "bytes", "of direct", "weights kept", "seconds", "ended"):
        table.add_column(name, justify="right", no_wrap=True)
    for number, row in enumerate(rows):
        here = [other for other in rows if other.instance == row.instance]
        lowest = min((r.objective for r in here if r.objective is not None), default=None)
        highest = max((r.dual_bound for r in here if r.dual_bound is not None), default=None)
        table.add_row(
            Text(row.instance if number == 0 or rows[number - 1].instance != row.instance else ""),
            row.method,
            _cost(row.objective, row.scale, row.objective == lowest),
            _cost(row.dual_bound, row.scale, row.dual_bound == highest),
            _share(row.gap, 2),
            row.bound_proved_by or "-",
            _count(row.bytes_sent),
            _share(None if row.bytes_sent is None else row.bytes_sent / max(1, row.bytes_direct), 1),
            _share(None if row.kept_weights is None else row.kept_weights / max(1, row.num_weights), 1),
            f"{row.seconds:.2f}",
            row.termination + (f" ({row.limit})" if row.limit else ""),
            end_section=number + 1 == len(rows) or rows[number + 1].instance != row.instance,
        )
    return table


def model_table(rows: Sequence[ModelRow]) -> Table:
    """Whole networks, each method carrying its own placements from layer to layer; objectives by the named costs."""
    table = Table(title="Whole network: each method from layer to layer by itself", title_justify="left")
    for name in ("model", "method", "costs"):
        table.add_column(name, no_wrap=True, max_width=_LONGEST_NAME)
    for name in ("bytes", "of direct", "accuracy", "unadjusted", "original", "output error", "unadjusted", "objective"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            Text(row.model),
            row.method,
            row.costs,
            _count(row.bytes_sent),
            _share(row.bytes_sent / max(1, row.bytes_direct), 1),
            _share(row.accuracy, 2),
            _share(row.accuracy_unadjusted, 2),
            _share(row.accuracy_original, 2),
            _share(row.output_error, 2),
            _share(row.output_error_unadjusted, 2),
            f"{row.objective:.6f}",
        )
    return table


def print_tables(console: Console, rows: Sequence[Row], models: Sequence[ModelRow], notes: Sequence[str]) -> None:
    console.print(layer_table(rows))
    for row in rows:
        for message in row.messages:
            by_itself = f"problem {row.instance!r}: solver {row.method!r}"  # as refusals begin
            where = "" if message.startswith(by_itself) else f"{row.instance}, {row.method}: "
            console.print(Text(where + message), soft_wrap=True)
    if models:
        console.print(model_table(models))
    for note in notes:
        console.print(Text(note), soft_wrap=True)


def _cost(value: int | None, scale: float, best: bool) -> str:
    if value is None:
        return "-"
    text = str(value) if scale == 1 else f"{value / scale:.6f}"
    return text + ("*" if best else " ")


def _share(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}%}"


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)
