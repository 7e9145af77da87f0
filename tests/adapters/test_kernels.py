"""Weight layers as matrices on rows, against numbers by hand and against the layers themselves."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from adapters.kernels import (
    WeightLayer,
    expand,
    matrix,
    outputs_as_rows,
    own_entries,
    patch_chunks,
    patches,
    positions,
    present,
    set_matrix,
    sizes,
)

LAYERS: dict[str, tuple[WeightLayer, tuple[int, ...]]] = {
    "linear": (nn.Linear(4, 6), (5, 4)),
    "linear on tokens": (nn.Linear(4, 6), (2, 3, 4)),
    "linear on one example": (nn.Linear(4, 6), (4,)),
    "conv1d": (nn.Conv1d(4, 6, 3), (2, 4, 9)),
    "conv1d with all": (nn.Conv1d(4, 6, 3, 2, 3, 2, 2, padding_mode="circular"), (2, 4, 9)),
    "conv1d same, even kernel": (nn.Conv1d(4, 6, 4, padding="same"), (2, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, 3), (2, 4, 5, 6)),
    "pointwise": (nn.Conv2d(4, 6, 1), (2, 4, 5, 6)),
    "strided": (nn.Conv2d(4, 6, 3, stride=(2, 3), padding=(0, 1)), (2, 4, 8, 9)),
    "dilated": (nn.Conv2d(4, 6, (3, 2), dilation=(2, 3), padding=2), (2, 4, 7, 6)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, padding=1), (2, 4, 5, 6)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4, bias=False), (2, 4, 5, 6)),
    "valid": (nn.Conv2d(4, 6, 3, padding="valid"), (2, 4, 5, 6)),
    "same": (nn.Conv2d(4, 6, (4, 3), dilation=(1, 2), padding="same"), (2, 4, 5, 6)),
    "same, circular": (nn.Conv2d(4, 6, (4, 3), padding="same", padding_mode="circular"), (2, 4, 5, 6)),
    "reflect": (nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="reflect"), (2, 4, 5, 6)),
    "replicate": (nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="replicate"), (2, 4, 5, 6)),
    "one image": (nn.Conv2d(4, 6, 3, padding=1), (4, 5, 6)),
}


def _case(name: str) -> tuple[WeightLayer, Tensor]:
    layer, shape = LAYERS[name]
    torch.manual_seed(0)
    return copy.deepcopy(layer).double(), torch.randn(shape, dtype=torch.float64)


def test_matrix_and_patches_by_hand() -> None:
    """One image of two channels, a 1×2 kernel: two positions, input 0's two values first, then input 1's."""
    layer = nn.Conv2d(2, 1, (1, 2), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]]))
    image = torch.tensor([[[[1.0, 10.0, 100.0]], [[5.0, 6.0, 7.0]]]])
    assert sizes(layer) == (1, 2, 2)
    assert matrix(layer).tolist() == [[1, 2, 3, 4]]
    assert patches(layer, image).tolist() == [[1, 10, 5, 6], [10, 100, 6, 7]]
    assert outputs_as_rows(layer, layer(image)).tolist() == [[1 + 20 + 15 + 24], [10 + 200 + 18 + 28]]


def test_a_grouped_layer_by_hand() -> None:
    """Two groups: neuron 0 sees input 0 only, neuron 1 input 1 only, and the rest of the matrix is 0."""
    layer = nn.Conv1d(2, 2, 2, groups=2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]]))
    assert matrix(layer).tolist() == [[1, 2, 0, 0], [0, 0, 3, 4]]
    assert present(layer).tolist() == [[True, False], [False, True]]
    assert own_entries(layer, torch.tensor([[1, 2], [3, 4]])).tolist() == [[[1]], [[4]]]


def test_expand_repeats_each_entry_for_its_kernel() -> None:
    """Input-major: all weights of input 0 first."""
    assert expand(np.array([[True, False]]), 3).tolist() == [[True, True, True, False, False, False]]


@pytest.mark.parametrize("name", LAYERS)
def test_patches_times_matrix_are_the_outputs(name: str) -> None:
    """For every kind of layer, stride, padding, dilation and groups."""
    layer, inputs = _case(name)
    with torch.no_grad():
        outputs = layer(inputs)
    bias = torch.zeros(()) if layer.bias is None else layer.bias.detach()
    rows = patches(layer, inputs) @ matrix(layer).T + bias
    torch.testing.assert_close(rows, outputs_as_rows(layer, outputs), rtol=0, atol=1e-12)
    assert rows.numel() == outputs.numel()


def test_patches_are_in_the_order_of_unfold() -> None:
    """Rows as torch's own unfold has them, and columns too."""
    layer, inputs = _case("dilated")
    unfolded = F.unfold(inputs, (3, 2), (2, 3), 2).transpose(1, 2).flatten(0, 1)
    assert torch.equal(patches(layer, inputs), unfolded)


@pytest.mark.parametrize("name", LAYERS)
def test_chunks_of_named_rows_are_rows_of_the_whole(name: str) -> None:
    """Every second row, two at a time, in order, for inputs and outputs."""
    layer, inputs = _case(name)
    everything, outputs = patches(layer, inputs), layer(inputs).detach()
    rows = torch.arange(0, len(everything), 2)
    chunks = list(patch_chunks(layer, inputs, rows, 2))
    assert max(map(len, chunks)) <= 2
    assert torch.equal(torch.cat(chunks), everything[::2])
    assert torch.equal(outputs_as_rows(layer, outputs, rows), outputs_as_rows(layer, outputs)[::2])


def test_rows_named_are_a_copy() -> None:
    """What is done to the outputs in place afterwards, as ReLU may, does not reach rows taken before."""
    layer, inputs = _case("linear")
    outputs = layer(inputs).detach()
    taken = outputs_as_rows(layer, outputs, torch.arange(5))
    before = taken.clone()
    outputs.zero_()
    assert torch.equal(taken, before)


@pytest.mark.parametrize("name", LAYERS)
def test_a_matrix_written_back_is_read_again(name: str) -> None:
    """New numbers where the module has weights; others are left out; the parameter stays the same object."""
    layer, _ = _case(name)
    parameter, new = layer.weight, torch.randn_like(matrix(layer))
    set_matrix(layer, new)
    own = torch.from_numpy(expand(present(layer), sizes(layer)[2]))
    assert torch.equal(matrix(layer), new * own)
    assert layer.weight is parameter
    assert parameter.requires_grad


def test_positions_are_examples_and_places() -> None:
    """What is counted as rows: all dimensions but that of the neurons, which a convolution has second."""
    for name, shape in (("linear on tokens", (2, 3)), ("linear on one example", ()), ("strided", (2, 3, 3))):
        layer, inputs = _case(name)
        assert tuple(positions(layer, layer(inputs))) == shape


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(("num_inputs", "num_neurons"), [(0, 3), (3, 0)])
def test_layers_without_inputs_or_neurons_have_shapes_all_the_same(num_inputs: int, num_neurons: int) -> None:
    """Empty matrices and rows, with the other side's size."""
    layer, inputs = nn.Linear(num_inputs, num_neurons), torch.zeros(2, num_inputs)
    assert matrix(layer).shape == present(layer).shape == (num_neurons, num_inputs)
    for rows in (None, torch.arange(2)):
        assert outputs_as_rows(layer, layer(inputs), rows).shape == (2, num_neurons)
    assert patches(layer, inputs).shape == (2, num_inputs)


def test_matrix_is_a_copy() -> None:
    """Writing into it leaves the layer alone."""
    layer, _ = _case("linear")
    before = layer.weight.detach().clone()
    matrix(layer).zero_()
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("name", ["linear", "conv2d", "grouped", "depthwise"])
def test_present_are_the_kernels_that_matter(name: str) -> None:
    """By brute force: an input that is changed moves exactly the neurons that have a kernel for it."""
    layer, inputs = _case(name)
    for j in range(sizes(layer)[1]):
        changed = inputs.clone()
        changed[:, j] += 1.0
        moved = outputs_as_rows(layer, layer(changed) - layer(inputs)).detach().abs().amax(dim=0) > 1e-9
        assert moved.tolist() == present(layer)[:, j].tolist()
