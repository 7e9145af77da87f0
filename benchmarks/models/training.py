"""Training that gives the same weights every time, and a cache of what it gave."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from formulations.errors import InputError
from formulations.files import write_file

_CACHE = Path(__file__).resolve().parents[2] / ".cache"
_BATCH = 64


@dataclass(frozen=True)
class Recipe:
    """A kind of network and how it is trained.

    Attributes:
        name: tells it from the others in the cache.
        version: changes with anything that changes the trained weights.
        untrained: makes the network.
        epochs: passes over the examples.
        learning_rate: by the share of the training that is done.
        augment: what is done to each batch of inputs.
    """

    name: str
    version: int
    untrained: Callable[[], nn.Module]
    epochs: int
    learning_rate: Callable[[float], float]
    augment: Callable[[Tensor], Tensor] = lambda inputs: inputs

    def named(self, seed: int) -> str:
        """The name of one of its networks; seed 0 is the one that everybody means."""
        return self.name if seed == 0 else f"{self.name}-seed-{seed}"

    def trained(self, inputs: Tensor, labels: Tensor, seed: int) -> nn.Module:
        """The network in eval mode, trained now or loaded from when it was.

        Args:
            inputs, labels: the examples, the same at every call: the cache does not know them.
            seed: of the first weights, the order of the examples and the augmentation.
        """
        file_name = f"{self.named(seed)}-{self.version}-torch-{torch.__version__.partition('+')[0]}.safetensors"
        path = _CACHE / file_name
        model = self.untrained().eval()
        try:
            model.load_state_dict(load_file(path))
            return model
        except (OSError, SafetensorError, RuntimeError):
            model = self._train(inputs, labels, seed)  # not there yet, or damaged
        try:
            write_file(path, lambda file: file.write(save(model.state_dict())))
        except InputError as error:
            print(f"the trained model is not cached: {error}", file=sys.stderr)
        return model

    def _train(self, inputs: Tensor, labels: Tensor, seed: int) -> nn.Module:
        num_threads = torch.get_num_threads()
        # One thread: sums in one order, so the same weights on every machine of a kind.
        torch.set_num_threads(1)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return self._fit(inputs, labels).eval()
        finally:
            torch.set_num_threads(num_threads)

    def _fit(self, inputs: Tensor, labels: Tensor) -> nn.Module:
        model = self.untrained()
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
        for epoch in range(self.epochs):
            optimizer.param_groups[0]["lr"] = self.learning_rate(epoch / self.epochs)
            for batch in torch.randperm(len(inputs)).split(_BATCH):
                loss = nn.functional.cross_entropy(model(self.augment(inputs[batch])), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return model
