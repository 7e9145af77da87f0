"""Weight layers as linear maps on rows: one row per output position, holding all that the position sees.

Words and shapes: N neurons (output features or channels), M inputs (input features or channels), k weights in the
kernel that joins an input to a neuron (1 for Linear). A layer's matrix is N×(M·k), all k weights of input 0 first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

WeightLayer = nn.Linear | nn.Conv1d | nn.Conv2d


def sizes(module: WeightLayer) -> tuple[int, int, int]:
    """N, M, k."""
    num_neurons, group_inputs, *kernel = module.weight.shape
    return num_neurons, group_inputs * _groups(module), math.prod(kernel)


def matrix(module: WeightLayer) -> Tensor:
    """N×(M·k), a copy: the weights, 0 outside a neuron's group."""
    num_neurons, num_inputs, k = sizes(module)
    full = module.weight.detach().new_zeros(num_neurons, num_inputs * k)
    own = own_entries(module, full)
    own.copy_(module.weight.detach().reshape(own.shape))
    return full


def ungrouped(weight: Tensor, groups: int) -> Tensor:
    """N×M×kernel: the weight of a convolution without groups that does the same as one with them."""
    num_neurons, group_inputs = weight.shape[:2]
    full = weight.new_zeros(num_neurons, group_inputs * groups, *weight.shape[2:])
    for group, rows in enumerate(torch.arange(num_neurons).chunk(groups)):
        full[rows, group * group_inputs : (group + 1) * group_inputs] = weight[rows]
    return full


def set_matrix(module: WeightLayer, matrix: Tensor) -> None:
    """Write N×(M·k) into the module's weights; what lies outside a neuron's group is left out."""
    with torch.no_grad():
        module.weight.copy_(own_entries(module, matrix).reshape(module.weight.shape))


def present(module: WeightLayer) -> NDArray[np.bool_]:
    """N×M; which kernels the module has: those within a neuron's group."""
    found = torch.zeros(sizes(module)[:2], dtype=torch.bool)
    own_entries(module, found).fill_(True)
    return found.numpy()


def own_entries(module: WeightLayer, full: Tensor) -> Tensor:
    """The entries within groups of N×(M·r), any r, as a view: groups × (N / groups) × (M / groups · r)."""
    groups = _groups(module)
    return full.unflatten(1, (groups, -1)).unflatten(0, (groups, -1)).diagonal(dim1=0, dim2=2).movedim(-1, 0)


def expand(kept: NDArray[np.bool_], k: int) -> NDArray[np.bool_]:
    """N×(M·k): each entry of N×M for all k weights of its kernel."""
    return np.repeat(kept, k, axis=1)


def patches(module: WeightLayer, inputs: Tensor) -> Tensor:
    """rows × (M·k): what each output position sees; patches @ matrix.T + bias are the outputs as rows."""
    return _rows(*_seen(module, inputs))


def patch_chunks(module: WeightLayer, inputs: Tensor, rows: Tensor, size: int) -> Iterator[Tensor]:
    """The patches at the positions `rows`, counted through all examples, at most `size` of them at a time."""
    seen, width = _seen(module, inputs)
    for chunk in rows.split(size):
        # Gathered from the view: patches of all positions at once would take k times the memory of the inputs.
        yield _rows(seen, width, chunk)


def outputs_as_rows(module: WeightLayer, outputs: Tensor, rows: Tensor | None = None) -> Tensor:
    """rows × N: what the module says at each position, in the order of `patches`."""
    return _rows(_neurons_last(module, outputs), 1, rows)


def positions(module: WeightLayer, outputs: Tensor) -> torch.Size:
    """The shape of a layer's output positions: examples first, if there is a batch, then tokens or places."""
    return _neurons_last(module, outputs).shape[:-1]


def _neurons_last(module: WeightLayer, outputs: Tensor) -> Tensor:
    return outputs if isinstance(module, nn.Linear) else outputs.movedim(-1 - len(module.kernel_size), -1)


def _groups(module: WeightLayer) -> int:
    return 1 if isinstance(module, nn.Linear) else module.groups


def _seen(module: WeightLayer, inputs: Tensor) -> tuple[Tensor, int]:
    """A view of the inputs, positions … × M × kernel, and how many of its dimensions make up a row."""
    if isinstance(module, nn.Linear):
        return inputs, 1
    return _windows(module, inputs), 1 + len(module.kernel_size)


def _rows(values: Tensor, width: int, rows: Tensor | None = None) -> Tensor:
    """`values` with the last `width` dimensions as columns and those before as rows, all or the `rows` named."""
    shape = values.shape[: values.ndim - width]
    if rows is None:
        return values.reshape(shape.numel(), values.shape[values.ndim - width :].numel())
    if not shape:
        values, shape = values[None], torch.Size([1])  # a single example came without a batch
    return values[torch.unravel_index(rows, shape)].flatten(1)


def _windows(module: nn.Conv1d | nn.Conv2d, inputs: Tensor) -> Tensor:
    """Batch × output positions × M × kernel, a view of the padded inputs."""
    spatial = len(module.kernel_size)
    batched = inputs.reshape(-1, *inputs.shape[-1 - spatial :])  # a single example may come without a batch
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    windows = F.pad(batched, _margins(module), mode)
    for axis in range(spatial):
        step, gap = module.stride[axis], module.dilation[axis]
        span = gap * (module.kernel_size[axis] - 1) + 1
        windows = windows.unfold(2 + axis, span, step)[..., ::gap]
    return windows.movedim(1, 1 + spatial)


def _margins(module: nn.Conv1d | nn.Conv2d) -> list[int]:
    """Padding before and after, last axis first, as `F.pad` takes it."""
    margins: list[int] = []
    for axis in reversed(range(len(module.kernel_size))):
        if isinstance(module.padding, str):
            total = module.dilation[axis] * (module.kernel_size[axis] - 1) if module.padding == "same" else 0
            margins += [total // 2, total - total // 2]  # the odd one goes behind
        else:
            margins += [module.padding[axis]] * 2
    return margins
