"""Curves as SVG: gaps against time, what networks lose against what they send, times against rates of networks."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from formulations.files import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]

_PANELS_IN_A_ROW = 4
#: Shares below this are drawn on a linear scale, so that 0 has its place.
_SMALLEST_SHARE = 1e-3


def plot_gaps(panels: Mapping[str, Mapping[str, Points]], path: str) -> None:
    """Draw gaps against time, both logarithmic, as steps.

    Args:
        panels: title → label → points (seconds, gap), in order of time.
        path: of the SVG.

    Raises:
        InputError: the file cannot be written.
    """
    figure, axes = _panels(len(panels))
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for label, points in curves.items():
            axis.step(*zip(*points, strict=True), where="post", label=label)
        axis.set(title=title, xlabel="seconds", ylabel="gap", xscale="log", ylim=(0, 1))
        axis.set_yscale("symlog", linthresh=_SMALLEST_SHARE)
        axis.yaxis.set_major_formatter(_per_cent)
        if curves:
            axis.legend(fontsize="small")
    _write(figure, path)


@dataclass(frozen=True)
class Curve:
    """One method.

    Attributes:
        mean: (share of the bytes, mean, standard deviation), by share.
        points: (share of the bytes, value) of every plan.
    """

    mean: Sequence[tuple[float, float, float]]
    points: Points


def plot_shares(panels: Mapping[str, Mapping[str, Curve]], ylabel: str, path: str) -> None:
    """Draw values against shares of the bytes, logarithmic: means, a band of one standard deviation, and all points.

    Args:
        panels: title → method → curve.
        path: of the SVG.

    Raises:
        InputError: the file cannot be written.
    """
    figure, axes = _panels(len(panels))
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for label, curve in curves.items():
            (line,) = axis.plot(*_columns([(x, y) for x, y, _ in curve.mean]), label=label)
            low, high = [y - spread for _, y, spread in curve.mean], [y + spread for _, y, spread in curve.mean]
            axis.fill_between([x for x, _, _ in curve.mean], low, high, color=line.get_color(), alpha=0.2, linewidth=0)
            axis.plot(*_columns(curve.points), ".", color=line.get_color(), alpha=0.4, markersize=4)
        axis.set(title=title, xlabel="bytes, of direct parallel", ylabel=ylabel, xscale="log")
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_formatter(_per_cent)
        axis.legend(fontsize="small")
    _write(figure, path)


def plot_rates(curves: Mapping[str, Sequence[tuple[float, float, float]]], path: str) -> None:
    """Draw times of a batch against the rate of the network, both logarithmic; what was predicted is dashed.

    Args:
        curves: system → (Mbit/s, measured ms, predicted ms).
        path: of the SVG.

    Raises:
        InputError: the file cannot be written.
    """
    figure, (axis,) = _panels(1)
    for label, points in curves.items():
        rates, times, predicted = zip(*sorted(points), strict=True)
        (line,) = axis.plot(rates, times, "o-", label=label)
        axis.plot(rates, predicted, "--", color=line.get_color(), alpha=0.6)
    axis.set(title="predicted: dashed", xlabel="Mbit/s", ylabel="ms per batch", xscale="log", yscale="log")
    axis.legend(fontsize="small")
    _write(figure, path)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    columns = min(_PANELS_IN_A_ROW, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.5 * columns, 3.5 * rows), squeeze=False)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, list(axes.flat[:count])


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _per_cent(share: float, _: object) -> str:
    return f"{100 * share:g} %"


def _write(figure: Figure, path: str) -> None:
    """Write and close the figure. Raises InputError."""
    import matplotlib.pyplot as plt

    figure.tight_layout()
    text = io.BytesIO()
    figure.savefig(text, format="svg")
    plt.close(figure)
    write_file(path, lambda file: file.write(text.getvalue()))
