"""What a benchmark needs of a model, and finding one by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from formulations.errors import InputError, nearest

_BUILT_IN = {"digits-mlp": "benchmarks.models.digits:digits_mlp"}


@dataclass(frozen=True, eq=False)
class BenchmarkModel:
    """A trained model with the data to calibrate and to judge it.

    Attributes:
        name: for tables.
        model: trained, in eval mode.
        calibration: batches of inputs from the training split.
        test_inputs, test_labels: the held-back split; only ever used to judge.
    """

    name: str
    model: nn.Module
    calibration: Sequence[Tensor]
    test_inputs: Tensor
    test_labels: Tensor

    def logits(self, model: nn.Module) -> Tensor:
        """What `model` says of the held-back split."""
        with torch.no_grad():
            return model(self.test_inputs)

    def accuracy(self, logits: Tensor) -> float:
        return float((logits.argmax(dim=1) == self.test_labels).double().mean())

    def output_error(self, logits: Tensor) -> float:
        """Squared distance to the original's outputs on the held-back split, in shares of their variance."""
        original = self.logits(self.model).double()
        spread = (original - original.mean(dim=0)).square().sum()
        return float((logits.double() - original).square().sum() / spread)


def load_model(name: str) -> BenchmarkModel:
    """A built-in model, or what `package.module:factory` returns.

    Raises:
        InputError: no such model, module or factory, or it returns something else.
    """
    spec = _BUILT_IN.get(name, name)
    module_name, colon, factory_name = spec.partition(":")
    if not colon or not module_name or not factory_name:
        raise InputError(f"model {name!r} is unknown; {nearest(name, _BUILT_IN)} Or give package.module:factory")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(f"model {name!r}: {error}; check the name, and that it can be imported from here") from None
    factory: Callable[[], object] | None = getattr(module, factory_name, None)
    if not callable(factory):
        raise InputError(f"model {name!r}: module {module_name!r} has no function {factory_name!r}")
    made = factory()
    if not isinstance(made, BenchmarkModel):
        raise InputError(f"model {name!r}: the factory returns a {type(made).__name__}, not a BenchmarkModel")
    return made
