"""The blocks that the convolutional benchmark models are made of, written as anybody would write them."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut, which is a 1×1 convolution where the shape changes."""

    def __init__(self, num_inputs: int, num_outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_inputs, num_outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_outputs)
        self.conv2 = nn.Conv2d(num_outputs, num_outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or num_inputs != num_outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(num_inputs, num_outputs, 1, stride, bias=False), nn.BatchNorm2d(num_outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return relu(out + self.shortcut(x))


class SeparableBlock(nn.Module):
    """A 3×3 convolution of every channel by itself, then a 1×1 convolution across them, beside a plain shortcut."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(num_channels, num_channels, 3, padding=1, groups=num_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(num_channels)
        self.pointwise = nn.Conv2d(num_channels, num_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_channels)

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.depthwise(x)))
        out = self.bn2(self.pointwise(out))
        return relu(out + x)
