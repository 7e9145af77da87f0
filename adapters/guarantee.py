"""How far a changed network's outputs can be from the original's: measured, and bounded layer by layer.

Let f be an operation of the original network, g the same with the changed weights, x its inputs as the original has
them and x' as the changed network has them. Then

    ‖g(x') − f(x)‖  ≤  ‖g(x') − g(x)‖ + ‖g(x) − f(x)‖  ≤  Lip(g) ‖x' − x‖ + ‖g(x) − f(x)‖.

So a bound of each operation's error follows from those of what it reads and from its own error, which is measured on
the original's activations. Where paths are added, their bounds are; where they are put side by side, the squares. For
a chain this is the sum over layers of the later layers' Lip times the own error (MATH.md, section 7). Norms are
Euclidean, over all numbers of one example. Lip is never less than the true one, up to the rounding of float64, in
which everything is computed.

Shapes: B examples, N neurons and M channels of a layer, k weights of a kernel.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from adapters.spectral import convolution_norm, matrix_norm, nonnegative_norm, windows_over
from adapters.tracing import trace
from formulations.errors import InputError

#: One number in, one number out, with slope 1 at most.
_SLOPE_ONE = frozenset(
    """
    abs alpha_dropout atan celu clamp clamp_max clamp_min cos dropout feature_dropout hardtanh log_sigmoid neg relu
    relu6 sin softsign tanh
    """.split()
)
#: The largest slope, rounded up.
_SLOPES = {"gelu": 1.129, "hardsigmoid": 0.16667, "hardswish": 1.5, "selu": 1.7582, "sigmoid": 1 / 4, "silu": 1.1}
#: Sums of the numbers that they read with weights >= 0, and a constant.
_NONNEGATIVE = frozenset(
    """
    adaptive_avg_pool1d adaptive_avg_pool2d alias avg_pool1d avg_pool2d channel_shuffle chunk clone contiguous detach
    expand expand_as flatten flip mean movedim narrow numpy_T pad permute pixel_shuffle pixel_unshuffle repeat reshape
    roll select slice split split_with_sizes squeeze sum swapaxes t tile to _to_copy transpose unbind unflatten
    _unsafe_view unsqueeze upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d view
    """.split()
)
_LAYERS = frozenset(["conv1d", "conv2d", "linear"])


@dataclass(frozen=True)
class LayerError:
    """One Linear or convolution, with the BatchNorm that alone reads it.

    Attributes:
        relative_error: squared error of its outputs on the original's activations, in shares of their variance.
        lipschitz: no less than that of the changed layer; None where no bound reaches it.
    """

    name: str
    relative_error: float
    lipschitz: float | None


@dataclass(frozen=True, eq=False)
class Guarantee:
    """What the changed network's outputs are off by, for each example.

    Attributes:
        layers: in the order they run.
        output: B; the norm of the original's outputs.
        measured: B; the norm of the difference.
        bound: B; no less than `measured`; None where there is none.
        reason: why there is no bound; empty where there is one.
    """

    layers: tuple[LayerError, ...]
    output: NDArray[np.float64]
    measured: NDArray[np.float64]
    bound: NDArray[np.float64] | None
    reason: str = ""

    def __str__(self) -> str:
        rows = [("layer", "rel. error", "Lipschitz")]
        for layer in self.layers:
            factor = "-" if layer.lipschitz is None else f"{layer.lipschitz:.4g}"
            rows.append((layer.name, f"{layer.relative_error:.3%}", factor))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"{name:<{widths[0]}}  {error:>{widths[1]}}  {slope:>{widths[2]}}" for name, error, slope in rows]
        lines.append(f"error of the outputs, in shares of their norm, on {len(self.output)} examples:")
        lines.append(f"measured    {self._shares(self.measured)}")
        bound = f"not available, because {self.reason}" if self.bound is None else self._shares(self.bound)
        lines.append(f"guaranteed  {bound}")
        return "\n".join(lines)

    def _shares(self, error: NDArray[np.float64]) -> str:
        share = error / np.where(self.output > 0, self.output, 1.0)
        return f"mean {share.mean():.4g}, largest {share.max():.4g}"


def guarantee(model: nn.Module, weights: Mapping[str, Tensor], inputs: Tensor | Sequence[Tensor]) -> Guarantee:
    """Measure and bound the error of `model` with other weights; the model is left as it was.

    Args:
        weights: the changed network's `state_dict`, 0 where weights are dropped, such as `plan.weights`.
        inputs: the examples to measure on, along the first dimension.

    Raises:
        InputError: the model cannot be traced, or the weights are not for it.
    """
    exact = copy.deepcopy(model).cpu().double()
    given = [tensor.cpu() for tensor in ((inputs,) if isinstance(inputs, Tensor) else inputs)]
    batch = tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in given)
    program = trace(exact, batch)
    comparison = _Comparison(program, _checked(program, weights))
    with torch.no_grad():
        for part, count in _parts(program, batch):
            comparison.run(part, count)
    return comparison.result()


def _checked(program: ExportedProgram, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All that the program reads beside its inputs, as the changed network has it. Raises InputError."""
    changed = {**program.constants, **program.state_dict}
    for key, value in program.state_dict.items():
        new = weights.get(key)
        if new is None or new.shape != value.shape:
            found = "are missing" if new is None else f"have shape {tuple(new.shape)}, not {tuple(value.shape)}"
            raise InputError(f"the changed weights {key!r} {found}; give the state_dict of the same network")
        changed[key] = new.detach().to(value)
    return changed


def _parts(program: ExportedProgram, batch: tuple[Tensor, ...]) -> Iterator[tuple[tuple[Tensor, ...], int]]:
    """As many examples at a time as the program takes, the last repeated where there are too few; how many count."""
    first = next(node for node in program.graph.nodes if node.name == program.graph_signature.user_inputs[0])
    size, total = len(first.meta["val"]), len(batch[0])
    for start in range(0, total, size):
        rows = torch.arange(start, start + size).clamp(max=total - 1)
        yield tuple(tensor[rows] for tensor in batch), min(size, total - start)


@dataclass(frozen=True, eq=False)
class _Value:
    """What an operation makes.

    Attributes:
        original, changed: in either network.
        mixed: by the changed operation from the original's inputs.
        bound: B; of the norm of changed − original, or why there is none; None for a constant.
    """

    original: Any
    changed: Any
    mixed: Any
    bound: Tensor | str | None


@dataclass
class _Sums:
    """One layer's error and variance, over examples and positions.

    Attributes:
        moments: 2×N; sums of the original's outputs and of their squares.
    """

    name: str
    error: float = 0.0
    count: int = 0
    moments: Any = 0.0

    def add(self, outputs: Tensor, error: Tensor, dim: int) -> None:
        rows = outputs.movedim(dim, -1).flatten(0, -2)
        self.error += float(error.square().sum())
        self.count += len(rows)
        self.moments = self.moments + torch.stack([rows.sum(dim=0), rows.square().sum(dim=0)])

    @property
    def relative(self) -> float:
        variance = float((self.moments[1] - self.moments[0].square() / self.count).sum())
        return self.error / variance if variance > 0 else self.error


class _NoBoundError(Exception):
    """Says why."""


@dataclass
class _Comparison:
    """Both networks side by side, operation by operation."""

    program: ExportedProgram
    weights: Mapping[str, Tensor]
    factors: dict[str, float] = field(default_factory=dict)
    layers: dict[str, _Sums] = field(default_factory=dict)
    rows: list[Tensor] = field(default_factory=list)
    bounds: list[Tensor | str] = field(default_factory=list)

    def result(self) -> Guarantee:
        layers = [LayerError(sums.name, sums.relative, self.factors.get(node)) for node, sums in self.layers.items()]
        output, measured = torch.cat(self.rows).T.numpy()
        reasons = [bound for bound in self.bounds if isinstance(bound, str)]
        bound = None if reasons else torch.cat([bound for bound in self.bounds if isinstance(bound, Tensor)]).numpy()
        return Guarantee(tuple(layers), output, measured, bound, reasons[0] if reasons else "")

    def run(self, batch: tuple[Tensor, ...], count: int) -> None:
        """One forward pass of both networks, of which the first `count` examples are counted."""
        self.values: dict[str, Any] = self._given(batch)
        self.examples, self.count = len(batch[0]), count
        for node in self.program.graph.nodes:
            if node.op == "get_attr":
                self.values[node.name] = functools.reduce(getattr, node.target.split("."), self.program.graph_module)
            elif node.op == "call_function":
                self.values[node.name] = self._call(node)
        values = [self.values[name] for name in self.program.graph_signature.user_outputs]
        outputs = [value for value in values if isinstance(value, _Value) and value.bound is not None]
        for value in outputs:
            if not _is_by_example(value.original, len(batch[0])):
                shape, dtype = tuple(value.original.shape), value.original.dtype
                raise InputError(f"an output has shape {shape} and is {dtype}; errors need real numbers by example")
        original = _norms(*(value.original for value in outputs))
        measured = _norms(*(value.changed - value.original for value in outputs))
        self.rows.append(torch.stack([original, measured], dim=1)[:count])
        try:
            self.bounds.append(_root_sum([value.bound for value in outputs])[:count])
        except _NoBoundError as reason:
            self.bounds.append(str(reason))

    def _given(self, batch: tuple[Tensor, ...]) -> dict[str, Any]:
        """Inputs, which are the same in both networks, and weights."""
        signature, own = self.program.graph_signature, {**self.program.constants, **self.program.state_dict}
        keys = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        keys |= signature.inputs_to_lifted_tensor_constants
        values: dict[str, Any] = {
            name: _Value(own[key], self.weights[key], self.weights[key], None) for name, key in keys.items()
        }
        for name, tensor in zip(signature.user_inputs, batch, strict=True):
            values[name] = _Value(tensor, tensor, tensor, torch.zeros(len(tensor), dtype=torch.float64))
        return values

    # One operation

    def _call(self, node: fx.Node) -> Any:
        if _kind(node) == "getitem":
            return self._argument(node.args[0])[node.args[1]]
        original = self._made(node, lambda value: value.original)
        if not any(isinstance(part, Tensor) for part in _flat(original)):
            return original  # a size, or an assertion
        changed = self._made(node, lambda value: value.changed)
        before = self._source(node) if self._is_folded_norm(node) else None
        mixed = self._made(node, lambda value: value.mixed if value.bound is None or before else value.original)
        bound = self._bound(node, original, mixed, before)
        if isinstance(original, Tensor):
            return _Value(original, changed, mixed, bound)
        # What holds for all parts together holds for each.
        return [_Value(*parts, bound) for parts in zip(original, changed, mixed, strict=True)]

    def _made(self, node: fx.Node, of: Callable[[_Value], Any]) -> Any:
        def read(arg: Any) -> Any:
            value = self._argument(arg)
            if isinstance(value, list):
                return [of(part) if isinstance(part, _Value) else part for part in value]
            return of(value) if isinstance(value, _Value) else value

        return node.target(*map(read, node.args), **{key: read(arg) for key, arg in node.kwargs.items()})  # type: ignore[operator]

    def _argument(self, arg: Any) -> Any:
        if isinstance(arg, fx.Node):
            return self.values[arg.name]
        return [self._argument(item) for item in arg] if isinstance(arg, list | tuple) else arg

    def _bound(self, node: fx.Node, original: Any, mixed: Any, before: fx.Node | None) -> Tensor | str | None:
        """Of the norm of what the two networks make here; why there is none; None where both make a constant."""
        values = _tracked([self._argument(arg) for arg in (*node.args, *node.kwargs.values())])
        if not values:
            return None
        bound: Tensor | str
        try:
            _require(not self._is_folded_layer(node), node, "counts with the norm behind it")
            parts = [
                (now, then)
                for now, then in zip(_flat(mixed), _flat(original), strict=True)
                if _is_float(then) and then.numel()
            ]
            _require(bool(parts), node, "has no Lipschitz constant")
            apart = all(_is_by_example(then, self.examples) for _, then in parts)
            _require(apart, node, "puts several examples together")
            own = _norms(*(now - then for now, then in parts))
            self._count(before or node, node, _flat(original)[0], own)
            read = values if before is None else [self._argument(before.args[0])]
            bound = own + self._passed_on(node, read, original)
        except _NoBoundError as reason:
            bound = str(reason)
        return bound

    def _count(self, layer: fx.Node, node: fx.Node, outputs: Tensor, own: Tensor) -> None:
        """Add the error of a layer, behind its norm if `node` is that, to its sums."""
        if _kind(layer) in _LAYERS:
            sums = self.layers.setdefault(node.name, _Sums(self._layer_name(layer)))
            sums.add(outputs[: self.count], own[: self.count], -1 if _kind(layer) == "linear" else 1)

    def _passed_on(self, node: fx.Node, values: list[_Value], original: Any) -> Tensor:
        """What becomes of the errors of what is read. Raises _NoBoundError."""
        kind = _kind(node)
        _root_sum([value.bound for value in values])
        if kind in ("add", "sub"):
            return self._added(node, original)
        if kind in ("cat", "stack"):
            _require(self._named(node).get("dim", 0) % original.ndim != 0, node, "puts several examples together")
            return _root_sum([value.bound for value in values])
        _require(len(values) == 1, node, "combines activations in a way that has no Lipschitz constant")
        if node.name not in self.factors:
            self.factors[node.name] = self._factor(node, values[0].changed, original)
        return self.factors[node.name] * _root_sum([values[0].bound])

    def _added(self, node: fx.Node, original: Tensor) -> Tensor:
        named, total = self._named(node), torch.zeros(self.examples, dtype=torch.float64)
        for value, scale in ((self._first(named), 1.0), (named["other"], abs(float(named.get("alpha", 1))))):
            if isinstance(value, _Value) and value.bound is not None:
                total = total + scale * _repeated(node, value.original, original) * _root_sum([value.bound])
        return total

    # Lipschitz constants

    def _factor(self, node: fx.Node, changed: Tensor, made: Any) -> float:
        """No less than the Lipschitz constant of the changed operation. Raises _NoBoundError.

        Args:
            changed: an activation that it reads.
            made: what it makes.
        """
        kind, named = _kind(node), self._named(node)
        if kind in _SLOPE_ONE or kind in _SLOPES:
            _require(not named.get("training", named.get("train", False)), node, "is random")
            _require(named.get("approximate", "none") == "none", node, "is approximated")
            return _SLOPES.get(kind, 1.0)
        if kind in _NONNEGATIVE:
            return self._sum_factor(node, changed)
        rule = {
            "amax": self._maximum, "amin": self._maximum, "batch_norm": self._batch_norm, "conv1d": self._layer,
            "conv2d": self._layer, "div": self._scaled, "elu": self._elu, "leaky_relu": self._leaky_relu,
            "linear": self._layer, "max_pool1d": self._max_pool, "max_pool2d": self._max_pool,
            "max_pool2d_with_indices": self._max_pool, "mul": self._scaled,
            "_native_batch_norm_legit_no_training": self._batch_norm, "prelu": self._prelu,
        }.get(kind)  # fmt: skip
        _require(rule is not None, node, "has no Lipschitz constant that is known")
        assert rule is not None
        return float(rule(node, named, changed, made))

    def _sum_factor(self, node: fx.Node, changed: Tensor) -> float:
        def run(inputs: Tensor) -> Tensor:
            made = self._made(node, lambda value: value.original if value.bound is None else inputs)
            return torch.cat([part.flatten(1) for part in _flat(made)], dim=1)

        try:
            return nonnegative_norm(run, changed.shape)
        except ValueError as error:
            raise _NoBoundError(f"{_where(node)}: {_kind(node)} {error}") from None

    def _layer(self, node: fx.Node, named: dict[str, Any], changed: Tensor, made: Tensor) -> float:
        weight = self._constant(node, named["weight"])
        return self._scaled_layer(node, weight, changed, made)

    def _scaled_layer(self, node: fx.Node, weight: Tensor, changed: Tensor, made: Tensor) -> float:
        """Of a Linear or convolution with other weights."""
        if _kind(node) == "linear":
            _require(changed.ndim > 1, node, "puts several examples together")
            return matrix_norm(weight)
        _require(changed.ndim == weight.ndim, node, "puts several examples together")
        named = self._named(node)
        stride, dilation = (_per_axis(named.get(key, 1), weight.ndim - 2) for key in ("stride", "dilation"))
        return convolution_norm(weight, stride, dilation, named.get("groups", 1), made.shape[2:])

    def _batch_norm(self, node: fx.Node, named: dict[str, Any], changed: Tensor, made: Any) -> float:
        """Of the norm, or of the layer that it alone reads and the norm together."""
        _require(not named.get("training", False), node, "goes by the batch")
        variance = self._constant(node, named["running_var"])
        scale = (variance + named["eps"]).rsqrt()
        if named.get("weight") is not None:
            scale = scale * self._constant(node, named["weight"])
        if not self._is_folded_norm(node):
            return float(scale.abs().max())
        layer = self._source(node)
        weight = self._constant(layer, self._named(layer)["weight"])
        return self._scaled_layer(layer, weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), changed, _flat(made)[0])

    def _maximum(self, node: fx.Node, named: dict[str, Any], changed: Tensor, made: Tensor) -> float:
        dims = _flat(named.get("dim") or [])
        _require(bool(dims) and all(dim % changed.ndim for dim in dims), node, "puts several examples together")
        return 1.0

    def _max_pool(self, node: fx.Node, named: dict[str, Any], changed: Tensor, made: Any) -> float:
        """A number that several windows see may be the largest of each."""
        axes = int(_kind(node)[len("max_pool")])
        _require(changed.ndim == axes + 2, node, "puts several examples together")
        kernel, dilation = (_per_axis(named.get(key, 1), axes) for key in ("kernel_size", "dilation"))
        stride = _per_axis(named.get("stride") or kernel, axes)
        return math.sqrt(windows_over(kernel, stride, dilation))

    def _elu(self, node: fx.Node, named: dict[str, Any], changed: Tensor, made: Tensor) -> float:
        alpha, scale, inner = (abs(float(named.get(key, 1))) for key in ("alpha", "scale", "input_scale"))
        return scale * max(1.0, alpha * inner)

    def _leaky_relu(self, node: fx.Node, named: dict[str, Any], changed: Tensor, made: Tensor) -> float:
        return max(1.0, abs(float(named.get("negative_slope", 0.01))))

    def _prelu(self, node: fx.Node, named: dict[str, Any], changed: Tensor, made: Tensor) -> float:
        return max(1.0, float(self._constant(node, named["weight"]).abs().max()))

    def _scaled(self, node: fx.Node, named: dict[str, Any], changed: Tensor, made: Tensor) -> float:
        """By a constant."""
        first, other = self._first(named), named["other"]
        is_first = isinstance(first, _Value) and first.bound is not None
        is_linear = _kind(node) == "mul" or (is_first and named.get("rounding_mode") is None)
        _require(is_linear, node, "is no product with a constant")
        constant = other if is_first else first
        scale = self._constant(node, constant).abs() if isinstance(constant, _Value) else abs(float(constant))
        largest = float(torch.as_tensor(1 / scale if _kind(node) == "div" else scale).max())
        return largest * _repeated(node, changed, made)

    def _constant(self, node: fx.Node, value: _Value) -> Tensor:
        """In the changed network."""
        _require(value.bound is None, node, "computes with weights that are activations")
        found: Tensor = value.changed
        return found

    # The graph

    def _named(self, node: fx.Node) -> dict[str, Any]:
        """The arguments by name; those that were left out are not there."""
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        given = {argument.name: arg for argument, arg in zip(schema, node.args, strict=False)} | node.kwargs
        return {name: self._argument(arg) for name, arg in given.items()}

    def _first(self, named: dict[str, Any]) -> Any:
        return named.get("self", named.get("input"))

    def _source(self, node: fx.Node) -> fx.Node:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        return source

    def _is_folded_norm(self, node: fx.Node) -> bool:
        """Whether it is a BatchNorm that alone reads a layer."""
        if "batch_norm" not in _kind(node):
            return False
        source = self._source(node)
        if source.op != "call_function" or _kind(source) not in _LAYERS or len(source.users) > 1:
            return False
        return _kind(source) != "linear" or source.meta["val"].ndim == 2

    def _is_folded_layer(self, node: fx.Node) -> bool:
        return any(self._is_folded_norm(user) and self._source(user) is node for user in node.users)

    def _layer_name(self, node: fx.Node) -> str:
        weight = node.args[1]
        assert isinstance(weight, fx.Node)
        key = self.program.graph_signature.inputs_to_parameters.get(weight.name, weight.name)
        return key.removesuffix(".weight")


def _norms(*tensors: Tensor) -> Tensor:
    """B; of all numbers of each example."""
    return torch.cat([tensor.reshape(len(tensor), -1) for tensor in tensors], dim=1).norm(dim=1)


def _root_sum(bounds: Sequence[Tensor | str | None]) -> Tensor:
    """B; of several tensors side by side. Raises _NoBoundError where one has none."""
    for bound in bounds:
        if isinstance(bound, str):
            raise _NoBoundError(bound)
    return torch.stack([bound for bound in bounds if isinstance(bound, Tensor)]).norm(dim=0)


def _repeated(node: fx.Node, read: Tensor, made: Tensor) -> float:
    """The factor that repeating a tensor along other dimensions than the examples' brings. Raises _NoBoundError."""
    _require(read.ndim == made.ndim and len(read) == len(made), node, "puts several examples together")
    return math.sqrt(made.numel() / read.numel())


def _require(holds: bool, node: fx.Node, what: str) -> None:
    if not holds:
        raise _NoBoundError(f"{_where(node)}: {_kind(node)} {what}")


def _kind(node: fx.Node) -> str:
    """`relu` of aten.relu_.default."""
    schema = getattr(node.target, "_schema", None)
    name: str = schema.name.split("::")[1] if schema is not None else getattr(node.target, "__name__", str(node.target))
    return name if name.startswith("_") else name.removesuffix("_")


def _where(node: fx.Node) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return f"module {stack[-1][0]!r}" if stack and stack[-1][0] else "the model"


def _per_axis(value: Any, axes: int) -> tuple[int, ...]:
    """A number for each axis: one may stand for all."""
    numbers = tuple(_flat(value))
    return numbers * axes if len(numbers) == 1 else numbers


def _is_float(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.is_floating_point()


def _is_by_example(tensor: Tensor, examples: int) -> bool:
    return _is_float(tensor) and tensor.ndim > 0 and len(tensor) == examples


def _flat(items: Any) -> list[Any]:
    if isinstance(items, list | tuple):
        return [part for item in items for part in _flat(item)]
    return [items]


def _tracked(args: list[Any]) -> list[_Value]:
    return [value for value in _flat(args) if isinstance(value, _Value) and value.bound is not None]
