"""What a layer sees on calibration data, as streamed second moments.

Shapes: N neurons, M inputs, k weights per kernel (1 for Linear). Sums are float64, on the model's device; memory does
not grow with the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.kernels import WeightLayer, outputs_as_rows, patch_chunks, positions, sizes
from formulations.errors import InputError

#: Output positions of one layer and batch that enter. Their product costs a second or so where M·k is 1152.
MOST_ROWS = 16384
#: Patches held at once: 150 MB where M·k is 4608 in float64.
_CHUNK_ROWS = 4096
#: Columns of the gram matrix summed at once; its other triangle is a mirror, which saves a third of the time.
_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Moments:
    """Means over output positions of all examples for one layer; patches extended by a constant 1 for the bias.

    Attributes:
        gram: (M·k+1)×(M·k+1), E[x̂ x̂ᵀ] of the patches.
        cross: (M·k+1)×N, E[x̂ yᵀ] with the target outputs.
        target_energy: N; E[y_i²] of the target outputs.
        target_variance: N; Var(y_i); all 0 where their sum is within the outputs' rounding.
    """

    gram: Tensor
    cross: Tensor
    target_energy: Tensor
    target_variance: Tensor

    @property
    def mean(self) -> Tensor:
        """M·k; E[x]."""
        return self.gram[-1, :-1]

    @property
    def input_energy(self) -> Tensor:
        """M·k; E[x_j²]."""
        return self.gram.diagonal()[:-1]

    def own(self, k: int) -> Tensor:
        """M×k×k; E[x_j x_jᵀ] of each input by itself."""
        blocks = self.gram[:-1, :-1].unflatten(1, (-1, k)).unflatten(0, (-1, k))
        return blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0)


@dataclass(frozen=True, eq=False)
class KernelMoments:
    """The part of `Moments` that knows each input by itself: all that wide layers can afford for a start.

    Attributes:
        blocks: M×k×k; E[x_j x_jᵀ].
        mean: M·k; E[x].
        target_energy, target_variance: as in `Moments`.
    """

    blocks: Tensor
    mean: Tensor
    target_energy: Tensor
    target_variance: Tensor

    def own(self, k: int) -> Tensor:
        """M×k×k; E[x_j x_jᵀ] of each input by itself."""
        return self.blocks


def kernel_energy(matrix: Tensor, moments: Moments | KernelMoments, k: int, *, centred: bool = False) -> NDArray[Any]:
    """N×M, float64: E[(w_ij · x_j)²], the energy of what each kernel adds; for k = 1, w² E[x²].

    Args:
        matrix: N×(M·k).
        centred: the variance of it instead, which is what is left to explain where a bias takes up the mean.
    """
    own = moments.own(k)
    if centred:
        mean = moments.mean.unflatten(0, (-1, k))
        own = own - mean[:, :, None] * mean[:, None, :]
    kernels = matrix.detach().to(own).unflatten(1, (-1, k)).transpose(0, 1)
    # Rounding may leave a kernel that adds nothing a little below 0.
    return ((kernels @ own) * kernels).sum(dim=-1).clamp(min=0).T.cpu().numpy()


def measure(
    model: nn.Module,
    original: nn.Module,
    names: Sequence[str],
    batches: Iterable[Tensor],
    example: Tensor,
    report: Callable[[str], None] = lambda text: None,
) -> dict[str, Moments]:
    """`measure_kernels` of all there is to know about each layer."""
    found = measure_kernels(model, original, names, batches, example, report)
    return {name: moments for name, moments in found.items() if isinstance(moments, Moments)}


def measure_kernels(
    model: nn.Module,
    original: nn.Module,
    names: Sequence[str],
    batches: Iterable[Tensor],
    example: Tensor,
    report: Callable[[str], None] = lambda text: None,
    widest: float = math.inf,
) -> dict[str, Moments | KernelMoments]:
    """Moments of each named layer: its patches in `model`, its outputs in `original` as the target.

    Models and batches are left as they were. Where a layer has more than `MOST_ROWS` output positions in a batch, and
    more than 4·M·k, evenly spaced ones stand for all, always the same, at least one per example on average.

    Args:
        names: Linear, Conv1d or Conv2d modules that run once in a forward pass.
        example: what a batch must be like but for the number of examples.
        report: hears of each batch that is done.
        widest: layers of more columns M·k have the moments of each input by itself.

    Raises:
        InputError: no batches, one that is not like `example`, a layer that does not run once, or activations that
            are not finite.
    """
    sums = {name: _Sums(model.get_submodule(name), widest) for name in names}  # type: ignore[arg-type]
    targets: dict[str, Tensor] = {}

    def keep(name: str, inputs: Tensor, output: Tensor) -> None:
        targets[name] = outputs_as_rows(sums[name].layer, output, sums[name].chosen(output)[0])

    def add(name: str, inputs: Tensor, output: Tensor) -> None:
        if model is original:
            keep(name, inputs, output)
        sums[name].add(inputs, *sums[name].chosen(output), targets.pop(name))

    number, total = 0, f" of {len(batches)}" if isinstance(batches, Sized) else ""
    for number, batch in enumerate(batches, start=1):
        inputs = checked_inputs(f"calibration batch {number - 1}", batch, example)
        if model is not original:
            _visit(original, names, inputs, keep)
        _visit(model, names, inputs, add)
        report(f"batch {number}{total}")
    if number == 0:
        raise InputError("there are no calibration batches; give at least one")
    return {name: _finite(name, entry.moments()) for name, entry in sums.items()}


class _Sums:
    """Sums over positions for one layer."""

    def __init__(self, layer: WeightLayer, widest: float) -> None:
        num_neurons, num_inputs, k = sizes(layer)
        self.width, self.kernel, self.full = num_inputs * k, k, num_inputs * k <= widest

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=layer.weight.device)

        self.layer, self.count, self.target_eps = layer, 0.0, 0.0
        if self.full:
            self.gram, self.cross = zeros(self.width + 1, self.width + 1), zeros(self.width + 1, num_neurons)
        else:
            self.gram, self.mean = zeros(num_inputs, k, k), zeros(self.width)
        self.target_origin, self.offset_sum, self.offset_square = (zeros(num_neurons) for _ in range(3))

    def chosen(self, output: Tensor) -> tuple[Tensor, float]:
        """The positions that enter, evenly spaced, and how many positions each of them stands for."""
        shape = positions(self.layer, output)
        total, examples = shape.numel(), shape[0] if shape else 1
        most = max(MOST_ROWS, 4 * self.width, examples)
        if total <= most:
            return torch.arange(total, device=output.device), 1.0
        # With no factor in common, the spacing comes by all positions of an example equally often, borders as well.
        while math.gcd(most, examples) > 1:
            most -= 1
        return torch.arange(most, device=output.device) * total // most, total / most

    def add(self, inputs: Tensor, rows: Tensor, weight: float, target: Tensor) -> None:
        """Add the patches of `inputs` at the positions `rows`, each `weight` times, with `target`, rows × N."""
        if self.count == 0:
            # Spread is summed around the first position: around 0, a large mean would swallow it.
            self.target_origin, self.target_eps = target[0].double(), torch.finfo(target.dtype).eps
        for seen, said in zip(
            patch_chunks(self.layer, inputs, rows, _CHUNK_ROWS), target.split(_CHUNK_ROWS), strict=True
        ):
            # In float64 all the way: float32 products are hardly faster on a CPU and break where means are large.
            y = said.double()
            self._add_patches(seen, y, weight)
            offset = y - self.target_origin
            self.count += weight * len(y)
            self.offset_sum += weight * offset.sum(dim=0)
            self.offset_square += weight * offset.square().sum(dim=0)

    def _add_patches(self, seen: Tensor, y: Tensor, weight: float) -> None:
        if not self.full:
            x = seen.double()
            self.mean.add_(x.sum(dim=0), alpha=weight)
            by_input = x.unflatten(1, (-1, self.kernel)).transpose(0, 1)
            self.gram.baddbmm_(by_input.transpose(1, 2), by_input, alpha=weight)
            return
        x = seen.new_ones(len(seen), len(self.gram), dtype=torch.float64)
        x[:, :-1] = seen
        for start in range(0, len(self.gram), _BLOCK):
            block = slice(start, start + _BLOCK)
            self.gram[block, start:].addmm_(x[:, block].T, x[:, start:], alpha=weight)
        self.cross.addmm_(x.T, y, alpha=weight)

    def moments(self) -> Moments | KernelMoments:
        offset = self.offset_sum / self.count
        variance = (self.offset_square / self.count - offset.square()).clamp(min=0)
        energy = variance + (self.target_origin + offset).square()
        if float(variance.sum()) <= (4 * self.target_eps) ** 2 * float(energy.sum()):
            variance = torch.zeros_like(variance)  # nothing but rounding, which must not become the unit of costs
        if not self.full:
            return KernelMoments(self.gram / self.count, self.mean / self.count, energy, variance)
        gram = self.gram.triu() + self.gram.triu(1).T
        return Moments(gram / self.count, self.cross / self.count, energy, variance)


def batches_of(calibration: Iterable[Tensor]) -> list[Tensor]:
    """All batches: they are gone through more than once, and a generator can be only once. Raises InputError."""
    if isinstance(calibration, Tensor):
        raise InputError("calibration is one tensor; give batches, such as data.split(256)")
    try:
        batches = iter(calibration)
    except TypeError as error:
        raise InputError(f"calibration cannot be gone through ({error}); give a list of batches") from None
    return list(batches)


def checked_inputs(what: str, inputs: object, example: Tensor) -> Tensor:
    """`inputs` if they are a batch like `example`, of any number of examples.

    Raises:
        InputError: anything else, called `what`.
    """
    needed = " × ".join(["examples", *map(str, example.shape[1:])])
    if not isinstance(inputs, Tensor):
        raise InputError(
            f"{what} is a {type(inputs).__name__}; give the inputs alone, without labels, as one tensor of {needed}"
        )
    if inputs.ndim != example.ndim or inputs.shape[1:] != example.shape[1:]:
        raise InputError(f"{what} has shape {tuple(inputs.shape)}; the example inputs have {needed}")
    if inputs.numel() == 0:
        raise InputError(f"{what} is empty; give finite examples")
    if inputs.dtype != example.dtype:
        raise InputError(f"{what} is {inputs.dtype}, the example {example.dtype}; convert one with .to(dtype)")
    if inputs.device != example.device:
        raise InputError(f"{what} is on {inputs.device}, the example on {example.device}; move one with .to(device)")
    if not bool(torch.isfinite(inputs).all()):
        raise InputError(f"{what} holds NaN or infinite values; give finite examples")
    return inputs


def _finite(name: str, moments: Moments | KernelMoments) -> Moments | KernelMoments:
    parts = vars(moments).values()
    if not all(bool(torch.isfinite(part).all()) for part in parts):
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


class _AllSeen(BaseException):
    """Ends a forward pass; not an Exception, which a model may catch."""


def _visit(
    model: nn.Module, names: Sequence[str], inputs: Tensor, visit: Callable[[str, Tensor, Tensor], None]
) -> None:
    """One forward pass, as far as the last of the named modules; `visit` hears name, inputs and output of each.

    Raises:
        InputError: one of them does not run once.
    """
    unseen = set(names)

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor], Tensor], None]:
        def call(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> None:
            if name not in unseen:
                raise InputError(f"layer {name!r} runs more than once in a forward pass; give each use its own module")
            unseen.remove(name)
            # At once: an in-place activation behind the layer will overwrite what it said.
            visit(name, args[0] if args else kwargs["input"], output)
            if not unseen:
                raise _AllSeen

        return call

    modules = [(name, model.get_submodule(name)) for name in names]
    handles = [module.register_forward_hook(hook(name), with_kwargs=True) for name, module in modules]
    try:
        with evaluating(model):
            model(inputs.clone())  # an in-place activation in front of the first layer would overwrite the caller's
    except _AllSeen:
        pass
    except InputError:
        raise
    except Exception as error:  # whatever the model's own code or torch says
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"the model cannot run on calibration data of shape {tuple(inputs.shape)}: {said[0]}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if unseen:
        raise InputError(f"layer {min(unseen)!r} does not run in a forward pass; leave it out")
