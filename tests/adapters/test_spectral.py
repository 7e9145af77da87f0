"""Spectral norms from above, held against singular values of the operations written out as matrices."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from adapters import spectral
from adapters.spectral import convolution_norm, matrix_norm, nonnegative_norm, windows_over


def test_a_matrix_by_hand() -> None:
    """[[3, 0], [4, 0]] makes vectors five times as long."""
    assert matrix_norm(torch.tensor([[3.0, 0.0], [4.0, 0.0]])) == pytest.approx(5.0)


def test_windows_by_counting() -> None:
    """As many as a list of all windows says."""
    for k, s, d in itertools.product(range(1, 6), range(1, 5), range(1, 5)):
        seen = [o * s + t * d for o in range(60) for t in range(k)]
        assert windows_over([k], [s], [d]) == max(seen.count(place) for place in range(40, 52)), (k, s, d)
    assert windows_over([3, 2], [1, 2], [1, 1]) == 3


#: Stride, dilation, padding and groups.
_CONVOLUTIONS = [
    ((1, 1), (1, 1), 0, 1),
    ((1, 1), (1, 1), 1, 1),
    ((1, 1), (1, 1), 1, 2),
    ((2, 2), (1, 1), 0, 1),
    ((2, 1), (1, 1), 1, 1),
    ((1, 1), (2, 2), 2, 1),
    ((3, 3), (2, 2), 1, 1),
    ((2, 2), (3, 3), 3, 1),
]


def _exact(weight: Tensor, size: tuple[int, ...], **options: Any) -> tuple[float, Tensor]:
    """The largest singular value of the convolution of such images, and what it makes of one."""
    run = F.conv2d if weight.ndim == 4 else F.conv1d
    image = torch.zeros(1, weight.shape[1] * options.get("groups", 1), *size, dtype=torch.float64)
    made = run(image, weight, **options)
    jacobian = torch.autograd.functional.jacobian(lambda x: run(x, weight, **options), image)
    return matrix_norm(jacobian.reshape(made.numel(), image.numel())), made


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(("stride", "dilation", "padding", "groups"), _CONVOLUTIONS)
def test_convolutions_are_bounded(
    stride: Any, dilation: Any, padding: int, groups: int, quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never below the matrix's norm, and close to it where frequencies are looked at: images are small here."""
    if quick:
        monkeypatch.setattr(spectral, "_MOST_WORK", 0)
    for seed in range(3):
        torch.manual_seed(seed)
        weight = torch.randn(4, 3, 3, 2, dtype=torch.float64)
        exact, made = _exact(weight, (9, 7), stride=stride, dilation=dilation, padding=padding, groups=groups)
        bound = convolution_norm(weight, stride, dilation, groups, made.shape[2:])
        assert exact * (1 - 1e-12) <= bound
        assert quick or bound <= 1.2 * exact


def test_each_bound_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each alone is no less than the norm, on kernels with signs, without, and with dropped entries."""
    monkeypatch.setattr(spectral, "_MOST_WORK", 0)
    for seed, stride in itertools.product(range(6), (1, 2)):
        torch.manual_seed(seed)
        weight = torch.randn(5, 4, 3, 3, dtype=torch.float64)
        weight = [weight, weight.abs(), weight * (torch.rand(5, 4, 1, 1) < 0.3)][seed % 3]
        exact = _exact(weight, (8, 8), stride=stride, padding=1)[0] * (1 - 1e-12)
        assert exact <= spectral._by_taps(weight[None])
        assert exact <= spectral._by_patches(weight[None], (stride, stride), (1, 1))
        assert exact <= spectral._by_sums(weight[None])


def test_pointwise_convolution_is_its_matrix() -> None:
    """1×1 kernels have no positions to add up."""
    weight = torch.randn(4, 3, 1, dtype=torch.float64)
    assert convolution_norm(weight, (1,), (1,), 1, (6,)) == pytest.approx(matrix_norm(weight[..., 0]))


def test_blocks_of_images_by_hand() -> None:
    """A kernel of ones over two positions: side by side √2, overlapping 2 at most, √3 on the two outputs of three."""
    weight = torch.ones(1, 1, 2, dtype=torch.float64)
    assert convolution_norm(weight, (2,), (1,), 1, (4,)) == pytest.approx(math.sqrt(2))
    assert math.sqrt(3) <= convolution_norm(weight, (1,), (1,), 1, (2,)) <= 2.0 + 1e-12


def test_sums_by_hand() -> None:
    """Means over four, windows side by side and overlapping, repetition, and a constant that does not count."""
    assert nonnegative_norm(lambda x: x.mean(1, keepdim=True), (2, 4)) == pytest.approx(0.5)
    assert nonnegative_norm(lambda x: F.avg_pool1d(x, 2), (2, 1, 6)) == pytest.approx(math.sqrt(0.5))
    assert nonnegative_norm(lambda x: F.avg_pool1d(x, 2, 1), (2, 1, 6)) == pytest.approx(1.0)
    assert nonnegative_norm(lambda x: x.repeat(1, 3), (2, 4)) == pytest.approx(math.sqrt(3))
    assert nonnegative_norm(lambda x: F.pad(x, (2, 1), value=7.0).flip(1), (2, 4)) == pytest.approx(1.0)


@pytest.mark.parametrize("run", [lambda x: x.flip(0), lambda x: x.transpose(0, 1), lambda x: x.mean(0, keepdim=True)])
def test_examples_stay_apart(run: Any) -> None:
    """Examples that are swapped, become channels or are averaged are refused."""
    with pytest.raises(ValueError, match="mixes examples"):
        nonnegative_norm(run, (2, 2))
