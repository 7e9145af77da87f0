"""What a benchmark needs of a model, and finding one by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapters.user_code import UserFunction
from formulations.errors import InputError, nearest

_BUILT_IN = {
    "digits-mlp": "benchmarks.models.digits:digits_mlp",
    "digits-cnn": "benchmarks.models.digits:digits_cnn",
    "digits-wide-mlp": "benchmarks.models.digits_wide_mlp:digits_wide_mlp",
}
#: Examples at a time, so that a large held-back split needs no more memory than this many.
_BATCH = 512


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

    @property
    def example(self) -> Tensor:
        """A batch of inputs. Raises InputError where there is none."""
        try:
            return self.calibration[0]
        except (IndexError, KeyError, TypeError) as error:
            raise InputError(
                f"model {self.name!r}: calibration has no batches ({error}); give a list of them"
            ) from None

    def check(self) -> None:
        """Raises InputError where the model cannot be judged by the held-back split."""
        try:
            num_examples, shape = len(self.logits(self.model)), tuple(self.test_labels.shape)
        except Exception as error:  # whatever torch says of inputs or labels that do not fit
            raise InputError(
                f"model {self.name!r} cannot be judged by its test_inputs and test_labels: {error}"
            ) from None
        if shape != (num_examples,):
            raise InputError(
                f"model {self.name!r}: test_labels has shape {shape}; {num_examples} test_inputs need as many"
            )

    def logits(self, model: nn.Module) -> Tensor:
        """What `model` says of the held-back split."""
        with torch.no_grad():
            return torch.cat([model(batch) for batch in self.test_inputs.split(_BATCH)])

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
        InputError: no such model, module or factory, it fails, or it returns something else.
    """
    spec = _BUILT_IN.get(name, name)
    if ":" not in spec:
        raise InputError(f"model {name!r} is unknown; give package.module:factory, or {nearest(name, _BUILT_IN)}")
    made = UserFunction.find("model", spec, "no arguments")()
    if not isinstance(made, BenchmarkModel):
        raise InputError(f"model {name!r}: the factory returns a {type(made).__name__}, not a BenchmarkModel")
    return made
