"""What each kernel of a network is worth, in shares of the energy of the network's outputs (MATH.md, section 7).

Shapes: N neurons, M channels, k weights of a kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.adjust import norm_scale
from adapters.calibrate import KernelMoments, Moments, kernel_energy
from adapters.covariance import LARGEST, LayerLoss
from adapters.graph import Layer
from adapters.kernels import matrix, present, sizes
from formulations.errors import InputError, nearest

KINDS = ("covariance", "activation", "magnitude")
#: Columns M·k up to which searches look at sets of channels, which they do for hundreds of placements of each layer:
#: a tenth of a second each for 576 columns. Wider layers do so once, when they are adjusted.
SEARCHED = 640


@dataclass(frozen=True, eq=False)
class LayerCosts:
    """One layer's costs, in shares of the energy of the network's outputs.

    Attributes:
        prune_cost: N×M; of zeroing a kernel, the others as they are.
        loss: of sets of channels, the others refitted; None where a search counts kernels one by one.
        follows: whether what is sent is chosen by that loss once the layers before are adjusted.
        importance: how much of the layer's relative error the outputs show; it multiplies all costs.
    """

    prune_cost: NDArray[np.float64]
    loss: LayerLoss | None = None
    follows: bool = False
    importance: float = 1.0


def check_kind(kind: str) -> None:
    """Raises InputError where there are no such costs."""
    if kind not in KINDS:
        raise InputError(f"costs {kind!r} are unknown; {nearest(str(kind), KINDS)}")


def layer_costs(
    model: nn.Module, layer: Layer, moments: Moments | KernelMoments, kind: str, importance: float = 1.0
) -> LayerCosts:
    """The costs of one layer of `model`.

    `magnitude`: |w|²/2, in shares of all the layer's. The others in shares of the outputs' variance, which that is for
    inputs that are independent and alike. `activation`: half the energy of what the kernel adds to the neuron's output.
    `covariance`: half its variance where a bias makes up for the mean, and the loss of sets of channels with the
    others refitted. Neurons count as they leave a BatchNorm that follows.
    """
    module = model.get_submodule(layer.name)
    weights, (_, _, kernel) = matrix(module), sizes(module)  # type: ignore[arg-type]
    scale = row_scale(model, layer).to(weights.device)
    unit = _unit(scale, moments)
    scaled = weights.double() * scale[:, None]
    if kind == "magnitude":
        cost = scaled.square().unflatten(1, (-1, kernel)).sum(dim=2).cpu().numpy() / float(scaled.square().sum() or 1.0)
        return LayerCosts(importance * cost / 2, importance=importance)
    if kind == "activation":
        return LayerCosts(importance * kernel_energy(scaled, moments, kernel) / (2 * unit), importance=importance)
    cost = importance * kernel_energy(scaled, moments, kernel, centred=takes_bias(model, layer)) / (2 * unit)
    searched = isinstance(moments, Moments) and weights.shape[1] <= SEARCHED
    loss = layer_loss(model, layer, moments, importance) if searched else None
    return LayerCosts(cost, loss, weights.shape[1] <= LARGEST, importance)


def layer_loss(model: nn.Module, layer: Layer, moments: Moments, importance: float = 1.0) -> LayerLoss:
    """The loss of one layer of `model` by the channels at hand, against the targets of the moments."""
    module = model.get_submodule(layer.name)
    scale, own = row_scale(model, layer), present(module)  # type: ignore[arg-type]
    width = len(moments.gram) - (not takes_bias(model, layer))
    return LayerLoss(
        matrix(module),  # type: ignore[arg-type]
        moments.gram[:width, :width],
        cross=moments.cross[:width],
        kernel=layer.kernel,
        row_scale=scale,
        unit=_unit(scale, moments) / importance,
        present=None if own.all() else own,
    )


def takes_bias(model: nn.Module, layer: Layer) -> bool:
    """Whether a layer has a place for a bias: its own, or the running mean of the BatchNorm behind it."""
    return layer.norm is not None or model.get_submodule(layer.name).bias is not None


def _unit(scale: Tensor, moments: Moments | KernelMoments) -> float:
    """The variance of a layer's outputs behind its norm; 1 where there is none to be in shares of."""
    variance = float((scale.to(moments.target_variance).square() * moments.target_variance).sum())
    return variance if variance > 0 else 1.0


def row_scale(model: nn.Module, layer: Layer) -> Tensor:
    """N, float64: what the BatchNorm behind a layer multiplies its neurons by; 1 without one."""
    if layer.norm is None:
        return torch.ones(layer.num_neurons, dtype=torch.float64)
    return norm_scale(model.get_submodule(layer.norm)).detach().double()  # type: ignore[arg-type]
