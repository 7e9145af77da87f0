"""A small network trained on scikit-learn's handwritten digits, once and the same everywhere."""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from benchmarks.models.base import BenchmarkModel
from formulations.errors import InputError
from formulations.files import write_file

_CACHE = Path(__file__).resolve().parents[2] / ".cache"
_SEED = 0
_EPOCHS = 60
_BATCH = 64
#: Changes with anything that changes the trained weights.
_VERSION = 1


def digits_mlp() -> BenchmarkModel:
    """64-256-256-10 with ReLU; 80 % of the 1,797 digits train it and calibrate, 20 % are held back."""
    train_inputs, train_labels, test_inputs, test_labels = _split()
    model = _cached(train_inputs, train_labels)
    return BenchmarkModel("digits-mlp", model, train_inputs.split(256), test_inputs, test_labels)


def _split() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(
        (images / 16.0).astype(np.float32), labels, test_size=0.2, random_state=_SEED, stratify=labels
    )
    train_inputs, test_inputs, train_labels, test_labels = (torch.from_numpy(part) for part in parts)
    return train_inputs, train_labels, test_inputs, test_labels


def _untrained() -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(64, 256),
            relu1=nn.ReLU(),
            fc2=nn.Linear(256, 256),
            relu2=nn.ReLU(),
            fc3=nn.Linear(256, 10),
        )
    )


def _cached(inputs: Tensor, labels: Tensor) -> nn.Sequential:
    path = _CACHE / f"digits-mlp-{_VERSION}-torch-{torch.__version__.partition('+')[0]}.safetensors"
    model = _untrained().eval()
    try:
        model.load_state_dict(load_file(path))
        return model
    except (OSError, SafetensorError, RuntimeError):
        model = _train(inputs, labels)  # not there yet, or damaged
    try:
        write_file(path, lambda file: file.write(save(model.state_dict())))
    except InputError as error:
        print(f"the trained model is not cached: {error}", file=sys.stderr)
    return model


def _train(inputs: Tensor, labels: Tensor) -> nn.Sequential:
    num_threads = torch.get_num_threads()
    # One thread: sums in one order, so the same weights on every machine of a kind.
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            model = _untrained()
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
            for _ in range(_EPOCHS):
                for batch in torch.randperm(len(inputs)).split(_BATCH):
                    loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
    finally:
        torch.set_num_threads(num_threads)
    return model.eval()
