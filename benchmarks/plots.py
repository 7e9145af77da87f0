"""Curves against time as SVG, one panel per problem."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from formulations.files import write_file

Points = Sequence[tuple[float, float]]


def plot_steps(panels: Mapping[str, Mapping[str, Points]], path: str, *, value: str, percent: bool = False) -> None:
    """Draw step curves over the logarithm of the seconds.

    Args:
        panels: title → label → points (seconds, value), in order of time.
        path: of the SVG.
        value: what the vertical axis shows.
        percent: of shares, logarithmic but for the last tenth of a per cent, so that 0 has its place.

    Raises:
        InputError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import PercentFormatter

    figure, drawn = plt.subplots(1, len(panels), figsize=(4.5 * len(panels), 3.5), squeeze=False)
    for panel, (title, curves) in zip(drawn[0], panels.items(), strict=True):
        for label, points in curves.items():
            panel.step(*zip(*points, strict=True), where="post", label=label)
        panel.set(title=title, xlabel="seconds", ylabel=value, xscale="log")
        if percent:
            panel.set_yscale("symlog", linthresh=1e-3)
            panel.set_ylim(0, 1)
            panel.yaxis.set_major_formatter(PercentFormatter(1))
        if curves:
            panel.legend(fontsize="small")
    figure.tight_layout()
    text = io.BytesIO()
    figure.savefig(text, format="svg")
    plt.close(figure)
    write_file(path, lambda file: file.write(text.getvalue()))
