"""The A of RePurpose: refit what was kept to what the layer used to say, without training.

Shapes: N neurons, M inputs, k weights per kernel; a layer's matrix is N×(M·k), as in `adapters.kernels`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.calibrate import Moments
from adapters.kernels import expand
from formulations.errors import InputError

#: Strength of the pull towards the original weights, relative to the mean energy of the inputs at hand.
#: On examples held back from the digits' training split the output error is flat from 1e-6 to 1e-3
#: (0.32 % at 17 % of the bytes) and rises after that (0.45 % at 1e-2, 1.6 % at 1e-1).
RIDGE = 1e-4


def refit(
    matrix: Tensor,
    bias: Tensor | None,
    kept: NDArray[np.bool_],
    k: int,
    moments: Moments,
    ridge: float = RIDGE,
    *,
    fit_bias: bool,
) -> tuple[Tensor, Tensor | None]:
    """Kept weights and bias of one layer by ridge least squares to the original layer's outputs.

    Per neuron, min E|ŵ·x̂ − y|² + λ|ŵ − w|² over the weights kept, x̂ the patches of the network as it now is; one
    Cholesky for all neurons that keep the same inputs, which are those of a worker where no weight is pruned by itself.

    Args:
        matrix, bias: N×(M·k) and N or None, of the original layer.
        kept: N×M; nothing outside a neuron's group.
        moments: patches of the modified network, outputs of the original.
        fit_bias: whether there is a place for a bias, such as a norm's running mean where `bias` is None.

    Returns:
        N×(M·k), and the bias: N if fitted, else `bias`.
    """
    original, device = _extended(matrix, bias, moments), moments.gram.device
    fitted = torch.zeros_like(original)
    patterns, neurons_of = np.unique(kept, axis=0, return_inverse=True)
    for number, pattern in enumerate(expand(patterns, k)):
        neurons = torch.from_numpy(np.flatnonzero(neurons_of.ravel() == number)).to(device)
        fitted[neurons] = original[neurons] * torch.from_numpy(np.append(pattern, True)).to(device)
        support = torch.from_numpy(np.flatnonzero(np.append(pattern, fit_bias))).to(device)
        if len(support) == 0:
            continue
        # Solved for the change: inputs that are always 0 then keep their weights to the bit.
        rows = moments.gram[support]
        residual = moments.cross[support][:, neurons] - rows @ fitted[neurons].T
        system = rows[:, support]
        pulled = system.diagonal()[: int(pattern.sum())]  # the bias is not pulled anywhere
        pulled += ridge * pulled.mean()
        fitted[neurons[:, None], support] += _solution(system, residual).T
    return fitted[:, :-1].to(matrix), fitted[:, -1].to(matrix) if fit_bias else bias


def _extended(matrix: Tensor, bias: Tensor | None, moments: Moments) -> Tensor:
    """N×(M·k+1), as the moments are: the bias, or 0, behind the weights."""
    last = matrix.new_zeros(len(matrix)) if bias is None else bias
    return torch.cat([matrix.detach().to(moments.gram), last.detach().to(moments.gram)[:, None]], dim=1)


def _solution(system: Tensor, right: Tensor) -> Tensor:
    """Of `system` x = `right`, with a system that is symmetric and positive semidefinite; any size."""
    factor, failed = torch.linalg.cholesky_ex(system)
    if not failed:
        return torch.cholesky_solve(right, factor)
    # Singular to rounding: inputs that are always 0 or follow from each other, with too little pull to tell them
    # apart. Among all solutions, the one of least norm, every input in its own unit so that none counts as 0.
    unit = system.diagonal().clamp(min=torch.finfo(system.dtype).tiny).rsqrt()[:, None]
    # On the CPU: the drivers on a GPU take no singular systems.
    solution: Tensor = torch.linalg.lstsq((unit * system * unit.T).cpu(), (unit * right).cpu()).solution
    return unit * solution.to(unit)


def relative_error(matrix: Tensor, bias: Tensor | None, moments: Moments, row_scale: Tensor | None = None) -> float:
    """Σ_i s_i² E[(ŵ_i·x̂ − y_i)²] in shares of the target's variance Σ_i s_i² Var(y_i), on the calibration examples.

    Args:
        row_scale: N; s, such as what a norm behind the layer multiplies each neuron by; 1 by default.
    """
    extended = _extended(matrix, bias, moments)
    scale = torch.ones_like(moments.target_energy) if row_scale is None else row_scale.detach().to(moments.gram)
    explained = 2 * (extended * moments.cross.T).sum(dim=1) - (extended @ moments.gram * extended).sum(dim=1)
    squared = max(0.0, float(scale.square() @ (moments.target_energy - explained)))
    variance = float(scale.square() @ moments.target_variance)
    return squared / variance if variance > 0 else squared


def norm_scale(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Tensor:
    """N; what the norm multiplies each neuron by in eval mode: γ / √(running variance + ε).

    Raises:
        InputError: the norm has no running statistics.
    """
    if norm.running_var is None:
        raise InputError("a BatchNorm without running statistics depends on the batch; set track_running_stats")
    scale = (norm.running_var + norm.eps).rsqrt()
    return scale if norm.weight is None else norm.weight.detach() * scale


def shift_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d, bias: Tensor) -> None:
    """Let the norm take up, in eval mode, what a layer in front without a place for it would have as `bias`, N.

    Raises:
        InputError: the norm has no running statistics.
    """
    if norm.running_mean is None:
        raise InputError("a BatchNorm without running statistics depends on the batch; set track_running_stats")
    norm.running_mean -= bias.detach().to(norm.running_mean)
