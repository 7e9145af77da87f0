"""What a layer sees on calibration data, as streamed second moments.

Shapes: M inputs, N neurons. Sums are float64; memory does not grow with the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapters.graph import Layer, layers_of
from formulations.errors import InputError


@dataclass(frozen=True, eq=False)
class Moments:
    """Means over calibration examples for one layer, inputs extended by a constant 1 that stands for the bias.

    Attributes:
        gram: (M+1)×(M+1), E[x̂ x̂ᵀ] of the inputs.
        cross: (M+1)×N, E[x̂ yᵀ] with the target outputs.
        target_energy: Σ_i E[y_i²] of the target outputs.
        target_variance: Σ_i Var(y_i); 0 where it is within the outputs' rounding.
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
        self.gram = self.cross = torch.zeros((), dtype=torch.float64)
        self.target_origin = self.offset_sum = self.offset_square = torch.zeros((), dtype=torch.float64)
        self.target_eps = 0.0

    def add(self, inputs: Tensor, target: Tensor) -> None:
        x = torch.cat([inputs.double(), inputs.new_ones(len(inputs), 1, dtype=torch.float64)], dim=1)
        y = target.double()
        if self.count == 0:
            # Spread is summed around the first example: around 0, a large mean would swallow it.
            self.target_origin, self.target_eps = y[0], torch.finfo(target.dtype).eps
        offset = y - self.target_origin
        self.count += len(x)
        self.gram = self.gram + x.T @ x
        self.cross = self.cross + x.T @ y
        self.offset_sum = self.offset_sum + offset.sum(dim=0)
        self.offset_square = self.offset_square + offset.square().sum(dim=0)

    def moments(self) -> Moments:
        offset = self.offset_sum / self.count
        variances = (self.offset_square / self.count - offset.square()).clamp(min=0)
        variance = float(variances.sum())
        energy = variance + float((self.target_origin + offset).square().sum())
        if variance <= (4 * self.target_eps) ** 2 * energy:
            variance = 0.0  # nothing but rounding, which must not become the unit of costs
        return Moments(self.gram / self.count, self.cross / self.count, energy, variance)


def measure(
    model: nn.Module, original: nn.Module, names: Sequence[str], batches: Iterable[Tensor]
) -> dict[str, Moments]:
    """Moments of each named layer: its inputs in `model`, its outputs in `original` as the target.

    Models and batches are left as they were.

    Raises:
        InputError: no batches, one that the original cannot take, or activations that are not finite.
    """
    sums = {name: _Sums() for name in names}
    same = model is original
    first = layers_of(original)[0]
    with _recorded(model, names) as seen, _recorded(original, names) as wanted:
        for number, batch in enumerate(batches):
            inputs = checked_inputs(f"calibration batch {number}", batch, first)
            # Cloned: an in-place activation in front of the first layer would overwrite the caller's data.
            model(inputs.clone())
            if not same:
                original(inputs.clone())
            for name in names:
                sums[name].add(seen[name][0], wanted[name][1])
    if any(entry.count == 0 for entry in sums.values()):
        raise InputError("there are no calibration batches; give at least one")
    return {name: _finite(name, entry.moments()) for name, entry in sums.items()}


def checked_inputs(what: str, inputs: object, first: Layer) -> Tensor:
    """`inputs` if they are a batch that `first`, a model's first layer, can take.

    Raises:
        InputError: anything else, called `what`.
    """
    if not isinstance(inputs, Tensor):
        raise InputError(
            f"{what} is a {type(inputs).__name__}; give the inputs alone, without labels, as one tensor of "
            f"examples × {first.num_inputs} features"
        )
    if inputs.ndim < 2 or inputs.shape[-1] != first.num_inputs:
        raise InputError(
            f"{what} has shape {tuple(inputs.shape)}; layer {first.name!r} needs examples × {first.num_inputs} features"
        )
    if inputs.shape[:-1].numel() == 0:
        raise InputError(f"{what} is empty; give finite examples")
    if inputs.dtype != first.dtype:
        raise InputError(f"{what} is {inputs.dtype}, the model {first.dtype}; convert one with .to(dtype)")
    if inputs.device != first.device:
        raise InputError(f"{what} is on {inputs.device}, the model on {first.device}; move one with .to(device)")
    if not bool(torch.isfinite(inputs).all()):
        raise InputError(f"{what} holds NaN or infinite values; give finite examples")
    return inputs


def _finite(name: str, moments: Moments) -> Moments:
    sums = bool(torch.isfinite(moments.gram).all()) and bool(torch.isfinite(moments.cross).all())
    if not (sums and math.isfinite(moments.target_energy)):
        raise InputError(
            f"layer {name!r} has activations on the calibration data that are NaN, infinite or too large to be "
            "squared; check the model's weights and the range of the data"
        )
    return moments


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """`model` in eval mode and without gradients; then every module is back in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


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
    try:
        with evaluating(model):
            yield latest
    finally:
        for handle in handles:
            handle.remove()
