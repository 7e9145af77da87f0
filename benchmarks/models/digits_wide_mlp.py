"""A network on the handwritten digits that is large enough to be worth several machines."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn

from benchmarks.models.base import BenchmarkModel
from benchmarks.models.digits import _benchmark
from benchmarks.models.training import Recipe


def digits_wide_mlp(seed: int = 0) -> BenchmarkModel:
    """64-4096-4096-10 with ReLU, 17 million weights, on the split of `digits_mlp`.

    The first call takes a minute or two; 68 MB are cached.

    Args:
        seed: as `digits_mlp`.
    """
    return _benchmark(_WIDE_MLP, seed, (64,))


def _untrained() -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(64, 4096),
            relu1=nn.ReLU(),
            fc2=nn.Linear(4096, 4096),
            relu2=nn.ReLU(),
            fc3=nn.Linear(4096, 10),
        )
    )


def _cosine(done: float) -> float:
    return 1e-3 * (1 + math.cos(math.pi * done)) / 2


_WIDE_MLP = Recipe("digits-wide-mlp", 1, _untrained, epochs=6, learning_rate=_cosine)
