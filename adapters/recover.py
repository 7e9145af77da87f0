"""Recovery, which is optional: the weights that stay are trained to say what the original network says, without labels.

Where everything sits, what is sent and what is dropped stay as planned. The result is no figure without retraining, and
says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from adapters.apply import apply_plan
from adapters.calibrate import batches_of, checked_inputs, evaluating
from adapters.graph import layer_graph
from adapters.importance import first_tensor
from adapters.kernels import outputs_as_rows
from adapters.plan import RECOVERED, PartitionPlan
from formulations.errors import InputError

#: In the warnings of a recovered plan.
WARNING = "its weights were trained after pruning (recovery); no figure of it is one without retraining"
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)

#: Examples in a step: more steps in an epoch than calibration batches would make, which are as large as memory allows.
_STEP = 64

Visit = Callable[[int, Tensor], None]


def recover(
    model: nn.Module,
    plan: PartitionPlan,
    calibration: Iterable[Tensor],
    *,
    epochs: int = 20,
    learning_rate: float = 1e-3,
    seed: int = 0,
    show: Callable[[str], None] = lambda text: None,
) -> PartitionPlan:
    """The plan with weights, biases and norm parameters trained towards the outputs of `model`, layer by layer.

    The loss is the mean over all planned layers of the squared error of their outputs, behind their norms, in shares
    of their variance, plus that of the network's outputs. Adam; statistics of norms stay as they are. The state with
    the least error of the network's outputs on the calibration examples is kept, the first one included. Ctrl-C ends
    the training with that. The same seed makes the same plan.

    Args:
        model: the original, which is left as it was.
        calibration: batches of inputs like those the model will see.
        epochs: passes over the batches.
        learning_rate: at the beginning; it falls to 0 by a half cosine.
        seed: of the order of the steps.
        show: hears the error after each epoch.

    Returns:
        The plan with other weights and the relative errors measured anew, `recovered` in its settings and a warning.

    Raises:
        InputError: the plan is for another model, one that gradients do not pass through, or data that cannot be used.
    """
    if epochs < 1 or not 0 < learning_rate < math.inf:
        raise InputError(f"epochs is {epochs} and learning_rate {learning_rate}; give at least 1, and a number > 0")
    batches = _checked(calibration)
    pupil = _Pupil(model, plan, batches[0])
    first, units = pupil.measured(batches)
    best, done = first, 0
    try:
        for state in _epochs(pupil, units, batches, epochs, learning_rate, seed):
            best, done = (state if state.output < best.output else best), done + 1  # NaN is not less than anything
            show(f"recovery: epoch {done} of {epochs}, output error {state.output:.4%}, at first {first.output:.4%}")
    except KeyboardInterrupt:
        pass
    said = {"epochs": done, "learning_rate": learning_rate, "seed": seed}
    return _recovered(plan, best, said | {"output_error_before": first.output, "output_error": best.output})


@dataclass(frozen=True, eq=False)
class _State:
    """What the network was at one time.

    Attributes:
        output: error of the network's outputs, in shares of their variance.
        layers: of each layer's, in the plan's order.
        weights: its `state_dict`, copied.
    """

    output: float
    layers: tuple[float, ...]
    weights: dict[str, Tensor]


class _Pupil:
    """The network as the plan has it, which learns from the original."""

    def __init__(self, model: nn.Module, plan: PartitionPlan, example: Tensor) -> None:
        """Raises InputError for a plan of another model."""
        self._model, self._pupil = model, apply_plan(model, plan)
        norms = {layer.name: layer.norm for layer in layer_graph(model, example).layers}
        self._layers = [layer.name for layer in plan.layers]
        self._norms = [norms[name] for name in self._layers]
        self.parameters = self._trained()

    def _trained(self) -> list[nn.Parameter]:
        """Those of planned layers and norms; all others are frozen."""
        self._pupil.requires_grad_(False)
        modules = [self._pupil.get_submodule(name) for name in self._layers]
        modules += [module for module in self._pupil.modules() if isinstance(module, _NORMS)]
        parameters = dict.fromkeys(parameter for module in modules for parameter in module.parameters())
        return [parameter.requires_grad_(True) for parameter in parameters]

    def errors(self, inputs: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Per layer, and in the end of the network: what is said less what should be, and the latter; rows × N."""
        wanted: dict[int, Tensor] = {}
        found: dict[int, tuple[Tensor, Tensor]] = {}

        def compare(place: int, rows: Tensor) -> None:
            # At once: an activation behind the layer may overwrite what it said.
            found[place] = (rows - wanted[place], wanted[place])

        with torch.no_grad():
            self._run(self._model, inputs, lambda place, rows: wanted.update({place: rows.clone()}))
        self._run(self._pupil, inputs, compare)
        return [found[place] for place in range(len(self._layers) + 1)]

    def _run(self, model: nn.Module, inputs: Tensor, visit: Visit) -> None:
        """A forward pass in eval mode; `visit` hears all outputs that count, as rows."""
        with ExitStack() as stack:
            for place in range(len(self._layers)):
                stack.enter_context(self._watched(model, place, visit))
            said = first_tensor(model(inputs.clone()))
        visit(len(self._layers), said.reshape(len(inputs), -1))

    @contextmanager
    def _watched(self, model: nn.Module, place: int, visit: Visit) -> Iterator[None]:
        layer, norm = model.get_submodule(self._layers[place]), self._norms[place]

        def call(module: nn.Module, args: object, output: Tensor) -> None:
            visit(place, outputs_as_rows(layer, output))  # a norm keeps the shape

        handle = (layer if norm is None else model.get_submodule(norm)).register_forward_hook(call)
        try:
            yield
        finally:
            handle.remove()

    def learn(self, inputs: Tensor, units: Sequence[float]) -> None:
        """Add the gradients of what training lowers, on one batch. Raises InputError where there are none."""
        try:
            self._loss(inputs, units).backward()
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"the model cannot be trained ({reason}); leave recovery out") from None

    def _loss(self, inputs: Tensor, units: Sequence[float]) -> Tensor:
        with self.evaluating(), torch.enable_grad():
            shares = [
                error.square().sum(dim=1).mean() / unit
                for (error, _), unit in zip(self.errors(inputs), units, strict=True)
            ]
            return torch.stack(shares[:-1]).mean() + shares[-1]

    def measured(self, batches: Sequence[Tensor]) -> tuple[_State, list[float]]:
        """The state as it is, and the variance of each layer's outputs and of the network's; 1 for those with none."""
        sums = [_Sums() for _ in range(len(self._layers) + 1)]
        with self.evaluating():
            for batch in batches:
                for entry, (error, wanted) in zip(sums, self.errors(batch), strict=True):
                    entry.add(error, wanted)
        units = [entry.variance or 1.0 for entry in sums]
        *layers, output = (entry.error / unit for entry, unit in zip(sums, units, strict=True))
        weights = {key: value.detach().clone() for key, value in self._pupil.state_dict().items()}
        return _State(output, tuple(layers), weights), units

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        with evaluating(self._model), evaluating(self._pupil):
            yield


class _Sums:
    """Squared errors, and the spread of what is wanted, over rows."""

    def __init__(self) -> None:
        self._count, self._error, self._energy, self._eps = 0, 0.0, 0.0, 0.0
        self._origin = self._offset = self._square = torch.zeros(())

    def add(self, error: Tensor, wanted: Tensor) -> None:
        """Add rows × N."""
        if self._count == 0:  # around 0, a large mean would swallow the spread
            self._origin, self._eps = wanted[0].double(), torch.finfo(wanted.dtype).eps
        offset = wanted.double() - self._origin
        self._count += len(wanted)
        self._error += float(error.double().square().sum())
        self._energy += float(wanted.double().square().sum())
        self._offset = self._offset + offset.sum(dim=0)
        self._square = self._square + offset.square().sum(dim=0)

    @property
    def error(self) -> float:
        """Σ_i E[(ŷ_i − y_i)²]"""
        return self._error / self._count

    @property
    def variance(self) -> float:
        """Σ_i Var(y_i); 0 where it is within rounding."""
        spread = float((self._square / self._count - (self._offset / self._count).square()).clamp(min=0).sum())
        return spread if spread > (4 * self._eps) ** 2 * self._energy / self._count else 0.0


def _epochs(
    pupil: _Pupil, units: Sequence[float], batches: Sequence[Tensor], epochs: int, learning_rate: float, seed: int
) -> Iterator[_State]:
    """The state after each pass over the batches, cut into steps, in an order drawn anew for each."""
    steps = [step for batch in batches for step in batch.split(_STEP)]
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(pupil.parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(steps))
    for _ in range(epochs):
        for number in torch.randperm(len(steps), generator=order).tolist():
            optimizer.zero_grad()
            pupil.learn(steps[number], units)
            optimizer.step()
            schedule.step()
        yield pupil.measured(batches)[0]


def _checked(calibration: Iterable[Tensor]) -> list[Tensor]:
    """All batches: they are gone through many times. Raises InputError."""
    batches = batches_of(calibration)
    if not batches or not isinstance(batches[0], Tensor):
        raise InputError("calibration holds no tensors; give batches of inputs, without labels")
    return [checked_inputs(f"calibration batch {number}", batch, batches[0]) for number, batch in enumerate(batches)]


def _recovered(plan: PartitionPlan, state: _State, said: dict[str, float]) -> PartitionPlan:
    """The plan with the weights of `state`, which it says it has."""
    return replace(
        plan,
        layers=tuple(
            replace(layer, relative_error=error) for layer, error in zip(plan.layers, state.layers, strict=True)
        ),
        weights=state.weights,
        settings={**plan.settings, RECOVERED: said},
        warnings=tuple(dict.fromkeys([*plan.warnings, WARNING])),
    )
