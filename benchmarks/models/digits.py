"""Small networks trained on scikit-learn's handwritten digits, once and the same everywhere."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from benchmarks.models.base import BenchmarkModel
from benchmarks.models.digits_cnn import DigitsCNN
from benchmarks.models.training import Recipe

_SPLIT_SEED = 0


def digits_mlp(seed: int = 0) -> BenchmarkModel:
    """64-256-256-10 with ReLU; 80 % of the 1,797 digits train it and calibrate, 20 % are held back.

    Args:
        seed: of the training; the split is always the same.
    """
    return trained_on_digits(_MLP, seed, (64,))


def digits_cnn(seed: int = 0) -> BenchmarkModel:
    """`DigitsCNN` on the same split, trained on shifted digits and calibrated on them as they are.

    Args:
        seed: as `digits_mlp`.
    """
    return trained_on_digits(_CNN, seed, (1, 8, 8))


def trained_on_digits(recipe: Recipe, seed: int, shape: tuple[int, ...]) -> BenchmarkModel:
    """The network that the recipe makes of the digits, given to it in this shape."""
    train_inputs, train_labels, test_inputs, test_labels = _split()
    train_inputs, test_inputs = train_inputs.reshape(-1, *shape), test_inputs.reshape(-1, *shape)
    model = recipe.trained(train_inputs, train_labels, seed)
    return BenchmarkModel(recipe.named(seed), model, train_inputs.split(256), test_inputs, test_labels)


def _split() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(
        (images / 16.0).astype(np.float32), labels, test_size=0.2, random_state=_SPLIT_SEED, stratify=labels
    )
    train_inputs, test_inputs, train_labels, test_labels = (torch.from_numpy(part) for part in parts)
    return train_inputs, train_labels, test_inputs, test_labels


def untrained_mlp(width: int) -> nn.Sequential:
    """Two hidden layers of this width, with ReLU."""
    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(64, width),
            relu1=nn.ReLU(),
            fc2=nn.Linear(width, width),
            relu2=nn.ReLU(),
            fc3=nn.Linear(width, 10),
        )
    )


def _shifted(images: Tensor) -> Tensor:
    """The batch moved by up to one pixel each way."""
    down, right = torch.randint(3, (2,)).tolist()
    return pad(images, (1, 1, 1, 1))[..., down : down + 8, right : right + 8]


def cosine(highest: float) -> Callable[[float], float]:
    """A learning rate that falls from the highest to 0, by the share of the training that is done."""
    return lambda done: highest * (1 + math.cos(math.pi * done)) / 2


_MLP = Recipe("digits-mlp", 1, lambda: untrained_mlp(256), epochs=60, learning_rate=lambda done: 1e-3)
_CNN = Recipe("digits-cnn", 1, DigitsCNN, epochs=20, learning_rate=cosine(3e-3), augment=_shifted)
