"""What a layer sees on calibration data, as streamed second moments.

Shapes: M inputs, N neurons. Sums are float64; memory does not grow with the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from formulations.errors import InputError


@dataclass(frozen=True, eq=False)
class Moments:
    """Means over calibration examples for one layer, inputs extended by a constant 1 that stands for the bias.

    Attributes:
        gram: (M+1)×(M+1), E[x̂ x̂ᵀ] of the inputs.
        cross: (M+1)×N, E[x̂ yᵀ] with the target outputs.
        target_energy: Σ_i E[y_i²] of the target outputs.
        target_variance: Σ_i Var(y_i).
    """

    gram: Tensor
    cross: Tensor
    target_energy: float
    target_variance: float

    @property
    def input_energy(self) -> Tensor:
        """M; E[x_j²]."""
        return self.gram.diagonal()[:-1]


class _Sums:
    def __init__(self) -> None:
        self.count = 0
        self.gram = self.cross = self.target_sum = self.target_square = torch.zeros((), dtype=torch.float64)

    def add(self, inputs: Tensor, target: Tensor) -> None:
        x = torch.cat([inputs.double(), inputs.new_ones(len(inputs), 1, dtype=torch.float64)], dim=1)
        y = target.double()
        self.count += len(x)
        self.gram = self.gram + x.T @ x
        self.cross = self.cross + x.T @ y
        self.target_sum = self.target_sum + y.sum(dim=0)
        self.target_square = self.target_square + y.square().sum(dim=0)

    def moments(self) -> Moments:
        energy = self.target_square / self.count
        variance = (energy - (self.target_sum / self.count).square()).clamp(min=0)
        return Moments(self.gram / self.count, self.cross / self.count, float(energy.sum()), float(variance.sum()))


def measure(
    model: nn.Module, original: nn.Module, names: Sequence[str], batches: Iterable[Tensor]
) -> dict[str, Moments]:
    """Moments of each named layer: its inputs in `model`, its outputs in `original` as the target.

    Raises:
        InputError: no batches, an empty batch, or values that are not finite.
    """
    sums = {name: _Sums() for name in names}
    same = model is original
    with torch.no_grad(), _recorded(model, names) as seen, _recorded(original, names) as wanted:
        for number, batch in enumerate(batches):
            if len(batch) == 0 or not bool(torch.isfinite(batch).all()):
                state = "is empty" if len(batch) == 0 else "holds NaN or infinite values"
                raise InputError(f"calibration batch {number} {state}; give finite examples")
            model(batch)
            if not same:
                original(batch)
            for name in names:
                sums[name].add(seen[name][0], wanted[name][1])
    if any(entry.count == 0 for entry in sums.values()):
        raise InputError("there are no calibration batches; give at least one")
    return {name: entry.moments() for name, entry in sums.items()}


@contextmanager
def _recorded(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Inputs and outputs of the named modules of the latest forward pass, flattened to examples × features."""
    latest: dict[str, tuple[Tensor, Tensor]] = {}

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # Cloned: an in-place activation behind the layer would overwrite what it said.
            latest[name] = (inputs[0].flatten(0, -2).clone(), output.flatten(0, -2).clone())

        return hook

    handles = [model.get_submodule(name).register_forward_hook(record(name)) for name in names]
    was_training = model.training
    model.eval()
    try:
        yield latest
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
