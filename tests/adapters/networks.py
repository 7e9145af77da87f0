"""Small networks, each with one structure that trained networks have, and what they are called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Calls(nn.Module):
    """Modules by name, and a function that calls them."""

    def __init__(self, run: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self._run = run

    def forward(self, *inputs: Tensor) -> Any:
        """`run`, given this module first."""
        return self._run(self, *inputs)


def _conv(num_inputs: int, num_outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(num_inputs, num_outputs, kernel, padding=kernel // 2, **options)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 7), nn.GELU(), nn.Dropout(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))


def _residual() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x).relu()
        x = (x + m.bn2(m.conv2(m.bn1(m.conv1(x)).relu()))).relu()
        return m.head(x.mean((2, 3)))

    return Calls(
        run, stem=_conv(3, 7), conv1=_conv(7, 5, bias=False), bn1=nn.BatchNorm2d(5), conv2=_conv(5, 7, bias=False),
        bn2=nn.BatchNorm2d(7), head=nn.Linear(7, 4),
    )  # fmt: skip


def _preactivation() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = x + m.conv2(m.conv1(m.bn(x).relu()))
        return m.head(m.final(x).relu().amax((2, 3)))

    return Calls(
        run, stem=_conv(3, 5), bn=nn.BatchNorm2d(5), conv1=_conv(5, 4), conv2=_conv(4, 5), final=nn.BatchNorm2d(5),
        head=nn.Linear(5, 3),
    )  # fmt: skip


def _concat() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        first, second = m.a(x).relu(), m.b(x)
        return m.head(m.c(torch.cat([first, second, x], 1)).flatten(1))

    return Calls(run, a=_conv(3, 4), b=_conv(3, 5, 1), c=_conv(12, 6), head=nn.Linear(6 * 64, 3))


def _dense() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        first = m.a(x).relu()
        both = torch.cat([m.b(first), first], 1)
        return m.head(torch.cat([both, m.c(both)], 1).mean((2, 3)))

    return Calls(run, a=_conv(3, 4), b=_conv(4, 5, 1), c=_conv(9, 3), head=nn.Linear(12, 3))


def _chunk() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        gate, value = m.both(x).chunk(2, dim=1)
        first, rest = m.split((gate.sigmoid() * value).relu()).split([2, 3], dim=1)
        return m.head(first), m.tail(rest)

    return Calls(run, both=nn.Linear(6, 8), split=nn.Linear(4, 5), head=nn.Linear(2, 3), tail=nn.Linear(3, 2))


def _flatten() -> nn.Module:
    return nn.Sequential(
        _conv(1, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(80, 6), nn.Linear(6, 3)
    )


def _separable() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.bn1(m.stem(x)).relu()
        x = x + m.bn3(m.point(m.bn2(m.depth(x)).relu()))
        return m.head(F.adaptive_avg_pool2d(m.wide(x), 1).flatten(1))

    return Calls(
        run, stem=_conv(3, 5), bn1=nn.BatchNorm2d(5), depth=_conv(5, 5, groups=5), bn2=nn.BatchNorm2d(5),
        point=_conv(5, 5, 1), bn3=nn.BatchNorm2d(5), wide=_conv(5, 10, groups=5), head=nn.Linear(10, 3),
    )  # fmt: skip


def _grouped() -> nn.Module:
    return nn.Sequential(_conv(3, 6), nn.ReLU6(), _conv(6, 8, groups=2), nn.Flatten(), nn.Linear(8 * 64, 3))


def _group_norm() -> nn.Module:
    return nn.Sequential(_conv(3, 8), nn.GroupNorm(4, 8), nn.SiLU(), _conv(8, 6), nn.GroupNorm(1, 6), _conv(6, 3))


def _layer_norm() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.embed(x)
        x = x + m.down(F.gelu(m.up(m.norm(x))))
        return m.head(m.final(x))

    return Calls(
        run, embed=nn.Linear(4, 7), norm=nn.LayerNorm(7), up=nn.Linear(7, 9), down=nn.Linear(9, 7),
        final=nn.LayerNorm(7), head=nn.Linear(7, 3),
    )  # fmt: skip


def _input_added() -> nn.Module:
    return Calls(lambda m, x: m.head((m.body(x) + x).relu()), body=nn.Linear(5, 5), head=nn.Linear(5, 3))


def _squeeze_excite() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x).relu()
        scale = m.up(m.down(F.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()
        return m.head(x * scale)

    return Calls(run, stem=_conv(3, 6), down=_conv(6, 2, 1), up=_conv(2, 6, 1), head=_conv(6, 3))


def _spatial_attention() -> nn.Module:
    return Calls(
        lambda m, x: m.head(m.mask(m.stem(x)).sigmoid() * m.stem2(x)),
        stem=_conv(3, 4), stem2=_conv(3, 5), mask=_conv(4, 1), head=_conv(5, 3),
    )  # fmt: skip


def _in_place() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.a(x)
        kept = x.clone()
        x.relu_()
        x.add_(m.b(kept))
        x[:, :2] = kept[:, 2:4]
        return m.c(x.view(x.size(0), -1))

    return Calls(run, a=nn.Linear(4, 6), b=nn.Linear(6, 6), c=nn.Linear(6, 3))


def _functional() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = F.conv2d(m.a(x), m.b.weight, m.b.bias, stride=2).relu()
        return m.c(x.flatten(1))

    return Calls(run, a=_conv(3, 4), b=nn.Conv2d(4, 5, 2), c=nn.Linear(80, 4, bias=False))


def _flat_first() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))


def _conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 5, 3, padding=1), nn.BatchNorm1d(5), nn.ELU(), nn.Conv1d(5, 7, 3, dilation=2), nn.AvgPool1d(2),
        nn.Conv1d(7, 3, 1),
    )  # fmt: skip


def _padded() -> nn.Module:
    return nn.Sequential(
        _conv(3, 4), nn.ReLU(), nn.ZeroPad2d(2), nn.Conv2d(4, 5, 3), nn.Upsample(scale_factor=2),
        nn.Conv2d(5, 3, 3, padding=1, padding_mode="circular"),
    )  # fmt: skip


def _shared_input() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x).relu()
        return m.q(x) * m.k(m.drop(x)) + m.v(x)

    return Calls(run, stem=nn.Linear(4, 6), drop=nn.Dropout(), q=nn.Linear(6, 5), k=nn.Linear(6, 5), v=nn.Linear(6, 5))


def _mixer() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.embed(x)
        x = x + m.tokens(x.transpose(1, 2)).transpose(1, 2)
        return m.head(x)

    return Calls(run, embed=nn.Linear(3, 5), tokens=nn.Linear(4, 4), head=nn.Linear(5, 2))


def _zero_channels() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x).relu()
        x = m.wide(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2))
        return m.head(x)

    return Calls(run, stem=_conv(3, 4), wide=_conv(4, 7, stride=2), head=_conv(7, 3))


def _shuffle() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.b(F.channel_shuffle(m.a(x), 2))
        return m.c(F.pixel_shuffle(x, 2))

    return Calls(run, a=_conv(3, 6), b=_conv(6, 8, groups=2), c=_conv(2, 3))


def _softmax() -> nn.Module:
    return Calls(lambda m, x: m.c(m.b(m.a(x).softmax(-1))), a=nn.Linear(4, 6), b=nn.Linear(6, 5), c=nn.Linear(5, 3))


def _attention() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.embed(x)
        x = m.norm(x + m.attend(x, x, x)[0])
        return m.head(x)

    return Calls(
        run, embed=nn.Linear(3, 6), attend=nn.MultiheadAttention(6, 2, batch_first=True), norm=nn.LayerNorm(6),
        head=nn.Linear(6, 2),
    )  # fmt: skip


def _transposed() -> nn.Module:
    return nn.Sequential(_conv(3, 5), nn.ReLU(), nn.ConvTranspose2d(5, 4, 2, stride=2), _conv(4, 3))


def _resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=6, hidden_sizes=[6, 9], depths=[1, 2], layer_type="basic", num_labels=5, num_channels=3
    )
    return ResNetForImageClassification(config)


def _mobilenet() -> nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    return MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.1, min_depth=4, num_labels=5))


_IMAGE = (3, 8, 8)
#: Each network's factory, and the shape of one example of its input.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (_mlp, (6,)),
    "residual": (_residual, _IMAGE),
    "preactivation": (_preactivation, _IMAGE),
    "concat": (_concat, _IMAGE),
    "dense": (_dense, _IMAGE),
    "chunk": (_chunk, (6,)),
    "flatten": (_flatten, (1, 8, 8)),
    "separable": (_separable, _IMAGE),
    "grouped": (_grouped, _IMAGE),
    "group_norm": (_group_norm, _IMAGE),
    "layer_norm": (_layer_norm, (4,)),
    "input_added": (_input_added, (5,)),
    "squeeze_excite": (_squeeze_excite, _IMAGE),
    "spatial_attention": (_spatial_attention, _IMAGE),
    "in_place": (_in_place, (4,)),
    "functional": (_functional, _IMAGE),
    "flat_first": (_flat_first, (3, 2, 2)),
    "conv1d": (_conv1d, (2, 12)),
    "padded": (_padded, _IMAGE),
    "shared_input": (_shared_input, (4,)),
    "mixer": (_mixer, (4, 3)),
    "zero_channels": (_zero_channels, _IMAGE),
    "shuffle": (_shuffle, _IMAGE),
    "softmax": (_softmax, (4,)),
    "attention": (_attention, (4, 3)),
    "transposed": (_transposed, _IMAGE),
    "resnet": (_resnet, (3, 16, 16)),
    "mobilenet": (_mobilenet, (3, 32, 32)),
}


def network(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    """The network in eval mode, with norms that do something, and three examples; always the same numbers."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model = make().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.to(dtype), torch.randn(3, *shape, dtype=dtype)
