"""A small residual CNN for 8×8 images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu

from benchmarks.models.residual import ResidualBlock, SeparableBlock


class DigitsCNN(nn.Module):
    """Every kind of layer that a modern small CNN has, on 1×8×8 inputs; 152,714 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(32)
        self.block1 = ResidualBlock(32, 32)
        self.separable = SeparableBlock(32)
        self.down = ResidualBlock(32, 64, stride=2)
        self.block2 = ResidualBlock(64, 64)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = relu(self.stem_bn(self.stem(images)))
        x = self.separable(self.block1(x))
        x = self.block2(self.down(x))
        return self.head(self.pool(x).flatten(1))
