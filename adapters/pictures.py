"""Pictures of a plan as SVG: what stays of each layer's weights, and who sends to whom.

Shapes: N neurons and M channels of a layer, P workers.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from adapters.apply import apply_plan
from adapters.file_stem import file_stem
from adapters.kernels import matrix, sizes
from adapters.plan import LayerPlan, PartitionPlan
from adapters.plan_files import PICTURES
from formulations.files import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IntArray = NDArray[np.int64]


def draw_plan(plan: PartitionPlan, model: nn.Module, folder: str | Path) -> None:
    """Draw every layer and the traffic into `pictures` in the plan's folder.

    Args:
        model: as it was before.

    Raises:
        InputError: the plan is not for this model, or the folder cannot be written.
    """
    pictures, smaller = Path(folder) / PICTURES, apply_plan(model, plan)
    draw_traffic(plan, pictures / "traffic.svg")
    for layer in plan.layers:
        before, after = (_norms(part.get_submodule(layer.name)) for part in (model, smaller))
        draw_layer(plan, layer, before, after, pictures / "layers" / f"{file_stem(layer.name)}.svg")


def draw_layer(
    plan: PartitionPlan,
    layer: LayerPlan,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    path: str | Path,
) -> None:
    """Draw a layer's weights before and after, neurons and channels sorted by worker; what is dropped is white.

    Args:
        before, after: N×M; the norm of each kernel.
        path: of the SVG.

    Raises:
        InputError: the file cannot be written.
    """
    rows, columns = (np.argsort(worker, kind="stable") for worker in (layer.worker, layer.input_worker))
    blocks = {
        "before": before[rows][:, columns],
        "after": np.where(layer.kept, after, np.nan)[rows][:, columns],
    }
    most = float(max(before.max(initial=0), after.max(initial=0)))
    figure, axes = _figure(len(blocks))
    for axis, (title, block) in zip(axes, blocks.items(), strict=True):
        image = axis.imshow(block, cmap="viridis_r", vmin=0, vmax=most, aspect="auto", interpolation="nearest")
        axis.set(title=f"{layer.name} {title}", xlabel="channels by worker", ylabel="neurons by worker")
        _lines(axis, plan, layer)
    figure.colorbar(image, ax=axes, label="size of weights")
    _save(figure, path)


def draw_traffic(plan: PartitionPlan, path: str | Path) -> None:
    """Draw the bytes per example from worker (row) to worker (column). Raises InputError as `draw_layer`."""
    names, traffic = plan.cluster.worker_names, plan.traffic
    figure, (axis,) = _figure(1)
    axis.imshow(traffic, cmap="Blues", vmin=0)
    for origin, target in np.argwhere(traffic > 0):
        dark = traffic[origin, target] > traffic.max() / 2
        text = f"{traffic[origin, target]:,}"
        axis.text(target, origin, text, ha="center", va="center", color="white" if dark else "black")
    places = range(len(names))
    axis.set(xticks=places, yticks=places, xticklabels=names, yticklabels=names, xlabel="to", ylabel="from")
    axis.set_title("bytes per example")
    _save(figure, path)


def _norms(module: nn.Module) -> NDArray[np.float64]:
    """N×M: the norm of each kernel, |w| for Linear."""
    kernel = sizes(module)[2]  # type: ignore[arg-type]
    norms: NDArray[np.float64] = matrix(module).double().unflatten(1, (-1, kernel)).norm(dim=2).cpu().numpy()  # type: ignore[arg-type]
    return norms


def _lines(axis: Axes, plan: PartitionPlan, layer: LayerPlan) -> None:
    """Lines between the workers, and their names where they hold something."""
    names = plan.cluster.worker_names
    sides = ((axis.axvline, axis.set_xticks, layer.input_worker), (axis.axhline, axis.set_yticks, layer.worker))
    for line, ticks, worker in sides:
        counts = np.bincount(worker, minlength=len(names))
        ends = np.cumsum(counts)
        for end in ends[:-1]:
            line(end - 0.5, color="black", linewidth=0.8)
        held = counts > 0
        ticks((ends - counts / 2)[held] - 0.5, np.array(names)[held])


def _figure(number: int) -> tuple[Any, Any]:
    """A figure and so many panels in a row."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, number, figsize=(5.5 * number, 4.5), squeeze=False, layout="constrained")
    return figure, axes[0]


def _save(figure: Any, path: str | Path) -> None:
    import matplotlib.pyplot as plt

    text = io.BytesIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    write_file(path, lambda file: file.write(text.getvalue()))
