"""A network's operations on disk: `program.json`, and its arrays in `program.safetensors` beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapters.graph import Activation, Group, IntArray, Layer, LayerGraph, Read, Span
from adapters.program import Operation, Program, Value
from adapters.runtime.arguments import PerExample, dtype_name, dtype_named, from_json, to_json
from adapters.runtime.operations import operation
from adapters.runtime.rows import ROWS
from formulations.errors import InputError

SCHEMA = "program/1"
_CONSTANT = "constant."
#: Of one tensor and example: beyond any network's, so that no file makes us number more.
_MOST_ELEMENTS = 2**31


class _Arrays:
    """Arrays by number, each once."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._known: dict[tuple[int, bytes], str] = {}

    def note(self, array: IntArray) -> str:
        key = (array.size, np.ascontiguousarray(array, dtype=np.int64).tobytes())
        if key not in self._known:
            self._known[key] = str(len(self._known))
            self.tensors[self._known[key]] = torch.from_numpy(np.array(array, dtype=np.int64))
        return self._known[key]


def written(program: Program) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the two files hold."""
    arrays = _Arrays()
    note, graph = arrays.note, program.graph
    content = {
        "schema": SCHEMA,
        "examples": program.examples,
        "inputs": list(program.inputs),
        "outputs": list(program.outputs),
        "operations": [
            {
                "name": op.name,
                "target": op.target,
                "rule": op.rule,
                "outputs": list(op.outputs),
                "args": to_json(op.args),
                "kwargs": {key: to_json(arg) for key, arg in op.kwargs.items()},
                "layer": op.layer,
            }
            for op in program.operations
        ],
        "values": [
            {
                "name": value.name,
                "sizes": to_json(value.sizes),
                "dtype": dtype_name(value.dtype),
                "dim": value.dim,
                "units": note(value.units),
            }
            for value in program.values.values()
        ],
        "sent": {name: sent for name, sent in program.sent.items() if sent != name},
        "channels": {str(index): note(channels) for index, channels in program.channels.items()},
        "graph": {
            "layers": [
                {
                    "name": layer.name,
                    "activation": layer.activation,
                    "unit": note(layer.unit),
                    "kernel": layer.kernel,
                    "positions": layer.positions,
                    "norm": layer.norm,
                    "value_bytes": layer.value_bytes,
                }
                for layer in graph.layers
            ],
            "activations": [
                {
                    "name": activation.name,
                    "unit": note(activation.unit),
                    "values": note(activation.values),
                    "value_bytes": activation.value_bytes,
                    "made_by": sorted(activation.made_by),
                }
                for activation in graph.activations
            ],
            "reads": [
                {
                    "name": read.name,
                    "activation": read.activation,
                    "channel": note(read.channel),
                    "unit": note(read.unit),
                }
                for read in graph.reads
            ],
            "spans": [{"name": span.name, "units": note(span.units), "bytes": span.bytes} for span in graph.spans],
            "groups": [
                {"name": group.name, "units": note(group.units), "layers": list(group.layers)} for group in graph.groups
            ],
            "inputs": [note(units) for units in graph.inputs],
            "barriers": {name: note(units) for name, units in graph.barriers.items()},
            "unit_macs": note(graph.unit_macs),
            "unit_bytes": note(graph.unit_bytes),
            "warnings": list(graph.warnings),
        },
    }
    constants = {f"{_CONSTANT}{key}": tensor.contiguous() for key, tensor in program.constants.items()}
    return content, arrays.tensors | constants


def read(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Program:
    """What `written` was given. Raises InputError, KeyError, TypeError or ValueError where nothing was."""

    def array(key: str) -> IntArray:
        found: IntArray = tensors[key].numpy()
        if found.dtype != np.int64 or found.ndim != 1:
            raise ValueError(f"array {key} of the program is no list of whole numbers")
        return found

    values = {
        entry["name"]: Value(
            entry["name"],
            tuple(from_json(entry["sizes"])),
            dtype_named(entry["dtype"]),
            entry["dim"],
            array(entry["units"]),
        )
        for entry in content["values"]
    }
    program = Program(
        graph=_graph(content["graph"], array),
        operations=tuple(
            Operation(
                entry["name"],
                entry["target"],
                entry["rule"],
                tuple(entry["outputs"]),
                tuple(from_json(entry["args"])),
                {key: from_json(arg) for key, arg in entry["kwargs"].items()},
                entry["layer"],
            )
            for entry in content["operations"]
        ),
        values=values,
        inputs=tuple(content["inputs"]),
        outputs=tuple(content["outputs"]),
        sent={name: name for name in values} | content["sent"],
        channels={int(index): array(key) for index, key in content["channels"].items()},
        constants={key.removeprefix(_CONSTANT): tensor for key, tensor in tensors.items() if key.startswith(_CONSTANT)},
        examples=content["examples"],
    )
    _check_values(program)
    _check_operations(program)
    _check_graph(program.graph)
    return program


def _check_values(program: Program) -> None:
    """Raises InputError where a tensor has no sizes, or not a unit for each index."""
    _require(program.examples is None or _is_count(program.examples), "examples", program.examples)
    for name, value in program.values.items():
        what = f"tensor {name!r}"
        counts = [size.count if isinstance(size, PerExample) else size for size in value.sizes]
        _require(isinstance(name, str) and all(map(_is_count, counts)), what, value.sizes)
        _require(math.prod(counts) <= _MOST_ELEMENTS, what, value.sizes)
        dim = value.dim
        _require(dim is None or (type(dim) is int and ROWS <= dim < len(counts)), what, dim)
        length = 1 if dim is None else math.prod(counts) if dim == ROWS else counts[dim]
        _require(value.units.size == length, what, f"{value.units.size} units")
        _check_range(what, value.units, -1, program.graph.num_units)
    _require(
        {*program.inputs, *program.outputs, *program.sent.values()} <= set(program.values), "inputs or outputs", ""
    )
    for index, channels in program.channels.items():
        _require(0 <= index < len(program.graph.activations), "channels", index)
        activation = program.graph.activations[index]
        _require(activation.name in program.values, "channels", index)
        _require(channels.size == program.values[activation.name].num_elements, "channels", channels.size)
        _check_range("channels", channels, -1, activation.num_channels)


def _check_operations(program: Program) -> None:
    """Raises InputError where one reads what is not there before it, or may not be run."""
    known = set(program.inputs)
    for op in program.operations:
        what = f"operation {op.name!r}"
        operation(op.target)
        _require(set(op.operands) <= known, what, op.operands)
        _require(all(name is None or name in program.values for name in op.outputs), what, op.outputs)
        _require(any(name is not None for name in op.outputs), what, op.outputs)
        layers = len(program.graph.layers)
        _require((op.rule == "layer") == (type(op.layer) is int and 0 <= op.layer < layers), what, op.layer)
        known.update(name for name in op.outputs if name is not None)
    _require(set(program.outputs) <= known, "outputs", program.outputs)
    found = sorted(op.layer for op in program.operations if op.layer is not None)
    _require(found == list(range(len(program.graph.layers))), "layers", found)


def _check_graph(graph: LayerGraph) -> None:
    """Raises InputError where something is not of the graph's units and activations."""
    units = [*(layer.unit for layer in graph.layers), *(activation.unit for activation in graph.activations)]
    units += [*(read.unit for read in graph.reads), *(span.units for span in graph.spans)]
    units += [*(group.units for group in graph.groups), *graph.inputs, *graph.barriers.values()]
    for array in units:
        _check_range("graph", array, 0, graph.num_units)
    for reader in (*graph.layers, *graph.reads):
        index = reader.activation
        _require(type(index) is int and 0 <= index < len(graph.activations), f"{reader.name!r}", index)
    for layer in graph.layers:
        numbers = (layer.kernel, layer.positions, layer.value_bytes)
        _require(all(map(_is_count, numbers)), f"layer {layer.name!r}", numbers)
    for read in graph.reads:
        _check_range(f"{read.name!r}", read.channel, 0, graph.activations[read.activation].num_channels)
        _require(read.channel.size == read.unit.size, f"{read.name!r}", read.channel.size)
    for activation in graph.activations:
        what = f"activation {activation.name!r}"
        _require(_is_count(activation.value_bytes), what, activation.value_bytes)
        _require(activation.values.size == activation.num_channels, what, activation.values.size)


def _check_range(what: str, array: IntArray, low: int, high: int) -> None:
    _require(
        not array.size or (low <= array.min() and array.max() < high), what, f"a number beyond {low} to {high - 1}"
    )


def _is_count(number: object) -> bool:
    return type(number) is int and number >= 0


def _require(fits: bool, what: str, said: object) -> None:
    if not fits:
        raise InputError(f"{what} of the program does not fit the rest ({said}); make the plan again")


def _graph(content: Mapping[str, Any], array: Callable[[str], IntArray]) -> LayerGraph:
    return LayerGraph(
        layers=tuple(Layer(**{**entry, "unit": array(entry["unit"])}) for entry in content["layers"]),
        activations=tuple(
            Activation(
                entry["name"],
                array(entry["unit"]),
                array(entry["values"]),
                entry["value_bytes"],
                frozenset(entry["made_by"]),
            )
            for entry in content["activations"]
        ),
        reads=tuple(
            Read(entry["name"], entry["activation"], array(entry["channel"]), array(entry["unit"]))
            for entry in content["reads"]
        ),
        spans=tuple(Span(entry["name"], array(entry["units"]), entry["bytes"]) for entry in content["spans"]),
        groups=tuple(
            Group(entry["name"], array(entry["units"]), tuple(entry["layers"])) for entry in content["groups"]
        ),
        inputs=tuple(map(array, content["inputs"])),
        barriers={name: array(key) for name, key in content["barriers"].items()},
        unit_macs=array(content["unit_macs"]),
        unit_bytes=array(content["unit_bytes"]),
        warnings=tuple(content["warnings"]),
    )
