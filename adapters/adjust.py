"""The A of RePurpose: refit what was kept to what the layer used to say, without training.

Shapes: M inputs, N neurons.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.calibrate import Moments

#: Strength of the pull towards the original weights, relative to the mean energy of the inputs at hand.
#: On examples held back from the digits' training split the output error is flat from 1e-6 to 1e-3
#: (0.32 % at 17 % of the bytes) and rises after that (0.45 % at 1e-2, 1.6 % at 1e-1).
RIDGE = 1e-4


def refit(
    weight: Tensor, bias: Tensor | None, kept: NDArray[np.bool_], moments: Moments, ridge: float = RIDGE
) -> tuple[Tensor, Tensor | None]:
    """Kept weights and bias of one layer by ridge least squares to the original layer's outputs.

    Per neuron, min E|ŵ·x̂ − y|² + λ|ŵ − w|² over the weights kept, x̂ the inputs of the network as it
    now is; one Cholesky for all neurons that keep the same inputs, which are those of a worker
    where no weight is pruned by itself.

    Args:
        weight, bias: N×M and N or None, of the original layer.
        kept: N×M.
        moments: inputs of the modified network, outputs of the original.
    """
    num_inputs = weight.shape[1]
    original = torch.zeros(weight.shape[0], num_inputs + 1, dtype=torch.float64)
    original[:, :num_inputs] = weight.detach().double().cpu()
    if bias is not None:
        original[:, num_inputs] = bias.detach().double().cpu()
    gram, cross = moments.gram.cpu(), moments.cross.cpu()
    fitted = torch.zeros_like(original)
    patterns, neurons_of = np.unique(kept, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        neurons = torch.from_numpy(np.flatnonzero(neurons_of.ravel() == number))
        # The bias is fitted with the weights unless the layer has none; it is not pulled anywhere.
        support = torch.from_numpy(np.flatnonzero(np.append(pattern, bias is not None)))
        if support.numel() == 0:
            continue
        # Solved for the change: inputs that are always 0 then keep their weights to the bit.
        start = original[neurons][:, support]
        system = gram[support][:, support]
        residual = cross[support][:, neurons] - system @ start.T
        at_hand = support < num_inputs
        system.diagonal()[at_hand] += ridge * system.diagonal()[at_hand].mean()
        fitted[neurons[:, None], support[None, :]] = start + _solution(system, residual).T
    new_weight = fitted[:, :num_inputs].to(weight)
    return new_weight, None if bias is None else fitted[:, num_inputs].to(bias)


def _solution(system: Tensor, right: Tensor) -> Tensor:
    """Of `system` x = `right`, with a system that is symmetric and positive semidefinite; any size."""
    factor, failed = torch.linalg.cholesky_ex(system)
    if not failed:
        return torch.cholesky_solve(right, factor)
    # Singular to rounding: inputs that are always 0 or follow from each other, with too little pull to tell them
    # apart. Among all solutions, the one of least norm, every input in its own unit so that none counts as 0.
    unit = system.diagonal().clamp(min=torch.finfo(system.dtype).tiny).rsqrt()[:, None]
    solution: Tensor = torch.linalg.lstsq(unit * system * unit.T, unit * right).solution
    return unit * solution


def relative_error(weight: Tensor, bias: Tensor | None, moments: Moments) -> float:
    """E|ŵ·x̂ − y|² summed over neurons, in shares of the target's variance, on the calibration examples."""
    extended = torch.zeros(weight.shape[0], weight.shape[1] + 1, dtype=torch.float64)
    extended[:, :-1] = weight.detach().double().cpu()
    if bias is not None:
        extended[:, -1] = bias.detach().double().cpu()
    explained = 2 * (extended * moments.cross.cpu().T).sum() - (extended @ moments.gram.cpu() * extended).sum()
    squared = max(0.0, moments.target_energy - float(explained))
    return squared / moments.target_variance if moments.target_variance > 0 else squared
