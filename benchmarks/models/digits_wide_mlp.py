"""A network on the handwritten digits that is large enough to be worth several machines."""

from __future__ import annotations

from benchmarks.models.base import BenchmarkModel
from benchmarks.models.digits import cosine, trained_on_digits, untrained_mlp
from benchmarks.models.training import Recipe


def digits_wide_mlp(seed: int = 0) -> BenchmarkModel:
    """64-4096-4096-10 with ReLU, 17 million weights, on the split of `digits_mlp`.

    The first call takes a minute or two; 68 MB are cached.

    Args:
        seed: as `digits_mlp`.
    """
    return trained_on_digits(_WIDE_MLP, seed, (64,))


_WIDE_MLP = Recipe("digits-wide-mlp", 1, lambda: untrained_mlp(4096), epochs=6, learning_rate=cosine(1e-3))
