"""Residual CNNs of any size, to measure what planning costs in time and memory.

They are never trained and their labels are random, so they have no accuracy to speak of.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from benchmarks.models.base import BenchmarkModel
from benchmarks.models.residual import ResidualBlock

_BATCH = 32
_NUM_CLASSES = 10
#: Untrained kernels are more alike than trained ones. With this spread the logarithms of the norms of 3×3 kernels
#: have a standard deviation of 0.3; in the trained digits CNN it is 0.25 to 0.32.
_KERNEL_SPREAD = 0.25


class WideCNN(nn.Module):
    """ResNet-18 as it is used on small images, with `width` channels in the first of its four stages."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(width)
        self.stage1 = _stage(width, width, stride=1)
        self.stage2 = _stage(width, 2 * width, stride=2)
        self.stage3 = _stage(2 * width, 4 * width, stride=2)
        self.stage4 = _stage(4 * width, 8 * width, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8 * width, _NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = relu(self.stem_bn(self.stem(images)))
        x = self.stage4(self.stage3(self.stage2(self.stage1(x))))
        return self.head(self.pool(x).flatten(1))


def _stage(num_inputs: int, num_outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(num_inputs, num_outputs, stride), ResidualBlock(num_outputs, num_outputs))


def wide_cnn(width: int, image_size: int = 32, num_examples: int = 128, seed: int = 0) -> BenchmarkModel:
    """`WideCNN` with random weights on random images.

    Args:
        width: 6 gives 0.10 million parameters, 16 0.70, 32 2.8, 64 11.2 and 88 21.1 million.
        image_size: height and width of the images; what a forward pass takes grows with its square.
        num_examples: calibration images, and as many held back.
        seed: of weights, images and labels.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = WideCNN(width)
        calibration, test_inputs = torch.randn(2, num_examples, 3, image_size, image_size)
        labels = torch.randint(_NUM_CLASSES, (num_examples,))
        _spread_kernels(model)
        _set_batch_norms(model, calibration[:_BATCH])
    return BenchmarkModel(f"wide-cnn-{width}", model.eval(), calibration.split(_BATCH), test_inputs, labels)


def _spread_kernels(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            num_outputs, num_inputs = module.weight.shape[:2]
            module.weight *= torch.exp(_KERNEL_SPREAD * torch.randn(num_outputs, num_inputs, 1, 1))


def _set_batch_norms(model: nn.Module, images: Tensor) -> None:
    """Gives them the statistics that the images have, so that activations keep their size from layer to layer."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # nothing of the values it was made with
    model.train()(images)
