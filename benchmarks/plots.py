"""Curves against time as SVG, one panel per problem."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from formulations.files import write_file

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
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    columns = min(_PANELS_IN_A_ROW, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.5 * columns, 3.5 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, curves) in zip(axes.flat, panels.items(), strict=False):
        for label, points in curves.items():
            axis.step(*zip(*points, strict=True), where="post", label=label)
        axis.set(title=title, xlabel="seconds", ylabel="gap", xscale="log", ylim=(0, 1))
        axis.set_yscale("symlog", linthresh=_SMALLEST_SHARE)
        axis.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
        if curves:
            axis.legend(fontsize="small")
    figure.tight_layout()
    text = io.BytesIO()
    figure.savefig(text, format="svg")
    plt.close(figure)
    write_file(path, lambda file: file.write(text.getvalue()))
