"""Upper bounds of how much a linear operation lengthens what it is given (its spectral norm).

Power iteration would find lower bounds; these are never too small, up to the rounding of float64.

Shapes: N neurons, M channels read, k… the extents of a kernel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

#: Multiplications of the singular values at all frequencies that are worth their time: some seconds.
_MOST_WORK = 4e9


def matrix_norm(matrix: Tensor) -> float:
    """The largest singular value of one matrix, or of any of several, … × N × M."""
    return float(torch.linalg.matrix_norm(matrix.detach(), ord=2).max()) if matrix.numel() else 0.0


def nonnegative_norm(run: Callable[[Tensor], Tensor], shape: Sequence[int]) -> float:
    """Of A, where `run` is x ↦ A x + c with A ≥ 0: ‖A‖² ≤ its largest column sum × its largest row sum.

    Exact where all rows have one sum and all columns have one: moves, means, windows that do not overlap.

    Args:
        shape: of x, examples first; at least two, so that it shows if they are mixed.

    Raises:
        ValueError: an example's outputs depend on other examples, or the numbers are not float64.
    """
    nothing = torch.zeros(*shape, dtype=torch.float64)
    constant = run(nothing)
    if constant.dtype != torch.float64:
        raise ValueError(f"computes in {constant.dtype}")
    if len(constant) != len(nothing):
        raise ValueError("mixes examples")
    for index in range(len(nothing)):
        alone = nothing.clone()
        alone[index] = 1.0
        reached = (run(alone) - constant).flatten(1).any(dim=1)
        reached[index] = False
        if reached.any():
            raise ValueError("mixes examples")
    with torch.enable_grad():
        ones = torch.ones_like(nothing).requires_grad_()
        made = run(ones)
        columns = torch.autograd.grad(made.sum(), ones)[0]
    return math.sqrt(float(columns.max()) * float((made.detach() - constant).max()))


def windows_over(kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> int:
    """The most windows that one position can lie in.

    Along an axis, offset t of a window at position o lies at o·stride + t·dilation; a position leaves one o for each t,
    and the t that leave a whole o are stride / gcd(stride, dilation) apart.
    """
    steps = (s // math.gcd(s, d) for s, d in zip(stride, dilation, strict=True))
    return math.prod(-(-k // step) for k, step in zip(kernel, steps, strict=True))


def convolution_norm(
    weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int, positions: Sequence[int]
) -> float:
    """The least of several bounds for a convolution of zero-padded images.

    Args:
        weight: N × (M / groups) × k….
        positions: the extent of what it makes.
    """
    kernels = weight.detach().double().unflatten(0, (groups, -1))  # groups × N / groups × M / groups × k…
    bounds = [_by_taps(kernels), _by_patches(kernels, stride, dilation), _by_sums(kernels)]
    phases = _phases(kernels, stride, dilation)
    lengths = [count + k - 1 for count, k in zip(positions, phases.shape[3:], strict=True)]
    _, rows, columns = phases.shape[:3]
    if groups * rows * columns * min(rows, columns) * math.prod(lengths) <= _MOST_WORK:
        bounds.append(_by_frequencies(phases, lengths))
    return min(bounds)


def _by_taps(kernels: Tensor) -> float:
    """The convolution is a sum over taps; each shifts the image and multiplies channels by one matrix."""
    taps = kernels.flatten(3).movedim(-1, 0)
    return float(torch.linalg.matrix_norm(taps, ord=2).sum(dim=0).max())


def _by_patches(kernels: Tensor, stride: Sequence[int], dilation: Sequence[int]) -> float:
    """One matrix for all patches, where each number lies in so many; and the same for the transposed convolution."""
    size = kernels.shape[3:]
    forward = matrix_norm(kernels.flatten(2)) * math.sqrt(windows_over(size, stride, dilation))
    return min(forward, matrix_norm(kernels.transpose(1, 2).flatten(2)) * math.sqrt(size.numel()))


def _by_sums(kernels: Tensor) -> float:
    """‖A‖² ≤ ‖A‖₁ ‖A‖_∞."""
    entries = kernels.abs().flatten(3).sum(dim=-1)
    return math.sqrt(float((entries.sum(dim=1).amax(dim=1) * entries.sum(dim=2).amax(dim=1)).max()))


def _phases(kernels: Tensor, stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """The kernel of the same convolution with stride and dilation 1, on images cut into stride × stride blocks.

    A block's positions become channels: groups × N × (M · stride…) × k'….
    """
    axes = len(stride)
    spans = [d * (k - 1) + 1 for k, d in zip(kernels.shape[3:], dilation, strict=True)]
    spread = kernels.new_zeros(*kernels.shape[:3], *spans)
    own = tuple(slice(None, None, d) for d in dilation)
    spread[(slice(None),) * 3 + own] = kernels
    spread = F.pad(
        spread, list(itertools.chain(*((0, -n % s) for n, s in zip(spans[::-1], stride[::-1], strict=True))))
    )
    for axis, step in enumerate(stride):
        place = 3 + 2 * axis  # the axes before have left their steps in front
        spread = spread.unflatten(place, (-1, step)).movedim(place + 1, 2)
    return spread.flatten(2, 2 + axes)


def _by_frequencies(kernels: Tensor, lengths: Sequence[int]) -> float:
    """The largest singular value at any frequency of a torus of so many positions.

    On a torus the Fourier transform takes a convolution apart into one matrix per frequency. Zero-padded images are
    those that vanish in places, and what is made of them is a part of what the torus makes if it is long enough for
    the kernel not to reach around: the outputs and k' − 1 more.
    """
    axes = tuple(range(3, 3 + len(lengths)))
    at = torch.fft.rfftn(kernels, s=tuple(lengths), dim=axes)  # the other half is its conjugate
    return matrix_norm(at.flatten(3).movedim(-1, 0))
