"""How much of a layer's error reaches the network's outputs: what makes errors of different layers comparable.

A hidden layer's error is spread over many directions, of which the layers behind it let few pass; the last layer's is
the network's. Measured, not modelled: the outputs are disturbed as plans disturb them, a little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from adapters.adjust import refit
from adapters.calibrate import KernelMoments, Moments, evaluating
from adapters.extract import stretches
from adapters.graph import LayerGraph
from adapters.kernels import WeightLayer, expand, matrix, present, set_matrix, sizes
from formulations.errors import InputError

#: Relative squared error of a disturbed layer: small enough for the response to be in proportion.
_DISTURBANCE = 1e-2
#: Of the calibration data, so many examples say enough.
_EXAMPLES = 256
#: No layer counts for less than this: its error is there, even where these examples do not show it.
_LEAST = 1e-3


def importances(
    model: nn.Module,
    graph: LayerGraph,
    batches: Sequence[Tensor],
    disturbances: Sequence[Tensor],
    show: Callable[[str], None] = lambda text: None,
) -> list[float]:
    """Per layer, the relative squared error of the network's outputs per relative squared error of the layer's.

    Args:
        disturbances: per layer, N×(M·k): the direction that its weights are changed in.

    Raises:
        InputError: the model returns no tensor.
    """
    inputs = torch.cat([batch[:_EXAMPLES] for batch in batches[:_EXAMPLES]])[:_EXAMPLES]
    if not _takes(model, inputs):
        inputs = batches[0]  # its batches have a size of their own
    with evaluating(model):
        wanted = first_tensor(model(inputs.clone())).double()
        spread = float((wanted - wanted.mean(dim=0)).square().sum())
        found = []
        for number, layer in enumerate(graph.layers, start=1):
            show(f"importance of layer {number} of {len(graph.layers)}")
            module = model.get_submodule(layer.name)
            error = _response(model, module, inputs, wanted, disturbances[number - 1])  # type: ignore[arg-type]
            found.append(max(_LEAST, error / spread / _DISTURBANCE) if spread > 0 else 1.0)
    return found


def _takes(model: nn.Module, inputs: Tensor) -> bool:
    with evaluating(model):
        try:
            model(inputs.clone())
        except RuntimeError:  # of shapes that do not fit
            return False
    return True


def first_tensor(output: object) -> Tensor:
    """The first tensor of what a model returns. Raises InputError where there is none."""
    found = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    if not found:
        raise InputError(f"the model returns a {type(output).__name__} without a tensor, so its error has no meaning")
    return found[0]


def disturbance(module: WeightLayer, moments: Moments | KernelMoments, num_workers: int) -> Tensor:
    """N×(M·k): what a layer's weights lose where its neurons hear only inputs of their own worker.

    Neurons and inputs are both dealt out in order. What is left is refitted, as far as the moments know how.
    """
    weights, (num_neurons, num_inputs, kernel) = matrix(module), sizes(module)
    at = stretches(num_neurons, num_workers)
    owner = stretches(num_inputs, num_workers)
    own = (at[:, None] == owner[None, :]) & present(module)
    if isinstance(moments, Moments):
        fitted, _ = refit(weights, module.bias, own, kernel, moments, fit_bias=True)
        return weights - fitted
    return weights * torch.from_numpy(~expand(own, kernel)).to(weights.device)


def _response(model: nn.Module, module: WeightLayer, inputs: Tensor, wanted: Tensor, change: Tensor) -> float:
    """Squared error of the outputs with one layer disturbed."""
    weights = matrix(module)
    channels = -1 if isinstance(module, nn.Linear) else 1

    def disturb(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        set_matrix(module, change)
        part = _centred(module.forward(args[0]), channels)
        set_matrix(module, weights)
        energy, total = float(part.square().sum()), float(_centred(output, channels).square().sum())
        return output + (part * (_DISTURBANCE * total / energy) ** 0.5).to(output) if energy > 0 else output

    handle = module.register_forward_hook(disturb)
    try:
        return float((first_tensor(model(inputs.clone())).double() - wanted).square().sum())
    finally:
        handle.remove()


def _centred(output: Tensor, channels: int) -> Tensor:
    """Less each channel's mean, in float64."""
    over = [dim for dim in range(output.ndim) if dim != channels % output.ndim]
    return output.double() - output.double().mean(dim=over, keepdim=True)
